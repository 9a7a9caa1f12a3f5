"""What earlier runs of a store have learned about its MLflow database, so that a run without steps need not open it.

Opening the database and importing MLflow takes seconds. Such a run writes its records and ends; a process of its own
sends them. Only databases on this machine: a server may be away, which a run reports.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cluster.store.files import write_atomic
from cluster.store.lease import locked
from cluster.tracking.server import Destination

FILE = "tracking.json"


@dataclass(frozen=True, slots=True)
class ServerNotes:
    """Notes about one database.

    Args:
        experiments: Name of an experiment -> its id.
        models: Name of a registered model -> the fingerprint of the result that its latest version has.
    """

    experiments: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, destination: Destination) -> ServerNotes:
        """Reads the notes of a store. There are none about a server, or about a database that was replaced."""
        name = _name(destination)
        with suppress(OSError, ValueError, TypeError, AttributeError):
            found = json.loads(_path(destination).read_text(encoding="utf-8")).get(name)
            return cls(**found) if found else cls()
        return cls()

    def add(self, destination: Destination, experiment_id: str, models: Mapping[str, str]) -> None:
        """Writes these notes with what a run has learned. Does nothing for a server.

        Args:
            destination: The database, and the name of the experiment.
            experiment_id: Its id.
            models: The models that the run registered, or found registered.
        """
        if (name := _name(destination)) is None:
            return
        notes = ServerNotes({**self.experiments, destination.experiment: experiment_id}, {**self.models, **models})
        with suppress(OSError), locked(destination.store):  # without notes, the next run opens the database
            write_atomic(_path(destination), json.dumps({name: asdict(notes)}).encode(), sync=False)


def _path(destination: Destination) -> Path:
    return destination.store / FILE


def _name(destination: Destination) -> str | None:
    """Returns the address of a database with its inode; None for a server, or if the database does not exist."""
    if destination.database is None:
        return None
    with suppress(OSError):
        return f"{destination.address} {destination.database.stat().st_ino}"
    return None
