"""Tests of the soft-label stage: weights, calibration, joins on the uid, and disagreements."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stages.common.data.step_outputs import write_logits
from stages.common.errors import DataError
from stages.common.examples import Example, load_examples, write_examples
from stages.common.metrics.classification import softmax
from stages.common.models.averaging import Scaling, calibrate
from stages.soft_labels import stage as soft_labels
from stages.soft_labels.agreement import Agreement
from stages.soft_labels.config import EnsembleConfig, SoftLabelsConfig
from stages.soft_labels.stage import NUM_DISAGREEMENTS, disagreements
from tests.support.stage_runs import LABELS, Kept, logits_of, run, written

NAMES = ("pet/review/0", "pet/summary/0", "probe/mini")


@pytest.fixture
def members(film_data: Path, tmp_path: Path) -> tuple[Path, ...]:
    """Three members with logits of different scale and bias, and of different accuracy on held-out examples."""
    rng = np.random.default_rng(3)
    folders = []
    for number, (scale, accuracy) in enumerate([(4.0, 0.5), (1.0, 1.0), (0.3, 0.25)]):
        folder = tmp_path / f"member{number}"
        folder.mkdir()
        for name, file in (("unlabeled", "unlabeled_logits"), ("test", "test_logits")):
            examples = load_examples(film_data / f"{name}.jsonl")
            write_logits(folder / f"{file}.jsonl", examples, rng.normal(size=(len(examples), 2)) * scale, LABELS)
        examples = load_examples(film_data / "train.jsonl")
        gold = np.array([LABELS.index(item.label or "") for item in examples])
        right = np.arange(len(examples)) < accuracy * len(examples)
        write_logits(folder / "held_out_logits.jsonl", examples, np.eye(2)[np.where(right, gold, 1 - gold)], LABELS)
        content_free = [Example(str(row), {"text": "N/A"}) for row in range(3)]
        write_logits(folder / "content_free_logits.jsonl", content_free, np.array([[scale, 0.0]] * 3), LABELS)
        result = {"held_out_accuracy": accuracy, "num_labeled": 8, "trainable_parameters": 10 + number}
        (folder / "result.json").write_text(json.dumps(result | {"test": {"accuracy": 0.5}}))
        folders.append(folder)
    return tuple(folders)


def config(**settings: object) -> SoftLabelsConfig:
    groups = ("pet", "pet", "probe/mini")
    return SoftLabelsConfig(
        labels=LABELS, members=NAMES, groups=groups, have_priors=(True, True, True), ensemble=EnsembleConfig(**settings)
    )


@pytest.mark.parametrize(
    ("weights", "expected_weights"),
    [
        ("uniform", [1 / 3, 1 / 3, 1 / 3]),
        ("accuracy", [0.5 / 1.75, 1 / 1.75, 0.25 / 1.75]),
        ("balanced", [0.25, 0.25, 0.5]),
    ],
)
def test_soft_labels_are_the_weighted_mean_of_the_members(
    weights: str, expected_weights: list[float], members: tuple[Path, ...], film_data: Path, tmp_path: Path
) -> None:
    inputs = soft_labels.Inputs(data=film_data, members=members)
    recorder = Kept()
    result = run(soft_labels, config(weights=weights), inputs, tmp_path / "out", recorder)
    assert [vote.weight for vote in result.votes] == pytest.approx(expected_weights, abs=1e-6)
    assert {"weights", "disagreements", "per_class"} <= set(recorder.tables)
    assert set(recorder.figures) == {"agreement", "entropy", "confusion"}
    assert [row["weight"] for row in recorder.tables["weights"]] == pytest.approx(expected_weights, abs=1e-6)
    assert 0 < recorder.metrics["unlabeled/entropy"] < 1
    for name, file in (("soft_labels", "unlabeled_logits"), ("test_logits", "test_logits")):
        expected = sum(
            weight * logits_of(member, file) for member, weight in zip(members, expected_weights, strict=True)
        )
        assert logits_of(tmp_path / "out", name) == pytest.approx(expected, abs=2e-5)
    averaged = logits_of(tmp_path / "out", "soft_labels")
    gold = [item.label for item in load_examples(film_data / "unlabeled_gold.jsonl")]
    is_right = [LABELS[index] == label for index, label in zip(averaged.argmax(axis=1), gold, strict=True)]
    assert result.unlabeled.accuracy == pytest.approx(np.mean(is_right), abs=1e-6)
    assert (result.num_labeled, result.num_unlabeled, result.trainable_parameters) == (8, 10, 33)
    rows = [json.loads(line) for line in (tmp_path / "out" / "soft_labels.jsonl").read_text().splitlines()]
    assert [row["uid"] for row in rows] == [item.uid for item in load_examples(film_data / "unlabeled.jsonl")]
    assert {row["label"] for row in rows} == {None}  # no gold label reaches the student


def test_frequencies_of_the_unlabeled_data_change_soft_labels_but_no_held_out_logits(
    members: tuple[Path, ...], film_data: Path, tmp_path: Path
) -> None:
    inputs = soft_labels.Inputs(data=film_data, members=members)
    for member in members:  # most unlabeled examples are fresh
        path = member / "unlabeled_logits.jsonl"
        examples = load_examples(film_data / "unlabeled.jsonl")
        logits = np.array([[0.0, 3.0] if row % 10 else [0.5, 0.0] for row in range(len(examples))])
        write_logits(path, examples, logits, LABELS)
    equal, other = (
        run(soft_labels, config(label_frequencies=kind), inputs, tmp_path / kind, Kept())
        for kind in ("labeled", "unlabeled")
    )
    assert [item.unlabeled for item in equal.label_frequencies] == [0.5, 0.5]
    rare, frequent = other.label_frequencies
    assert rare.labeled == frequent.labeled == 0.5
    assert rare.unlabeled < 0.35
    assert rare.unlabeled + frequent.unlabeled == pytest.approx(1)
    assert other.held_out_accuracy == equal.held_out_accuracy
    for name in ("soft_labels", "test_logits"):
        added = logits_of(tmp_path / "unlabeled", name) - logits_of(tmp_path / "labeled", name)
        assert added == pytest.approx(np.broadcast_to(added[0], added.shape), abs=2e-5)
        assert added[0, 1] > 0 > added[0, 0]


def test_frequencies_without_unlabeled_examples_are_those_of_the_labeled_ones(
    members: tuple[Path, ...], film_data: Path, tmp_path: Path
) -> None:
    for file in (film_data / "unlabeled.jsonl", *(member / "unlabeled_logits.jsonl" for member in members)):
        file.write_text("")
    (film_data / "unlabeled_gold.jsonl").unlink()
    inputs = soft_labels.Inputs(data=film_data, members=members)
    settings = config(label_frequencies="unlabeled", scaling="held_out", calibration="contextual")
    result = run(soft_labels, settings, inputs, tmp_path / "out", Kept())
    assert [item.unlabeled for item in result.label_frequencies] == [0.5, 0.5]
    assert result.num_unlabeled == 0


@pytest.mark.parametrize(
    ("calibration", "reference"), [("contextual", "content_free_logits"), ("unlabeled", "unlabeled_logits")]
)
def test_each_member_is_calibrated_before_averaging(
    calibration: str, reference: str, members: tuple[Path, ...], film_data: Path, tmp_path: Path
) -> None:
    inputs = soft_labels.Inputs(data=film_data, members=members)
    settings = config(calibration=calibration, average="probabilities", temperature=2.0)
    run(soft_labels, settings, inputs, tmp_path / "out")
    calibrated = [calibrate(logits_of(member), logits_of(member, reference)) / 2 for member in members]
    expected = np.log(np.mean([softmax(logits) for logits in calibrated], axis=0))
    assert logits_of(tmp_path / "out") == pytest.approx(expected, abs=2e-5)
    plain = np.log(np.mean([softmax(logits_of(member) / 2) for member in members], axis=0))
    assert abs(expected - plain).max() > 0.02


def test_members_vote_by_their_held_out_logits(members: tuple[Path, ...], film_data: Path, tmp_path: Path) -> None:
    """The second member is right on all labeled examples, the others guess: it alone decides, with its temperature."""
    train = load_examples(film_data / "train.jsonl")
    gold = np.array([LABELS.index(item.label or "") for item in train])
    write_logits(members[1] / "held_out_logits.jsonl", train, np.eye(2)[gold] * 0.1, LABELS)
    inputs = soft_labels.Inputs(data=film_data, members=members)
    settings = config(weights="held_out", scaling="held_out", average="probabilities")
    recorder = Kept()
    result = run(soft_labels, settings, inputs, tmp_path / "out", recorder)
    assert [vote.weight for vote in result.votes] == [0, 1, 0]
    assert result.agreement == Agreement(test=1.0, unlabeled=1.0), "the others have no vote"
    assert result.held_out_accuracy == 1.0
    scaling = Scaling.fit(np.eye(2)[gold] * 0.1, gold, has_bias=True)
    assert recorder.tables["weights"][1]["temperature"] == pytest.approx(scaling.temperature, abs=1e-4)
    expected = scaling(logits_of(members[1]))
    assert softmax(logits_of(tmp_path / "out")) == pytest.approx(softmax(expected), abs=1e-4)


def test_label_model_weights_use_the_unlabeled_data(members: tuple[Path, ...], film_data: Path, tmp_path: Path) -> None:
    """All members are right on the labeled examples. On the unlabeled ones a sub-model and the probe agree."""
    train, unlabeled = (load_examples(film_data / f"{name}.jsonl") for name in ("train", "unlabeled"))
    gold = np.array([LABELS.index(item.label or "") for item in train])
    numbers = np.arange(len(unlabeled))
    columns = numbers % 2, numbers // 2 % 2, numbers % 2
    for member, column in zip(members, columns, strict=True):
        write_logits(member / "held_out_logits.jsonl", train, np.eye(2)[gold], LABELS)
        write_logits(member / "unlabeled_logits.jsonl", unlabeled, np.eye(2)[column], LABELS)
    inputs = soft_labels.Inputs(data=film_data, members=members)
    result = run(soft_labels, config(weights="label_model", scaling="held_out"), inputs, tmp_path / "out")
    submodel, guess, probe = result.votes
    assert submodel.held_out_accuracy == guess.held_out_accuracy == probe.held_out_accuracy == 1.0
    assert submodel.estimated_accuracy > guess.estimated_accuracy
    assert submodel.weight > guess.weight


def test_without_held_out_logits_the_accuracy_is_unknown(
    members: tuple[Path, ...], film_data: Path, tmp_path: Path
) -> None:
    (members[0] / "held_out_logits.jsonl").unlink()
    result = run(soft_labels, config(), soft_labels.Inputs(data=film_data, members=members), tmp_path / "out")
    assert (result.held_out_accuracy, result.num_suspects) == (None, 0)
    assert not (tmp_path / "out" / "suspects.jsonl").exists()


def test_unlabeled_set_without_gold_labels_has_no_score(
    members: tuple[Path, ...], film_data: Path, tmp_path: Path
) -> None:
    (film_data / "unlabeled_gold.jsonl").unlink()
    inputs = soft_labels.Inputs(data=film_data, members=members)
    assert run(soft_labels, config(), inputs, tmp_path / "out").unlabeled is None


@pytest.mark.parametrize("file", ["result.json", "unlabeled_logits.jsonl", "test_logits.jsonl"])
def test_missing_file_of_a_member_raises(file: str, members: tuple[Path, ...], film_data: Path, tmp_path: Path) -> None:
    (members[1] / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"member1/{file}"):
        run(soft_labels, config(), soft_labels.Inputs(data=film_data, members=members), tmp_path / "out")


def reverse_lines(file: Path) -> None:
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))


@pytest.mark.parametrize("calibration", ["none", "unlabeled"])
def test_order_of_rows_does_not_matter(
    calibration: str, members: tuple[Path, ...], film_data: Path, tmp_path: Path
) -> None:
    inputs = soft_labels.Inputs(data=film_data, members=members)
    run(soft_labels, config(calibration=calibration), inputs, tmp_path / "first")
    for file in ("unlabeled_logits.jsonl", "test_logits.jsonl"):
        reverse_lines(members[1] / file)
    reverse_lines(film_data / "unlabeled_gold.jsonl")
    run(soft_labels, config(calibration=calibration), inputs, tmp_path / "reversed")
    assert written(tmp_path / "first") == written(tmp_path / "reversed")


@pytest.mark.parametrize(
    ("file", "uid"), [("member1/unlabeled_logits", "film-104"), ("member2/test_logits", "film-203")]
)
def test_members_with_other_examples_raise(
    file: str, uid: str, members: tuple[Path, ...], film_data: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"{file}.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if uid not in line))
    with pytest.raises(DataError, match=rf"{file}\.jsonl do not match 1[02] examples: the uid '{uid}'"):
        run(soft_labels, config(), soft_labels.Inputs(data=film_data, members=members), tmp_path / "out")


def test_missing_gold_label_raises(members: tuple[Path, ...], film_data: Path, tmp_path: Path) -> None:
    path = film_data / "unlabeled_gold.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match=r"unlabeled_gold\.jsonl has no gold label for the uid 'film-109'"):
        run(soft_labels, config(), soft_labels.Inputs(data=film_data, members=members), tmp_path / "out")


def test_disagreements_start_with_the_fewest_votes() -> None:
    """Three members: they agree on a; b and c are 2 to 1, and the soft label of c is less confident."""
    examples = [Example(uid, {"text": f"text {uid}"}) for uid in "abc"]
    logits = np.array([[[0, 1], [0, 1], [0, 1]], [[0, 1], [1, 0], [1, 0]], [[0, 1], [0, 1], [0, 1]]], dtype=float)
    probabilities = np.array([[0.1, 0.9], [0.3, 0.7], [0.45, 0.55]])
    rows = disagreements(examples, logits, probabilities, LABELS)
    assert [row["text"] for row in rows] == ["text c", "text b", "text a"]
    assert rows[0] == {"text": "text c", "votes": "fresh 2, rotten 1", "soft_label": "fresh 0.55, rotten 0.45"}
    assert rows[2]["votes"] == "fresh 3"
    many = [Example(str(number), {"text": "x"}) for number in range(50)]
    assert len(disagreements(many, np.zeros((2, 50, 2)), np.full((50, 2), 0.5), LABELS)) == NUM_DISAGREEMENTS


def test_label_bias_is_in_the_test_logits_and_not_in_the_soft_labels(
    members: tuple[Path, ...], film_data: Path, tmp_path: Path
) -> None:
    train = load_examples(film_data / "train.jsonl")
    write_examples(film_data / "train.jsonl", [replace(item, label=LABELS[row == 0]) for row, item in enumerate(train)])
    logits = np.array([[1.0, 0.5 if row == 0 else 0.0] for row in range(len(train))])
    for member in members:  # the rare label is never the most probable one
        write_logits(member / "held_out_logits.jsonl", load_examples(film_data / "train.jsonl"), logits, LABELS)
    inputs = soft_labels.Inputs(data=film_data, members=members)
    plain = run(soft_labels, config(), inputs, tmp_path / "plain")
    biased = run(soft_labels, config().model_copy(update={"label_bias": "macro_f1"}), inputs, tmp_path / "biased")
    assert (plain.label_bias, plain.held_out_accuracy, biased.held_out_accuracy) == ((0.0, 0.0), 0.875, 1.0)
    expected = logits_of(tmp_path / "plain") + np.array(biased.label_bias)
    assert logits_of(tmp_path / "biased") == pytest.approx(expected, abs=2e-5)
    files = [(tmp_path / name / "soft_labels.jsonl").read_bytes() for name in ("plain", "biased")]
    assert files[0] == files[1]
