"""The packages with the metrics of generated texts, which the extra `generation` installs."""

from __future__ import annotations

from importlib.util import find_spec

from stages.common.errors import InputError


def check_packages() -> None:
    """Checks that the packages with the metrics are installed.

    Raises:
        InputError: one of them is not.
    """
    for module, package in (("sacrebleu", "sacrebleu"), ("rouge_score", "rouge-score")):
        if find_spec(module) is None:
            raise InputError(
                f"the scores of generated texts need the package {package}.",
                "Install the extra generation: pip install 'clozeline[generation]'.",
            )
