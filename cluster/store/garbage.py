"""Which results a store needs, and the removal of the others.

Every run enters its recipe: its steps and their fingerprints. `gc` keeps these, and what a run that goes on now reads.
A driver that is gone is recognized by its lease, so leftovers of a crash are removed after that lease has expired. If a
result stays, or is to be computed, files of its other attempts are removed an hour after they were replaced or written.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from cluster.errors import StoreError
from cluster.store.base import StaleResult, Store
from cluster.store.files import newest_change, num_bytes, rests_of_removals
from cluster.store.lease import Leases
from cluster.store.retries import budget
from cluster.store.sole_driver import sole_driver

GRACE_S = 3600.0
"""Files that were replaced are kept for this long, because commands other than runs may still read them. So are those
of crashed attempts and interrupted removals, because they may not have crashed.
"""
LEAVE_S = 15.0
"""How long a run that ends tries to remove its entry from a store that fails."""
RECIPES, RUNS = "recipes", "runs"
"""Folders of the store: the last run of each recipe, and the runs that go on now."""
Fingerprints = Mapping[str, str]
"""Step -> fingerprint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnteredRecipe:
    """A recipe as its last run had it.

    Args:
        name: Its name.
        text: The resolved recipe.
        steps: Its steps and their fingerprints.
        entered_at: Seconds since 1970.
    """

    name: str
    text: str
    steps: Fingerprints
    entered_at: float


def enter_recipe(store: Store, name: str, text: str, steps: Fingerprints) -> None:
    """Makes `gc` keep the results of a recipe. Replaces the entry of its previous run."""
    fields = {"text": text, "steps": dict(steps), "entered_at": time.time()}
    store.write(f"{RECIPES}/{quote(name, safe='')}.json", json.dumps(fields, indent=1).encode())


def drop_recipe(store: Store, name: str) -> None:
    """Removes the entry of a recipe, so that `gc` no longer keeps its results."""
    store.remove(f"{RECIPES}/{quote(name, safe='')}.json")


def entered_recipes(store: Store) -> dict[str, EnteredRecipe]:
    """Returns the recipes that runs have entered, by name.

    Raises:
        StoreError: an entry cannot be read, so the results that it needs are unknown.
    """
    recipes = {}
    for file in store.notes(RECIPES):
        name = unquote(file.removesuffix(".json"))
        try:
            fields = json.loads(store.read(f"{RECIPES}/{file}"))
            recipes[name] = EnteredRecipe(name=name, **fields)
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"the entry of recipe {name} in {store.url} cannot be read ({error}).", f"Run the recipe {name} again."
            ) from error
    return recipes


