"""What heads are compared by: how they tell classes apart, labelled or predicted, or their attention itself."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from cahp_plugin.errors import UnsupportedModelError


@dataclasses.dataclass(frozen=True)
class Conditioning:
    """One way of comparing heads.

    Attributes:
        name: Its name in the settings.
        classes: Whether heads are compared by how they tell classes apart; else by the distances of their maps.
        labelled: Whether the classes are those of the labels; else those that the model predicts.
        of: What has a class: ``"examples"``, ``"tokens"``, or ``"labels"`` (each of several labels splits the examples
            into those with it and those without it). :mod:`cahp_plugin.observe.classes` says what that means.
    """

    name: str
    classes: bool
    labelled: bool
    of: str = "examples"


LABEL = Conditioning("label", classes=True, labelled=True)
#: Settings' name -> what it means where examples have classes.
CONDITIONINGS = {
    found.name: found
    for found in (LABEL, Conditioning("prediction", classes=True, labelled=False), Conditioning("none", False, False))
}


def conditioning_of(name: str, kind: str = "examples") -> Conditioning:
    """The way of comparing heads that a setting means for a model's task.

    Args:
        name: ``"label"``, ``"prediction"`` or ``"none"``.
        kind: What the task's labels are about: ``"examples"``, ``"tokens"`` or ``"labels"``.
    """
    return dataclasses.replace(CONDITIONINGS[name], of=kind)


def classifier_logits(output: Any, batch_size: int) -> Tensor:
    """Takes the logits out of a classifier's output.

    Raises:
        UnsupportedModelError: There are none of shape ``(batch, classes)`` with at least two classes.
    """
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != batch_size or logits.shape[1] < 2:
        raise UnsupportedModelError(
            f"The model gives {described(logits)}; the method needs a classifier with logits of shape ({batch_size}, "
            "classes). Load the fine-tuned model with `AutoModelForSequenceClassification`, or use "
            '`conditioning="none"`, which needs no classes.'
        )
    return logits


def described(logits: Any) -> str:
    """Logits in words, for a message."""
    return f"logits of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else "no logits"
