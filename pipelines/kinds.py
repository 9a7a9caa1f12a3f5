"""The kinds of steps: what each kind means to the DAG, the report, charts, tracking and the ensemble.

A step carries its kind (`Step.kind`), and its own facts as labels (`Step.labels`). No code parses the name of a step.
Labels of steps:

row         name of its row on the leaderboard; steps that differ only in their seed share a row
seed        the seed of the recipe, for kinds with `has_seed`
student     name of the student, of distillation and baseline steps
model       kind of that student: `encoder` or `tfidf`
task        name of the task, of data and prompt steps
pattern     name of the pattern
member      kind of member for balanced weights: `pet`, `pet/<member>`, or the name of the step
generation  number of the generation of iPET, from 0
method      name of the prompt method, of the method of chain of thought, or of the summary of patterns
format      format of prompt pretraining

Steps of the kind `prompt_search` are trials of `clozeline recommend --search`. No run of a recipe has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.palette import BLUE, BROWN, DARK_BLUE, DARK_BROWN, DARK_GRAY, GRAY, GREEN, PURPLE, RED, YELLOW

SETS = ("train", "dev", "unlabeled", "test")
"""The sets of a task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepKind:
    """What a kind of step means.

    Args:
        color: Color in the leaderboard plot and in graphs.
        row: Name of the kind on the leaderboard. Empty if its steps have no row.
        reads: Sets that influence its results.
        votes: Whether its steps can be members of the ensemble.
        has_prior: Whether its logits prefer some labels whatever the text is, as those of language models do.
        has_seed: Whether steps of one row differ in a seed.
        is_classifier: Whether its steps train a classifier that needs no language model, in the folder `model/`. The
            report selects one of them to use.
        report_position: Position of its steps in the report. None if the report does not read them.
        is_lightweight: Whether its steps compute so little that half a CPU core is enough.
        only_validates: Whether its steps train the models of a cross-validation only, and keep none.
        pretrained_to: For prompt pretraining: format -> what its prompts learn, after "learned to".
    """

    color: str
    row: str = ""
    reads: tuple[str, ...] = SETS
    votes: bool = False
    has_prior: bool = False
    has_seed: bool = False
    is_classifier: bool = False
    report_position: int | None = None
    is_lightweight: bool = False
    only_validates: bool = False
    pretrained_to: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_measured(self) -> bool:
        """Returns True if the report reads its steps."""
        return self.report_position is not None

    @property
    def fans_out(self) -> bool:
        """Returns True if a recipe has many of its steps, which compute the same with other patterns and seeds."""
        return self.has_seed


KINDS: Mapping[str, StepKind] = {
    "data": StepKind(color=GRAY, report_position=0, is_lightweight=True),
    "probe": StepKind(color=RED, row="probe", votes=True, is_classifier=True, report_position=5),
    "finetuned": StepKind(color=RED, row="fine-tuned", votes=True, is_classifier=True, report_position=5),
    "tfidf": StepKind(color=RED, row="TF-IDF", votes=True, is_classifier=True, report_position=5, is_lightweight=True),
    "word_vectors": StepKind(color=RED, row="word-vectors", votes=True, report_position=5),
    "nli": StepKind(color=RED, row="NLI", votes=True, has_prior=True, report_position=5),
    "llm": StepKind(color=RED, row="LLM", votes=True, has_prior=True, report_position=5, is_lightweight=True),
    "verbalizer": StepKind(color=DARK_BROWN, reads=("train", "unlabeled"), report_position=1),
    "pattern_search": StepKind(color=DARK_BROWN, reads=("train", "unlabeled"), report_position=1),
    "ppt_examples": StepKind(color=GRAY, reads=()),
    "ppt": StepKind(
        color=PURPLE,
        reads=(),
        report_position=8,
        pretrained_to={
            "pair": "relate sentences",
            "choice": "find the next sentence",
            "single": "label sentences",
            "unified": "choose among sentences",
        },
    ),
    "batched_members": StepKind(color=BLUE, reads=("train", "dev")),
    "pet": StepKind(color=BLUE, row="sub-model", votes=True, has_prior=True, has_seed=True, report_position=5),
    "soft_labels": StepKind(
        color=DARK_BLUE, row="ensemble", reads=("unlabeled", "test"), report_position=6, is_lightweight=True
    ),
    "soft_label_shards": StepKind(color=DARK_BLUE, reads=()),
    "distill": StepKind(
        color=GREEN,
        row="student",
        reads=("unlabeled", "dev", "test"),
        has_seed=True,
        is_classifier=True,
        report_position=7,
    ),
    "prompt_search": StepKind(color=GRAY, reads=("train", "dev"), only_validates=True),
    "batched_prompts": StepKind(color=PURPLE, reads=("train", "dev")),
    "tuned_prompts": StepKind(color=PURPLE, reads=("train", "dev")),
    "prompts": StepKind(color=PURPLE, row="prompt", reads=("train", "dev", "test"), has_seed=True, report_position=9),
    "knowledge_probing": StepKind(color=PURPLE, row="facts", reads=("train", "test"), has_seed=True, report_position=9),
    "instruction_tuning": StepKind(color=PURPLE, reads=()),
    "instructed": StepKind(color=YELLOW, row="instructed", reads=("test",), has_seed=True, report_position=4),
    "zero_shot": StepKind(color=YELLOW, row="zero-shot", reads=("test",), report_position=3),
    "priming": StepKind(color=BROWN, row="priming", reads=("train", "test"), has_seed=True, report_position=4),
    "chain_of_thought": StepKind(
        color=BROWN, row="chain-of-thought", reads=("test",), has_seed=True, report_position=4
    ),
    "pattern_summary": StepKind(
        color=YELLOW, row="patterns", reads=("train", "test"), report_position=4, is_lightweight=True
    ),
    "baseline": StepKind(
        color=GRAY,
        row="baseline",
        reads=("train", "dev", "test"),
        has_seed=True,
        is_classifier=True,
        report_position=2,
    ),
    "curve_point": StepKind(color=DARK_GRAY),
    "learning_curve": StepKind(color=DARK_GRAY, reads=(), report_position=10, is_lightweight=True),
    "report": StepKind(color=DARK_GRAY, reads=(), is_lightweight=True),
}
"""Kind -> its meaning, by urgency: of the steps that are ready, those of earlier kinds start first.

A zero-shot step also reads labeled data for the weights of the ensemble, but learns nothing from it.
"""