class ActiveRun:
    """The entry of a run that goes on now. Until `keep` is called, `gc` keeps every result for it."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._steps: set[tuple[str, str]] = set()

    def keep(self, steps: Fingerprints) -> None:
        """Names results that the run uses. May be called again with further ones."""
        self._steps |= set(steps.items())
        self._store.write(f"{RUNS}/{self._name}/steps.json", json.dumps(sorted(self._steps)).encode())

    def write_progress(self, data: bytes) -> None:
        """Writes how far the run is, for `progress_of_runs`."""
        self._store.write(f"{RUNS}/{self._name}/progress.json", data)


def progress_of_runs(store: Store) -> Iterator[bytes]:
    """Yields what the runs that go on now have written as their progress."""
    for name in store.notes(RUNS):
        if store.lease(RUNS, name) is not None:
            with suppress(FileNotFoundError):
                yield store.read(f"{RUNS}/{name}/progress.json")


@contextmanager
def active_run(store: Store, leases: Leases) -> Iterator[ActiveRun]:
    """Enters a run that `gc` respects, under a lease that expires if the driver is gone."""
    name = os.urandom(32).hex()
    slot = store.slot(RUNS, name)
    leases.acquire(slot, "the run")
    try:
        yield ActiveRun(store, name)
    finally:
        # The results are committed. If the store does not answer now, the entry expires, and `gc` removes it.
        with suppress(OSError, StoreError), budget(LEAVE_S):
            leases.release(slot)
            store.remove(f"{RUNS}/{name}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Garbage:
    """The results that no entered recipe needs.

    Args:
        removable: What may be removed.
        running: What a driver runs, unless it is gone and its lease expires.
        read: What a run that goes on now may read.
    """

    removable: tuple[StaleResult, ...] = ()
    running: tuple[StaleResult, ...] = ()
    read: tuple[StaleResult, ...] = ()


def find_garbage(store: Store, dropped: Iterable[str] = ()) -> Garbage:
    """Returns the results that no entered recipe needs.

    Args:
        store: The store.
        dropped: Names of recipes whose entries do not count.

    Raises:
        StoreError: no run has entered a recipe, one of `dropped` is unknown, or an entry cannot be read.
    """
    dropped = set(dropped)
    recipes = entered_recipes(store)
    if not recipes:
        raise StoreError(
            f"no run has entered its recipe into {store.url} yet, so the results to keep are unknown.",
            "Run the recipes whose results you need first.",
        )
    if unknown := dropped - recipes.keys():
        raise StoreError(
            f"no run has entered a recipe {', '.join(sorted(unknown))}.", f"Drop one of {', '.join(sorted(recipes))}."
        )
    needed = _needed(store, [recipe for name, recipe in recipes.items() if name not in dropped])
    stale = [
        store.stale_result(step, name)
        for step in store.steps()
        for name in store.fingerprints(step)
        if (step, name) not in needed
    ]
    is_read = _reads_of_runs(store)
    before = time.time() - GRACE_S
    leftovers = (store.leftovers(step, fingerprint, before) for step, fingerprint in sorted(needed))
    stale += [item for item in leftovers if item is not None]
    stale += _rests(store, before)
    read = tuple(item for item in stale if is_read(item))
    running = tuple(item for item in stale if item.owner and not is_read(item))
    return Garbage(
        removable=tuple(item for item in stale if not item.owner and not is_read(item)), running=running, read=read
    )


def collect_garbage(
    store: Store,
    dropped: Iterable[str] = (),
    leases: Leases | None = None,
    pause: Callable[[float], object] = time.sleep,
) -> Garbage:
    """Removes what `find_garbage` returns, each under its lease and manifest first: no reader sees a partial result.

    Waits for the leases of drivers on other machines to expire, so it also removes the leftovers of those that crashed.

    Args:
        store: The store.
        dropped: Names of recipes whose entries are removed.
        leases: Acquires the leases; tests pass their own.
        pause: Waits for some seconds; tests pass their own.

    Returns:
        What was removed (as `removable`), and what is kept.

    Raises:
        StoreError: the store cannot be written. Every result is either removed or complete.
    """
    dropped = tuple(dropped)
    removed, running = [], []
    with leases or Leases() as own, sole_driver(store, own):
        _end_runs_of_dead_drivers(store, own, pause)
        garbage = find_garbage(store, dropped)
        before = time.time() - GRACE_S
        for item in (*garbage.removable, *garbage.running):
            if item.rest is not None:
                _remove_rest(store, item.rest)
                removed.append(item)
                continue
            slot = store.slot(item.step, item.fingerprint)
            if own.wait(slot, item.step, pause):
                if item.is_leftover:
                    store.remove_leftovers(item.step, item.fingerprint, before)
                else:
                    store.delete(item.step, item.fingerprint)
                own.release(slot)
                removed.append(item)
            else:
                running.append(item)
        for name in dropped:
            drop_recipe(store, name)
    return Garbage(removable=tuple(removed), running=tuple(running), read=garbage.read)


def _needed(store: Store, recipes: Iterable[EnteredRecipe]) -> set[tuple[str, str]]:
    """Returns (step, fingerprint) of the results of recipes, or the latest result of a step that has none yet."""
    needed: set[tuple[str, str]] = set()
    for recipe in recipes:
        for step, fingerprint in recipe.steps.items():
            needed.add((step, fingerprint))
            if store.lookup(step, fingerprint) is None and (latest := store.nearest(step, fingerprint)) is not None:
                needed.add((step, latest.fingerprint))
    return needed


def _rests(store: Store, before: float) -> Iterator[StaleResult]:
    """Yields what removals on this machine left that were interrupted before a time."""
    for path in rests_of_removals(store.local):
        if newest_change(path) < before:
            yield StaleResult(
                step=path.parent.relative_to(store.local).as_posix(),
                fingerprint=path.name.strip(".").partition(".")[0],
                num_bytes=num_bytes(path),
                committed_at=None,
                rest=path,
            )


def _remove_rest(store: Store, path: Path) -> None:
    """Removes the rest of a removal, and the folders that are empty then."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    with suppress(OSError):
        while (path := path.parent) != store.local:
            path.rmdir()


def _reads_of_runs(store: Store) -> Callable[[StaleResult], bool]:
    """Returns a function that says if a run that goes on now may read a result."""
    read: set[tuple[str, str]] = set()
    for name in store.notes(RUNS):
        if store.lease(RUNS, name) is None:
            continue
        try:
            steps = json.loads(store.read(f"{RUNS}/{name}/steps.json"))
        except (FileNotFoundError, ValueError):  # it is being planned, and may read anything
            return lambda item: True
        read |= {(step, fingerprint) for step, fingerprint in steps}
    return lambda item: (item.step, item.fingerprint) in read


def _end_runs_of_dead_drivers(store: Store, leases: Leases, pause: Callable[[float], object]) -> None:
    for name in store.notes(RUNS):
        slot = store.slot(RUNS, name)
        if leases.wait(slot, "the run", pause):
            leases.release(slot)
            store.remove(f"{RUNS}/{name}")
