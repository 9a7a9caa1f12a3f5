"""Bad input: found in seconds, before anything is trained, and said with file, line, key and remedy."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from pipelines.preflight.assets import fetch
from pipelines.preflight.checks import check_recipe
from pipelines.preflight.models import check_models
from pipelines.schema.config import PipelineConfig
from pipelines.schema.loader import read_recipe
from pipelines.schema.locations import with_location
from stages.common.errors import InputError
from tests.support.paths import ROOT

IN_TIME_S = 3.0

RECIPE = """\
name: films
task:
  name: films
  labels: [rotten, fresh]
  patterns:
    review: "{text} It was {mask}."
    verdict: "{mask}: {text}"
  verbalizer:
    rotten: {review: [bad], verdict: [dull]}
    fresh: [good, great]
data:
  pool:
    asset: ROOT/films.jsonl
    fields: {text: text}
    label: category
  shots: 4
  unlabeled_size: 10
  test_size: 10
backbone:
  asset: ROOT/backbone
  max_length: 32
student:
  asset: ROOT/backbone
  max_length: 32
pet:
  training: {learning_rate: 0.001, epochs: 6}
distill:
  training: {learning_rate: 0.001, steps: 20}
prompts:
  methods: {random: {num_virtual_tokens: 8, init: {kind: normal}}}
  tasks:
    - pattern: review
    - pattern: kind
      task:
        name: kinds
        labels: [plot, quote]
        patterns: {kind: "{text} is a {mask}"}
        verbalizer: {plot: [story], quote: [review]}
      data:
        pool: {asset: ROOT/kinds.jsonl, label: kind}
        shots: 2
        unlabeled_size: 0
        test_size: 5
  training: {learning_rate: 0.01, steps: 5}
"""

VOCABULARY = ("bad", "dull", "good", "great", "story", "review", "yes", "no", "maybe", "un", "##watch", "##able")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe that is right, with its data and the config and vocabulary of a backbone; nothing loads weights."""
    films = [{"text": f"film number {n}", "category": ("rotten", "fresh")[n % 2]} for n in range(40)]
    kinds = [{"text": f"text number {n}", "kind": ("plot", "quote")[n % 2]} for n in range(20)]
    for name, rows in (("films", films), ("kinds", kinds)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    backbone = tmp_path / "backbone"
    backbone.mkdir()
    shape = {"architectures": ["BertForMaskedLM"], "model_type": "bert", "max_position_embeddings": 64}
    (backbone / "config.json").write_text(json.dumps(shape))
    pieces = ("[UNK]", "[MASK]", *VOCABULARY)
    tokenizer = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(backbone / "tokenizer.json"))
    path = tmp_path / "films.yaml"
    path.write_text(RECIPE.replace("ROOT", str(tmp_path)))
    return path


def complaint(path: Path) -> InputError:
    """What is wrong with the recipe at `path`, found in time."""
    start = time.monotonic()
    try:
        check_recipe(read_recipe(path, PipelineConfig), lambda *what: None)
    except InputError as error:
        assert time.monotonic() - start < IN_TIME_S
        return with_location(error, path)
    raise AssertionError("nothing was found to be wrong")


def change(path: Path, old: str, new: str) -> str:
    """Replaces what occurs once in the recipe; returns the new text."""
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return path.read_text()


def test_a_recipe_that_is_right_passes(recipe: Path) -> None:
    told: list[str] = []
    check_recipe(
        read_recipe(recipe, PipelineConfig), lambda what, done, total: told.append(f"{what}: {done} of {total}")
    )
    assert told[-1] == "checking data, patterns and label words: 1 of 1"


BACKBONE, STUDENT = "backbone:\n  asset: ", "student:\n  asset: "
NO_PACKAGE = "pypi:no-such-package-of-clozeline==1/"
POOL_LINE_1 = "line 1: there is no column"

