"""Notices code and data files that change while a step runs, even if they change back.

A key is computed when a run is planned, and files are read later. A file that has the same inode, size and time of
change when a step starts and when it ends was not written in between, so the step read what the key describes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from cluster.errors import ClusterError, SourceChangedError
from cluster.steps.code_digests import CodeDigests
from cluster.steps.fingerprint import code_components
from cluster.steps.functions import resolve
from cluster.steps.task_spec import TaskSpec
from cluster.store.files import FileMark, read_marks
from cluster.store.manifest import CODE_PARTS, differences

CLOCK_TICK_NS = 20_000_000
"""File systems count time in ticks of up to 10 ms: two writes within one tick have the same time of change."""
_loaded: dict[Path, FileMark] = {}
"""The code files of all steps of this process, as they were before its first step that uses them."""
_STARTED_NS = time.time_ns()
"""When this process imported this module. A worker does so before it reads a step."""


class SourceFiles:
    """The files from which the key of a step was computed: its code, and the files of its assets on this machine.

    Args:
        spec: The step, which has not started yet.

    Raises:
        ClusterError: a file is not the one that the plan read, or changed since this process loaded it.
    """

    def __init__(self, spec: TaskSpec) -> None:
        # Marks are older than digests, so a write between the two is noticed.
        digests = CodeDigests(spec.key_options.excluded_modules)
        code = digests.marks(spec.run.partition(":")[0])
        locate = resolve(spec.locate)
        files = [path for name in spec.files if (path := locate(name)) is not None]
        self._paths = [*code, *files]
        self._marks = {**read_marks(files), **code}
        _check_code(spec, digests)
        _check_files(spec)
        latest_ns = max((mark.ctime_ns for mark in self._marks.values()), default=0)
        if 0 <= time.time_ns() - latest_ns < CLOCK_TICK_NS:
            time.sleep(CLOCK_TICK_NS / 1e9)
        self.check()
        # Python keeps what it imported, so code that was edited and restored may still be in this process.
        if (late := _imported_late(code)) is not None:
            raise SourceChangedError(late, is_imported=True)
        for path, mark in code.items():
            if _loaded.setdefault(path, mark) != mark:
                raise SourceChangedError(path, is_imported=True)

    def check(self) -> None:
        """Checks that no file was written, added or removed since the step started.

        Raises:
            SourceChangedError: names the first such file.
        """
        marks = read_marks(self._paths)
        for path in {**self._marks, **marks}:
            if self._marks.get(path) != marks.get(path):
                raise SourceChangedError(path)


def _imported_late(code: Mapping[Path, FileMark]) -> Path | None:
    """Returns a code file that no step of this process has used, but which it has imported and was written since.

    The times are those of the file system. If its clock is ahead of the one of this machine, code that was edited just
    before the run may be refused.
    """
    late = [path for path, mark in code.items() if path not in _loaded and mark.ctime_ns > _STARTED_NS - CLOCK_TICK_NS]
    if not late:
        return None
    files = [getattr(module, "__dict__", {}).get("__file__") for module in list(sys.modules.values())]
    imported = {Path(file).resolve() for file in files if isinstance(file, str)}
    return next((path for path in late if path.resolve() in imported), None)


def _check_code(spec: TaskSpec, digests: CodeDigests) -> None:
    before = {name: value for name, value in spec.key.components.items() if name.startswith(CODE_PARTS)}
    changed = differences(before, code_components(spec.run, spec.key_options, digests))
    if changed:
        raise ClusterError(
            f"{'; '.join(str(item) for item in changed)} since this run started.",
            "Run the pipeline again: only steps that depend on this code run again.",
        )


def _check_files(spec: TaskSpec) -> None:
    identify = resolve(spec.identify)
    for name, digest in spec.files.items():
        if identify(name) != digest:
            raise ClusterError(
                f"{name} changed since this run started.",
                "Run the pipeline again: only steps that depend on this file run again.",
            )
