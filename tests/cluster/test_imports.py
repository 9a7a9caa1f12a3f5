"""A plan must answer in a second: what it needs may not draw in anything heavy, nor import a stage to digest it."""

import subprocess
import sys

CODE = """
import sys
import cluster.errors, cluster.steps.fingerprint, cluster.run.result, cluster.steps.plan, cluster.run.scheduler
import cluster.steps.code_digests, cluster.steps.step, cluster.store.base, cluster.tracking.tracker
cluster.steps.code_digests.CodeDigests().of("stages.common.protocols")
heavy = {"ray", "mlflow", "torch", "numpy", "pandas", "pydantic", "deepspeed", "stages", "pipelines"}
print(*sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""


def test_planning_draws_in_nothing_heavy() -> None:
    shown = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == []
