"""The data that a step reads or makes, as MLflow shows it: name, digest, where it lies, what it is for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.masking import masked

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

MAX_DIGEST = 32
"""MLflow keeps up to 36 characters of a digest; the first half of a sha256 tells files apart as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """One file of data. `digest` is its sha256 in hex, `context` what it is for, such as train; `address` where it
    lies, a path or URL; `num_rows` how many examples it has, if that is known.
    """

    name: str
    digest: str
    context: str
    address: str
    num_rows: int | None = None

    def entity(self) -> DatasetInput:
        """As MLflow stores it. `mlflow.data.get_source` finds the file again."""
        from mlflow.entities import Dataset as Entity
        from mlflow.entities import DatasetInput, InputTag

        scheme = self.address.partition("://")[0] if "://" in self.address else "local"
        about = Entity(
            name=self.name,
            digest=self.digest[:MAX_DIGEST],
            source_type=scheme,
            source=json.dumps({"uri": masked(self.address)}),
            profile=None if self.num_rows is None else json.dumps({"num_rows": self.num_rows}),
        )
        return DatasetInput(about, [InputTag("mlflow.data.context", self.context)])


DatasetsOf = Callable[[str], Sequence[Dataset]]
"""Name of a step -> the data that it reads or has made, as far as it is there."""


def none_of(step: str) -> Sequence[Dataset]:
    """For those who have no data to show."""
    del step
    return ()