BAD = [
    # patterns
    ("{text} It was {mask}.", "{text} It was.", "task.patterns.review", "has no {mask}", "exactly once"),
    ("{mask}: {text}", "{mask}: {text} {mask}", "task.patterns.verdict", "has 2 masks", "exactly once"),
    ("{mask}: {text}", "{mask}: {body}", "data.pool.fields", "the field 'body'", "body: COLUMN"),
    ("{text} is a {mask}", "{body} is a {mask}", "prompts.tasks.1.data.pool", "the field 'body'", "COLUMN"),
    # data
    ("fields: {text: text}", "fields: {text: body}", "data.pool", f"{POOL_LINE_1} 'body'", "text, category"),
    ("label: category", "label: kind", "data.pool", f"{POOL_LINE_1} 'kind'", "text, category"),
    ("labels: [rotten, fresh]", "labels: [rotten, fresh, odd]", "task.verbalizer", "label 'odd'", "odd: {review"),
    ("labels: [plot, quote]", "labels: [plot, book]", "prompts.tasks.1.task.verbalizer.quote", "'quote'", "spelling"),
    ("label: kind}", "label: kind, label_map: {plot: s}}", "prompts.tasks.1.data.pool", "line 1: the label", "_name"),
    ("shots: 4", "shots: 40", "data.shots", "40 examples a class", "Lower data.shots"),
    ("_size: 10\n  test", "_size: 100\n  test", "data.unlabeled_size", "100 unlabeled", "Lower data.unlabeled_size"),
    ("shots: 2\n", "shots: 20\n", "prompts.tasks.1.data.shots", "20 examples a class", "Lower"),
    # label words
    ("verdict: [dull]", "verdict: [映画]", "task.verbalizer.rotten", "'映画' of 'rotten' is not in", "another"),
    ("[good, great]", "[good, 映画]", "task.verbalizer.fresh", "'映画' of 'fresh' is not in", "another"),
    ("quote: [review]", "quote: [映画]", "prompts.tasks.1.task.verbalizer.quote", "is not in", "another"),
    ("{mask}: {text}", "{mask}: {text} {soft:3}", "task.patterns.verdict", "has a soft block", "Take {soft:...} out"),
    ("rotten: {review: [bad]", "rotten: {review: [great, good]", "task.verbalizer", "same words", "of its own"),
    # keys
    ("shots: 4", "shotz: 4", "data.shotz", "unknown key 'shotz'", "Did you mean 'shots'?"),
    # assets
    ("films.jsonl", "flims.jsonl", "data.pool.asset", "flims.jsonl' does not exist", "Correct the path"),
    (BACKBONE, f"{BACKBONE}{NO_PACKAGE}", "backbone.asset", "cannot be reached", "hf:ORG/NAME"),
    (BACKBONE, f"{BACKBONE}http://127.0.0.1:9/", "backbone.asset", "cannot be reached", "a path"),
    (STUDENT, f"{STUDENT}pypi:six/", "student.asset", "not a package reference", "NAME==VERSION"),
    # lengths
    ("32\nstudent", "57\nstudent", "backbone.max_length", "57 tokens behind a prompt of 8 vectors are more", "to 56"),
    ("32\npet", "65\npet", "student.max_length", "65 tokens are more than the 64 positions", "to 64"),
]  # fmt: skip
"""What is replaced, by what; key, problem and remedy of the complaint."""


@pytest.mark.parametrize(("old", "new", "key", "problem", "remedy"), BAD, ids=[f"{row[2]}-{row[3]}" for row in BAD])
def test_bad_input_is_found_at_its_line(
    old: str, new: str, key: str, problem: str, remedy: str, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(recipe.parent / "cache"))
    text = change(recipe, old, new)
    error = complaint(recipe)
    assert error.key.startswith(key)
    assert problem in error.problem
    assert remedy in error.remedy
    file, _, line = error.where.rpartition(":")
    assert file == str(recipe)
    shown = text.splitlines()[int(line) - 1].strip()
    before = RECIPE.replace("ROOT", str(recipe.parent))
    assert shown not in before or shown.partition(":")[0] in error.key.split("."), "the changed line, or the key's"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "  ", "category": "fresh"}', "the field 'text' is empty"),
        ('{"category": "fresh"}', "there is no column 'text'"),
        ('{"text": "fine", "category": "stale"}', "the label 'stale' is not in labels"),
        ('{"text": "fine", "category": "fresh"', "not JSON"),
        ('{"text": "fi\xe9ne", "category": "fresh"}', "not UTF-8"),
    ],
)
def test_a_wrong_line_of_a_data_file_is_named(line: str, problem: str, recipe: Path) -> None:
    data = recipe.parent / "films.jsonl"
    data.write_bytes(data.read_bytes() + line.encode("latin-1") + b"\n")
    error = complaint(recipe)
    assert error.problem.startswith("films.jsonl, line 41: ")
    assert problem in error.problem
    assert error.key == "data.pool"
    assert error.where == f"{recipe}:12"
    assert error.remedy


