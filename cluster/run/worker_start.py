"""Imported in each worker when it starts, before Ray imports anything else of this program."""

from __future__ import annotations

from cluster.run.own_code import import_own_code_first

import_own_code_first()
