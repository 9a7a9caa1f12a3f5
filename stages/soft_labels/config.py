"""Config models of the ensemble: how the logits of its members are calibrated, weighted and averaged."""

from __future__ import annotations

from pydantic import Field

from stages.common.config import SINGLE_LABEL, Config, LabelBias, ProblemType
from stages.common.models.config import Average, Calibration, FrequencySource, MemberScaling, Weights

SUSPECTS_FILE = "suspects.jsonl"
"""Name of the file with labeled examples that are probably mislabeled."""


class EnsembleConfig(Config):
    """How the logits of the members are averaged."""

    average: Average = "logits"
    """Average of logits (as in PET), or of probabilities (for members of different kinds)."""
    weights: Weights = "uniform"
    """Weights of the members: uniform, accuracy (held-out, on the labeled data), balanced (each kind of member has the
    same total weight), held_out (log-odds of the held-out accuracy above chance; a member at chance has no vote), or
    label_model (the same with accuracies that are also estimated from the agreement on the unlabeled data).
    """
    calibration: Calibration = "none"
    """How the prior preference of a language model for a label is removed: none, contextual (with texts without
    content), or unlabeled (with the unlabeled data; for labels that are about equally frequent).
    """
    scaling: MemberScaling = "none"
    """How the logits of each member are scaled: none, or held_out (by a temperature that is fitted to its held-out
    logits of the labeled data, so that members of different kinds are as certain as they are right; the logits of
    language models are shifted, too).
    """
    label_frequencies: FrequencySource = "labeled"
    """How frequent the labels are: labeled (as among the labeled data), or unlabeled (as the ensemble estimates it for
    the unlabeled data; for labeled data with equally many examples per label).
    """
    temperature: float = Field(1.0, gt=0)
    """Divides the averaged logits. Above 1 it makes the soft labels softer."""


class LabelingConfig(Config):
    """Base of configs of stages that label unlabeled data with the ensemble."""

    labels: tuple[str, ...]
    """Labels of the task, in the order of the logits."""
    problem_type: ProblemType = SINGLE_LABEL
    """What an example has: one label, or any number of labels."""
    ensemble: EnsembleConfig = EnsembleConfig()
    """How the logits of the members are averaged."""
    groups: tuple[str, ...]
    """Kind of each member, for balanced weights."""
    have_priors: tuple[bool, ...]
    """Whether each member is a language model, which prefers some labels whatever the text is."""


class SoftLabelsConfig(LabelingConfig):
    """The ensemble and its members."""

    members: tuple[str, ...]
    """Names of the members, in the order of the inputs."""
    label_bias: LabelBias = "none"
    """A bias per label: none, macro_f1 or frequencies (fitted to held-out logits of the ensemble)."""
    dropped: tuple[str, ...] = ()
    """Members that failed and that ensemble.min_members allows to be missing."""
