"""Tasks, versions and aliases of a service."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipelines.serving.served_tasks import ConflictError, ServedTasks, TaskLimit, UnknownTaskError
from stages.common.errors import InputError

START = ServedTasks.of_folders({"films": "/a", "news": "/n"})


def test_versions_are_numbered_and_the_new_one_is_the_default() -> None:
    served, version = START.with_version("films", "/b", None, ["default"], None)
    assert (version, served.tasks["films"].versions) == ("2", {"1": "/a", "2": "/b"})
    assert served.tasks["films"].aliases == {"default": "2"}
    assert START.tasks["films"].aliases == {"default": "1"}, "the old value has not changed"
    kept, _ = served.with_version("films", "/c", "rc", ["candidate"], TaskLimit(max_waiting=3))
    assert kept.tasks["films"].aliases == {"default": "2", "candidate": "rc"}
    assert kept.tasks["films"].limits.max_waiting == 3
    assert kept.with_version("films", "/d", None, [], None)[1] == "3"


def test_the_same_version_may_be_added_again() -> None:
    again, version = START.with_version("films", "/a", "1", ["default"], None)
    assert (again, version) == (START, "1")


def test_the_first_version_of_a_task_is_its_default() -> None:
    served, _ = START.with_version("mail", "/m", "7", [], None)
    assert served.tasks["mail"].aliases == {"default": "7"}


def test_an_alias_moves_back() -> None:
    served, _ = START.with_version("films", "/b", None, ["default"], None)
    assert served.with_alias("films", "default", "1").tasks["films"].aliases == {"default": "1"}
    named = served.with_alias("films", "champion", "1")
    assert named.without_alias("films", "champion") == served
    assert named.with_limits("films", TaskLimit(texts_per_second=2)).tasks["films"].limits.texts_per_second == 2


def test_versions_and_tasks_are_removed() -> None:
    served, _ = START.with_version("films", "/b", None, ["default"], None)
    assert served.without("films", "1").tasks["films"].versions == {"2": "/b"}
    assert set(served.without("news").tasks) == {"films"}


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda tasks: tasks.without("mail"), UnknownTaskError, "no task 'mail'"),
        (lambda tasks: tasks.without("films", "9"), UnknownTaskError, "no version '9'"),
        (lambda tasks: tasks.without("films", "1"), ConflictError, "alias default of films is version '1'"),
        (lambda tasks: tasks.without("news").without("films"), ConflictError, "last task"),
        (lambda tasks: tasks.with_version("films", "/b", "1", [], None), ConflictError, "another version '1'"),
        (lambda tasks: tasks.with_version("films", "/b", "default", [], None), ConflictError, "a version and an alias"),
        (lambda tasks: tasks.with_alias("films", "x", "9"), UnknownTaskError, "no version '9'"),
        (lambda tasks: tasks.with_alias("films", "1", "1"), ConflictError, "'1' is a version"),
        (lambda tasks: tasks.without_alias("films", "x"), UnknownTaskError, "no alias 'x'"),
        (lambda tasks: tasks.without_alias("films", "default"), ConflictError, "needs a default version"),
    ],
)  # fmt: skip
def test_a_change_that_does_not_fit_is_an_error(
    change: Callable[[ServedTasks], object], kind: type[InputError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        change(START)
    assert caught.value.remedy


@pytest.mark.parametrize("aliases", [{}, {"default": "9"}, {"default": "1", "1": "1"}])
def test_a_file_with_wrong_aliases_is_an_error(aliases: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="version"):
        ServedTasks.model_validate({"tasks": {"films": {"versions": {"1": "/a"}, "aliases": aliases}}})
