"""Runs steps whose code is edited and restored after it was planned, and prints how each of them ended.

The packages are written to the folder FOLDER, which must be on the Python path: edited_code.py FOLDER
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from cluster.run.ray_session import session
from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.steps.plan import plan
from cluster.steps.step import Step
from cluster.store.location import open_store
from stages.common.engine import ENGINE
from tests.support.steps import Config

VALUE = "from pydantic import BaseModel\nclass Config(BaseModel, frozen=True):\n    pass\nVALUE = 1\n"
RESTORE = VALUE.replace("1", "222") + f"from pathlib import Path\nPath(__file__).write_text({VALUE!r})\n"
"""Code that restores its own file when it is imported."""
READ = """
def run(config, inputs, out, recorder, engine):
    from {name} import values
    return {{"value": values.VALUE}}
"""
EDIT = """
from pathlib import Path
def run(config, inputs, out, recorder, engine):
    path = Path(__file__).with_name("values.py")
    before = path.read_text()
    path.write_text(before.replace("1", "222"))
    from {name} import values
    path.write_text(before)
    return {{"value": values.VALUE}}
"""


def step_of(folder: Path, name: str, code: str) -> Step:
    """Writes a package with one step, and returns the step. The config is an object of its module `values`."""
    package = folder / name
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "values.py").write_text(VALUE)
    (package / "step.py").write_text(code.format(name=name))
    importlib.invalidate_caches()
    config = importlib.import_module(f"{name}.values").Config() if code is READ else Config()
    return Step(name=name, run=f"{name}.step:run", config=config)


def main(folder: Path) -> None:
    """Prints the results and the errors."""
    store, options = open_store(folder / "store"), RunOptions(engine=ENGINE, num_cpus=1, keep_going=True)
    found = {}
    with session(num_cpus=1):
        for name, code in {"unchanged": READ, "while_it_runs": EDIT, "before_it_starts": READ}.items():
            planned = plan([step_of(folder, name, code)], store)
            if name == "before_it_starts":
                (folder / name / "values.py").write_text(RESTORE)
            result = execute(planned, store, options)
            found[name] = {
                "results": [manifest.result for manifest in result.manifests.values()],
                "errors": [str(error) for error in result.errors.values()],
            }
    sys.stdout.write(f"\nresult {json.dumps(found)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
