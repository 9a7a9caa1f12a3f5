"""Routes that change the tasks of a running service. They need the admin key.

GET    /v1/tasks                            all tasks: versions, aliases, limits
GET    /v1/tasks/{task}                     one task
PUT    /v1/tasks/{task}                     {"folder": ..., "version", "aliases", "limits"}: add a version, or a task
DELETE /v1/tasks/{task}                     remove a task
DELETE /v1/tasks/{task}/versions/{version}  remove a version
PUT    /v1/tasks/{task}/aliases/{alias}     {"version": ...}: move an alias
DELETE /v1/tasks/{task}/aliases/{alias}     remove an alias
PUT    /v1/tasks/{task}/limits              {"texts_per_second", "max_waiting"}: replace the limits

A new version is loaded and tested before requests reach it, and a request that has arrived keeps its version. So no
request fails because of a change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipelines.serving.predictors import Predictor
from pipelines.serving.served_tasks import (
    DEFAULT,
    ConflictError,
    ServedTasks,
    TaskLimit,
    UnknownTaskError,
    VersionName,
)
from pipelines.serving.service import request_parsing
from pipelines.serving.service.batcher import DynamicBatcher
from pipelines.serving.service.middleware import TASKS
from pipelines.serving.service.request_parsing import RequestError
from pipelines.serving.service.task_file import TaskFile
from pipelines.serving.service.task_limits import TaskLimits
from stages.common.config import Config, Name
from stages.common.errors import InputError

if TYPE_CHECKING:
    from pipelines.serving.prompt_predictor import PromptPredictor, VersionTable

MAX_BYTES = 2**16
"""Bytes of the body of a change."""
POLL_S = 1.0
"""Seconds between looks at the file of the tasks."""
_LOG = logging.getLogger(__name__)
_Body = TypeVar("_Body", bound=BaseModel)
_Change = Callable[[ServedTasks], ServedTasks]


class NewVersion(Config):
    """The body of `PUT /v1/tasks/{task}`."""

    folder: str
    """Folder of a prompt, or of the step that trained it, on the machine of the service."""
    version: VersionName | None = None
    """Name of the version. Default: the next number."""
    aliases: tuple[VersionName, ...] = (DEFAULT,)
    """Aliases that move to the version. With an empty list, requests that name only the task do not get it yet."""
    limits: TaskLimit | None = None
    """Limits of the task. Default: as before."""


class MovedAlias(Config):
    """The body of `PUT /v1/tasks/{task}/aliases/{alias}`."""

    version: VersionName
    """The version that the alias names."""


@dataclass(frozen=True, slots=True)
class TaskLoader:
    """Loads the prompts of a service whose tasks can change: those of its file, if there is one.

    Args:
        load_model: Loads the prompts of the command.
        file: The file of the tasks, if they outlive the process.
        limits: Gets the limits of the file.
    """

    load_model: Callable[[], Predictor[Any]]
    file: TaskFile | None
    limits: TaskLimits

    def load(self) -> Predictor[Any]:
        """Loads the model.

        Raises:
            InputError: it is no prompt, or the file or a prompt of it is damaged.
        """
        predictor = _prompts(self.load_model())
        predictor.names_versions = True
        served = self.file.read() if self.file is not None else None
        if served is not None:
            predictor.install(predictor.prepare(served))
            predictor.forget_others()
        self.limits.set(_limits_of(predictor))
        return predictor


@dataclass(slots=True)
class TaskAdmin:
    """The routes, and what keeps the tasks of several processes equal.

    Args:
        queue: The queue of the model, whose thread loads prompts.
        limits: The limits of the tasks.
        key: The key that requests must send.
        find_folder: Returns the folder of a prompt, given it or the folder of its step.
        file: The file of the tasks, if they outlive the process.
    """

    queue: DynamicBatcher
    limits: TaskLimits
    key: str
    find_folder: Callable[[Path], Path]
    file: TaskFile | None = None
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def routes(self) -> list[Route]:
        """Returns the routes."""
        task, version, alias = f"{TASKS}/{{task}}", "versions/{version}", "aliases/{alias}"
        return [
            Route(TASKS, self.list_tasks),
            Route(task, self.get_task, methods=["GET"]),
            Route(task, self.put_task, methods=["PUT"]),
            Route(task, self.delete_task, methods=["DELETE"]),
            Route(f"{task}/{version}", self.delete_version, methods=["DELETE"]),
            Route(f"{task}/{alias}", self.put_alias, methods=["PUT"]),
            Route(f"{task}/{alias}", self.delete_alias, methods=["DELETE"]),
            Route(f"{task}/limits", self.put_limits, methods=["PUT"]),
        ]

    @property
    def num_loaded_prompts(self) -> int:
        """Returns the number of prompts in memory."""
        return self._predictor().num_loaded

    @asynccontextmanager
    async def following_file(self) -> AsyncIterator[None]:
        """Follows the changes that other processes write to the file, inside a `with` block."""
        follower = asyncio.create_task(self._follow()) if self.file is not None else None
        try:
            yield
        finally:
            if follower is not None:
                follower.cancel()
                with suppress(asyncio.CancelledError):
                    await follower

    async def list_tasks(self, request: Request) -> Response:
        """Returns all tasks."""
        del request
        predictor = self._predictor()
        return JSONResponse({**predictor.table.served.model_dump(), "loaded_prompts": predictor.num_loaded})

    async def get_task(self, request: Request) -> Response:
        """Returns one task."""
        return self._task(request)

    async def put_task(self, request: Request) -> Response:
        """Adds a version of a task, or a task."""
        name = _checked_name(request.path_params["task"])
        body = await _body(request, NewVersion, '{"folder": "store/prompts/TASK/METHOD/0"}')
        with _as_request_errors():
            folder = str(self.find_folder(Path(body.folder)).absolute())
        versions: list[str] = []

        def add(served: ServedTasks) -> ServedTasks:
            changed, version = served.with_version(name, folder, body.version, body.aliases, body.limits)
            versions.append(version)
            return changed

        await self._change(add)
        return self._task(request, {"version": versions[-1]})

    async def delete_task(self, request: Request) -> Response:
        """Removes a task, after the requests that have arrived."""
        await self._change(lambda served: served.without(request.path_params["task"]))
        return Response(status_code=204)

    async def delete_version(self, request: Request) -> Response:
        """Removes a version, after the requests that have arrived."""
        task, version = request.path_params["task"], request.path_params["version"]
        await self._change(lambda served: served.without(task, version))
        return self._task(request)

    async def put_alias(self, request: Request) -> Response:
        """Moves an alias."""
        alias = _checked_name(request.path_params["alias"], VersionName)
        body = await _body(request, MovedAlias, '{"version": "1"}')
        await self._change(lambda served: served.with_alias(request.path_params["task"], alias, body.version))
        return self._task(request)

    async def delete_alias(self, request: Request) -> Response:
        """Removes an alias."""
        task, alias = request.path_params["task"], request.path_params["alias"]
        await self._change(lambda served: served.without_alias(task, alias))
        return self._task(request)

    async def put_limits(self, request: Request) -> Response:
        """Replaces the limits of a task."""
        body = await _body(request, TaskLimit, '{"texts_per_second": 100, "max_waiting": 500}')
        await self._change(lambda served: served.with_limits(request.path_params["task"], body))
        return self._task(request)

    def _predictor(self) -> PromptPredictor:
        if self.queue.predictor is None:
            raise RequestError(503, "the model is still loading.", "Retry later.", retry_after_s=5)
        return _prompts(self.queue.predictor)

    def _task(self, request: Request, more: dict[str, str] | None = None) -> Response:
        with _as_request_errors():
            task = self._predictor().table.served.task(request.path_params["task"])
        return JSONResponse({"task": request.path_params["task"], **task.model_dump(), **(more or {})})

    async def _change(self, change: _Change) -> None:
        """Changes the tasks: first loads what is new, then lets requests see it, then drops what is gone."""
        self._predictor()
        async with self._changing:
            with _as_request_errors():
                await self._install(lambda predictor: self._prepared(predictor, change))

    def _prepared(self, predictor: PromptPredictor, change: _Change) -> VersionTable:
        """Returns the tasks after a change, and writes them to the file. Runs in the thread of the model."""
        with nullcontext() if self.file is None else self.file.locked():
            served = predictor.table.served
            if self.file is None:
                return predictor.prepare(change(served))
            try:
                if self.file.has_changed:
                    served = self.file.read() or served
                table = predictor.prepare(change(served))
                self.file.write(table.served)
            except Exception:  # a change of another process that was read is not served yet
                self.file.forget()
                raise
            return table

    async def _install(self, prepare: Callable[[PromptPredictor], VersionTable]) -> None:
        table = await self.queue.run(lambda predictor: prepare(_prompts(predictor)))
        predictor = self._predictor()
        predictor.install(table)
        self.limits.set(_limits_of(predictor))
        # The queue is in order: when this is done, the requests that came before the change are answered.
        await self.queue.run(lambda predictor: _prompts(predictor).forget_others())

    async def _follow(self) -> None:
        assert self.file is not None
        last_problem = ""
        while True:
            await asyncio.sleep(POLL_S)
            if self.queue.predictor is None or not self.file.has_changed:
                continue
            async with self._changing:
                try:
                    await self._install(self._prepared_from_file)
                    last_problem = ""
                except (
                    InputError,
                    OSError,
                ) as error:  # tried again: a shared disk may show the folder of a prompt later
                    self.file.forget()
                    if str(error) != last_problem:
                        last_problem = str(error)
                        _LOG.error("the tasks of %s cannot be served: %s", self.file.path, error)

    def _prepared_from_file(self, predictor: PromptPredictor) -> VersionTable:
        assert self.file is not None
        return predictor.prepare(self.file.read() or predictor.table.served)


def _limits_of(predictor: PromptPredictor) -> dict[str, TaskLimit]:
    return {name: task.limits for name, task in predictor.table.served.tasks.items()}


def _prompts(predictor: Predictor[Any]) -> PromptPredictor:
    from pipelines.serving.prompt_predictor import PromptPredictor  # noqa: PLC0415  (loads torch)

    if not isinstance(predictor, PromptPredictor):
        raise InputError(
            "only the tasks of prompts can change while a service runs.", "Unset CLOZELINE_ADMIN_KEY for this model."
        )
    return predictor


async def _body(request: Request, kind: type[_Body], example: str) -> _Body:
    body = await request_parsing.read_body(request.stream(), MAX_BYTES)
    values = request_parsing.json_object(body, example)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise RequestError(422, f"{first['msg']}.", f"Send {example}.", place) from None


def _checked_name(name: str, kind: Any = Name) -> str:
    try:
        return str(TypeAdapter(kind).validate_python(name))
    except ValidationError:
        raise RequestError(
            422, f"{name!r} is not a name.", "Use letters, digits, `_`, `.` and `-`; for tasks, in lower case."
        ) from None


@contextmanager
def _as_request_errors() -> Iterator[None]:
    """Turns errors of the user into responses."""
    try:
        yield
    except InputError as error:
        status = {UnknownTaskError: 404, ConflictError: 409}.get(type(error), 422)
        raise RequestError(status, error.problem, error.remedy, error.key) from None