CAUSAL = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}


def test_a_causal_backbone_takes_text_behind_the_mask(recipe: Path) -> None:
    (recipe.parent / "backbone" / "config.json").write_text(json.dumps(CAUSAL))
    told: list[str] = []
    check_recipe(
        read_recipe(recipe, PipelineConfig), lambda what, done, total: told.append(f"{what}: {done} of {total}")
    )
    assert told[-1] == "checking data, patterns and label words: 1 of 1", "and nothing was found to be wrong"


@pytest.mark.parametrize(
    ("override", "key", "problem"),
    [
        ("task.decoding=parallel", "task.decoding", "an order of masks"),
        ("pet.mlm={}", "pet.mlm", "for masked models"),
    ],
)
def test_what_only_masked_models_can_do_is_refused_for_others(
    override: str, key: str, problem: str, recipe: Path
) -> None:
    check_recipe(read_recipe(recipe, PipelineConfig, [override]), lambda *what: None)
    (recipe.parent / "backbone" / "config.json").write_text(json.dumps(CAUSAL))
    for only_cached in (False, True):
        with pytest.raises(InputError, match=problem) as caught:
            check_models(read_recipe(recipe, PipelineConfig, [override]), only_cached=only_cached)
        assert caught.value.key == key
        assert caught.value.remedy


SOFT = 'task.patterns.verdict="{text} {soft:2} {mask}"'
AS_PROMPTS = ("pet.tune=prompt", "pet.training={learning_rate: 0.01, steps: 2}")


@pytest.mark.parametrize(
    ("overrides", "key", "problem"),
    [
        (("pet.patterns=[verdict]", "pet.prompt={hard_prompt_steps: 2}"), "pet.prompt", "'verdict' has none"),
        (
            ("pet.patterns=[review]", "pet.prompt={num_virtual_tokens: 40}"),
            "backbone.max_length",
            "a prompt of 40 vectors",
        ),
    ],
)
def test_prompts_of_submodels_are_checked_before_anything_runs(
    overrides: tuple[str, ...], key: str, problem: str, recipe: Path
) -> None:
    soft = (SOFT, *AS_PROMPTS, "pet.patterns=[review, verdict]")
    check_recipe(read_recipe(recipe, PipelineConfig, soft), lambda *what: None)
    words = (SOFT if "verdict" in overrides[0] else "name=other", *AS_PROMPTS, *overrides)
    with pytest.raises(InputError, match=problem) as caught:
        check_recipe(read_recipe(recipe, PipelineConfig, words), lambda *what: None)
    assert caught.value.key == key


def test_deep_prompts_are_refused_where_attention_cannot_take_them(recipe: Path) -> None:
    deep = ("prompts.methods={v2: {method: p_tuning_v2}}",)
    check_recipe(read_recipe(recipe, PipelineConfig, deep), lambda *what: None)
    path = recipe.parent / "backbone" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "deberta-v2"}))
    with pytest.raises(InputError, match="takes no deep prompt") as caught:
        check_models(read_recipe(recipe, PipelineConfig, deep))
    assert caught.value.key == "prompts.methods.v2"


def test_words_are_searched_only_where_a_causal_model_reads_one_token(recipe: Path) -> None:
    (recipe.parent / "backbone" / "config.json").write_text(json.dumps(CAUSAL))
    words = ["task.verbalizer={}", "verbalizer_search={}", "prompts=null"]
    with pytest.raises(InputError, match="words cannot be searched for pattern 'review'") as caught:
        check_models(read_recipe(recipe, PipelineConfig, words))
    assert caught.value.key == "task.patterns.review"


def test_a_plan_passes_over_models_that_are_not_there(recipe: Path) -> None:
    (recipe.parent / "backbone" / "config.json").write_text(json.dumps(CAUSAL))
    there = read_recipe(recipe, PipelineConfig, ["pet.mlm={}"])
    with pytest.raises(InputError, match="for masked models"):
        check_models(there, only_cached=True)
    elsewhere = there.model_copy(update={"backbone": there.backbone.model_copy(update={"asset": "hf:org/nowhere"})})
    assert check_models(elsewhere, only_cached=True) is None


