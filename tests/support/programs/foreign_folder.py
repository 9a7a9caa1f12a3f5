"""Runs one step, and prints which files its worker imported and how the step ended."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cluster.run.result import RunOptions
from cluster.run.scheduler import execute
from cluster.store.location import open_store
from stages.common.engine import ENGINE
from tests.support.steps import imports, toy

if __name__ == "__main__":
    result = execute([toy("imports", fn=imports)], open_store(Path(sys.argv[1])), RunOptions(engine=ENGINE, num_cpus=1))
    errors = [str(error) for error in result.errors.values()]
    files = {name: manifest.result for name, manifest in result.manifests.items()}
    sys.stdout.write(f"\nresult {json.dumps({'files': files, 'errors': errors})}\n")
