"""Tests of the search with a small model on Ray: trials are steps, which a repetition reads; the winner is a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.run.capacity import Capacity
from cluster.run.result import RunOptions
from cluster.store.garbage import entered_recipes
from cluster.store.location import open_store
from pipelines.cli.views.progress_display import select_output_mode
from pipelines.dag.fewshot import build_steps
from pipelines.run.request import load_request
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe
from pipelines.search import space, trials
from pipelines.search.driver import Difference, SearchResult, difference, search_prompts
from pipelines.search.output import trial_table, write_winner
from stages.common.assets.cache import IDENTIFY, LOCATE
from stages.common.engine import ENGINE
from stages.common.errors import InputError
from tests.support.mlflow_helpers import runs

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
OPTIONS = RunOptions(engine=ENGINE, identify=IDENTIFY, locate=LOCATE, keep_going=True)


@pytest.fixture(autouse=True)
def _small_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves 8 settings: one length and learning rate of each method, with one or two initializations. Two folds."""
    monkeypatch.setattr(trials, "NUM_FOLDS", 2)
    monkeypatch.setattr(space, "LENGTHS", (4,))
    monkeypatch.setattr(space, "RANKS", (2,))
    monkeypatch.setattr(space, "VECTOR_RATES", (0.03,))
    monkeypatch.setattr(space, "NETWORK_RATES", (0.003,))


def search(recipe: Path, store: Path, budget_s: float = 3600.0) -> SearchResult:
    request = load_request(str(recipe), None, store)
    return search_prompts(request, budget_s, OPTIONS, select_output_mode(as_json=False, is_quiet=True))


def names(result: SearchResult, num_steps: int) -> list[str]:
    return [item.trial.candidate.name for item in result.trials if item.trial.num_steps == num_steps]


def test_search_halves_resumes_and_writes_the_winner(
    ray_session: Capacity, searched_recipe: Path, tmp_path: Path
) -> None:
    del ray_session
    stopped = search(searched_recipe, tmp_path / "store", budget_s=0.0)
    assert names(stopped, 30) == ["recipe.tuning"], "the setting of the recipe is always tried"
    assert "of the budget are left" in stopped.ended
    first = search(searched_recipe, tmp_path / "store")
    assert (first.ended, first.num_proposed, first.signal, first.failed) == ("all settings were tried", 8, 0, {})
    short, full = names(first, 10), names(first, 30)
    assert (len(short), len(full)) == (6, 5), (
        "6 settings and the best 2 of them; then the other 2, and that of the recipe"
    )
    assert first.num_executed == 10
    best = sorted((item for item in first.trials if item.trial.num_steps == 10), key=lambda item: item.held_out.rank)
    assert full[1:3] == [item.trial.candidate.name for item in best[:2]]

    again = search(searched_recipe, tmp_path / "store")
    assert again.num_executed == 0
    assert [item.held_out for item in again.trials] == [item.held_out for item in first.trials]
    assert again.winner is not None and again.own is not None
    assert first.winner is not None and again.winner.trial.candidate == first.winner.trial.candidate
    assert again.winner.held_out.rank <= again.own.held_out.rank
    assert again.winner.held_out.rank == min(item.held_out.rank for item in again.trials if item.trial.is_complete)

    store = open_store(tmp_path / "store")
    gain = difference(store, again.winner, again.own)
    assert gain.mean == pytest.approx(again.winner.held_out.accuracy - again.own.held_out.accuracy)
    assert trial_table(again).row_count == len(again.trials)
    written = tmp_path / "elsewhere" / "best.yaml"
    written.parent.mkdir()
    write_winner(read_recipe(searched_recipe, PipelineConfig), again, gain, written)
    assert f"# Accuracy: {100 * again.winner.held_out.accuracy:.1f}%" in written.read_text()
    config = read_recipe(written, PipelineConfig)
    assert config.prompts is not None
    assert [f"prompts/films/{name}/0" for name in config.prompts.methods] == [
        step.name for step in build_steps(config) if step.kind == "prompts"
    ]
    with pytest.raises(InputError, match="exists"):
        write_winner(config, again, Difference(0.0, 0.0), written)

    entered = entered_recipes(store)
    assert set(entered) == {"films.search"}, "gc keeps the trials"
    assert sum(name.startswith("prompt_search/") for name in entered["films.search"].steps) == len(again.trials)

    tracked = runs(store)
    assert tracked["films.search"].data.metrics["train/held_out_accuracy"] == again.winner.held_out.accuracy
    for item in again.trials:
        run = tracked[item.trial.step.name]
        assert run.data.metrics["train/held_out_accuracy"] == pytest.approx(item.held_out.accuracy)
        assert run.data.params.get("prompt.method", "prompt_tuning") == item.trial.candidate.prompt.method, "no default"
        assert float(run.data.params["training.learning_rate"]) == item.trial.candidate.training.learning_rate
