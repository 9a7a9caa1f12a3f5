"""Which prompts a service has: tasks, their versions, the aliases of versions, and the limits of each task.

A request names a version as `TASK@VERSION` or `TASK@ALIAS`. `TASK` alone is `TASK@default`. Each change returns a new
value, so a change that fails has changed nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from stages.common.config import Config, Name
from stages.common.errors import InputError

DEFAULT = "default"
"""The alias of the version that requests get which name only a task."""
SEPARATOR = "@"
VersionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""A version, or an alias of a version."""


class UnknownTaskError(InputError):
    """The service has no such task, version or alias."""


class ConflictError(InputError):
    """The change does not fit what the service has."""


class TaskLimit(Config):
    """Limits of the texts of one task."""

    texts_per_second: float | None = Field(None, gt=0)
    """Texts per second on average. A second without requests saves up for one second."""
    max_waiting: int | None = Field(None, ge=1)
    """Texts that wait or are being predicted at the same time."""


class ServedTask(Config):
    """A task of the service."""

    versions: dict[VersionName, str] = Field(min_length=1)
    """Version -> folder of its prompt."""
    aliases: dict[VersionName, VersionName]
    """Alias -> version."""
    limits: TaskLimit = TaskLimit()
    """Limits of all versions together."""

    @model_validator(mode="after")
    def _aliases_exist(self) -> ServedTask:
        if DEFAULT not in self.aliases:
            raise InputError("a task has no default version.", f"Add the alias {DEFAULT}.", key="aliases")
        for alias, version in self.aliases.items():
            if version not in self.versions or alias in self.versions:
                problem = f"the alias {alias} is a version" if alias in self.versions else f"no version {version!r}"
                raise InputError(f"{problem}.", f"Use one of: {', '.join(self.versions)}.", key="aliases")
        return self


class ServedTasks(Config):
    """All tasks of the service."""

    tasks: dict[Name, ServedTask] = Field(min_length=1)
    """Name -> task."""

    @classmethod
    def of_folders(cls, folders: Mapping[str, str]) -> ServedTasks:
        """Returns tasks with one version each, given their folders."""
        served = {name: ServedTask(versions={"1": path}, aliases={DEFAULT: "1"}) for name, path in folders.items()}
        return cls(tasks=served)

    def task(self, name: str) -> ServedTask:
        """Returns a task.

        Raises:
            UnknownTaskError: there is none of this name.
        """
        if name not in self.tasks:
            raise UnknownTaskError(f"there is no task {name!r}.", f"Use one of: {', '.join(self.tasks)}.")
        return self.tasks[name]

    def with_version(
        self, name: str, folder: str, version: str | None, aliases: Iterable[str], limits: TaskLimit | None
    ) -> tuple[ServedTasks, str]:
        """Adds a version of a task, or a task; returns the name of the version, too.

        Args:
            name: The task.
            folder: Folder of the prompt.
            version: Name of the version; None: the next number.
            aliases: Aliases that move to the version. That of a new task also gets `DEFAULT`.
            limits: New limits; None: those that the task has.

        Raises:
            ConflictError: the version exists with another folder, or a name is an alias and a version.
        """
        known = self.tasks.get(name)
        versions = {} if known is None else known.versions
        number = 1 + max((int(item) for item in versions if item.isdecimal()), default=0)
        version = version or str(number)
        if versions.get(version, folder) != folder:
            raise ConflictError(
                f"{name} has another version {version!r}, of {versions[version]}.",
                "Use another name, or none for the next number.",
                key="version",
            )
        moved = dict.fromkeys((*aliases, *([] if known else [DEFAULT])), version)
        all_aliases = ({} if known is None else known.aliases) | moved
        if both := {version, *versions} & all_aliases.keys():
            raise ConflictError(f"{min(both)!r} is a version and an alias.", "Use another name.", key="version")
        task = ServedTask(
            versions={**versions, version: folder},
            aliases=all_aliases,
            limits=limits or (TaskLimit() if known is None else known.limits),
        )
        return self._with(name, task), version

    def without(self, name: str, version: str | None = None) -> ServedTasks:
        """Removes a task, or one version of it.

        Raises:
            UnknownTaskError: there is no such task or version.
            ConflictError: an alias names the version, or it is the last task.
        """
        task = self.task(name)
        if version is None:
            if len(self.tasks) == 1:
                raise ConflictError(f"{name} is the last task of the service.", "Add another task before.")
            return ServedTasks(tasks={key: item for key, item in self.tasks.items() if key != name})
        self._check_version(name, version)
        aliases = [alias for alias, target in task.aliases.items() if target == version]
        if aliases:
            raise ConflictError(
                f"the alias {aliases[0]} of {name} is version {version!r}.", "Move the alias to another version before."
            )
        kept = {key: path for key, path in task.versions.items() if key != version}
        return self._with(name, task.model_copy(update={"versions": kept}))

    def with_alias(self, name: str, alias: str, version: str) -> ServedTasks:
        """Moves an alias of a task to a version, or adds the alias.

        Raises:
            UnknownTaskError: there is no such task or version.
            ConflictError: the alias is the name of a version.
        """
        task = self.task(name)
        self._check_version(name, version)
        if alias in task.versions:
            raise ConflictError(f"{alias!r} is a version of {name}.", "Use another name.")
        return self._with(name, task.model_copy(update={"aliases": {**task.aliases, alias: version}}))

    def without_alias(self, name: str, alias: str) -> ServedTasks:
        """Removes an alias of a task.

        Raises:
            UnknownTaskError: there is no such task or alias.
            ConflictError: it is `DEFAULT`.
        """
        task = self.task(name)
        if alias not in task.aliases:
            raise UnknownTaskError(f"{name} has no alias {alias!r}.", f"Use one of: {', '.join(task.aliases)}.")
        if alias == DEFAULT:
            raise ConflictError(f"{name} needs a default version.", "Move the alias to another version.")
        kept = {key: version for key, version in task.aliases.items() if key != alias}
        return self._with(name, task.model_copy(update={"aliases": kept}))

    def with_limits(self, name: str, limits: TaskLimit) -> ServedTasks:
        """Replaces the limits of a task.

        Raises:
            UnknownTaskError: there is no such task.
        """
        return self._with(name, self.task(name).model_copy(update={"limits": limits}))

    def _with(self, name: str, task: ServedTask) -> ServedTasks:
        return ServedTasks(tasks={**self.tasks, name: task})

    def _check_version(self, name: str, version: str) -> None:
        versions = self.task(name).versions
        if version not in versions:
            raise UnknownTaskError(f"{name} has no version {version!r}.", f"Use one of: {', '.join(versions)}.")