def test_a_student_that_pools_what_says_nothing_is_refused_before_anything_runs(recipe: Path) -> None:
    (recipe.parent / "backbone" / "config.json").write_text(json.dumps(CAUSAL))
    overrides = [f"student={{asset: '{recipe.parent / 'backbone'}', max_length: 32, pooling: cls}}"]
    with pytest.raises(InputError, match="reads nothing but itself") as caught:
        check_recipe(read_recipe(recipe, PipelineConfig, overrides), lambda *what: None)
    assert caught.value.key == "student.pooling"


def _no_head(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (_no_head, "is a BertModel, which has no language-model head"),
        (_no_config, "holds no readable config.json"),
        (_broken_tokenizer, "tokenizer"),
    ],
)
def test_a_backbone_that_is_none_is_refused(damage: Callable[[Path], None], problem: str, recipe: Path) -> None:
    damage(recipe.parent / "backbone")
    error = complaint(recipe)
    assert error.key == "backbone.asset"
    assert error.where == f"{recipe}:20"
    assert problem in error.problem
    assert error.remedy


def test_a_backbone_without_tokenizer_is_refused(recipe: Path) -> None:
    _no_tokenizer(recipe.parent / "backbone")
    error = complaint(recipe)
    assert error.key == "backbone.asset"
    assert "holds no tokenizer" in error.problem
    assert "tokenizer.json" in error.remedy


RUN = """
import sys, time
from pathlib import Path
start = time.monotonic()
from pipelines.schema.config import PipelineConfig
from pipelines.preflight.checks import check_recipe
from pipelines.schema.locations import with_location
from pipelines.schema.loader import read_recipe
from stages.common.errors import InputError
path = Path(sys.argv[1])
try:
    check(read_recipe(path, PipelineConfig), lambda *what: None)
except InputError as error:
    print(f"{time.monotonic() - start:.2f}", locate(error, path))
"""


@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize("place", ["backbone", "student"])
def test_a_hub_that_cannot_be_reached_is_said_in_time(place: str, answers: bool, recipe: Path) -> None:
    """From a fresh interpreter, imports included: once refused, once never answered."""
    text = change(recipe, f"{place}:\n  asset: {recipe.parent}/backbone", f"{place}:\n  asset: hf:org/model")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1] if answers else 9}"
        settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(recipe.parent / "hub"), "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-c", RUN, str(recipe)]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, timeout=60, check=True
        )
    seconds, _, message = done.stdout.partition(" ")
    line = text.splitlines().index("  asset: hf:org/model") + 1
    assert message.startswith(f"{recipe}:{line}: {place}.asset: hf:org/model cannot be reached (")
    assert "pypi:NAME==VERSION/PATH" in message
    assert float(seconds) < IN_TIME_S + 1, "one second more for imports on a busy machine"


class Slow(BaseHTTPRequestHandler):
    """Answers after a while."""

    def do_HEAD(self) -> None:
        time.sleep(0.4)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(b"{}")

    def log_message(self, *words: object) -> None:
        del words


def test_all_assets_are_asked_for_at_once(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six that answer slowly, and a seventh that cannot be reached."""
    monkeypatch.setenv("CLOZELINE_CACHE", str(recipe.parent / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        wanted = {f"good.{n}": f"http://127.0.0.1:{server.server_port}/{n}.jsonl" for n in range(6)}
        start = time.monotonic()
        with pytest.raises(InputError, match=r"^bad\.asset: http://127\.0\.0\.1:9/x\.jsonl cannot be reached"):
            fetch({**wanted, "bad.asset": "http://127.0.0.1:9/x.jsonl"}, lambda *what: None)
        assert time.monotonic() - start < IN_TIME_S
        server.shutdown()


def test_what_is_missing_is_fetched_and_told(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOZELINE_CACHE", str(recipe.parent / "cache"))
    told: list[str] = []
    wanted = {"data.pool.asset": (recipe.parent / "films.jsonl").as_uri()}
    fetch(wanted, lambda what, done, total: told.append(what))
    fetch(wanted, lambda what, done, total: told.append(what))
    fetches = [what for what in told if what.startswith("fetching")]
    assert fetches == [f"fetching {wanted['data.pool.asset']}"]
