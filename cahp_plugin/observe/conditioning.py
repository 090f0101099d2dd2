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
    """

    name: str
    classes: bool
    labelled: bool

    def check_output(self, output: Any, batch_size: int, *, own_loss: bool) -> None:
        """Checks that a model's output has the classes that are needed: for a loss, or to be predicted.

        Raises:
            UnsupportedModelError: It has none.
        """
        if self.classes and not (self.labelled and own_loss):
            classifier_logits(output, batch_size)


LABEL = Conditioning("label", classes=True, labelled=True)
#: Settings' name -> what it means.
CONDITIONINGS = {
    found.name: found
    for found in (LABEL, Conditioning("prediction", classes=True, labelled=False), Conditioning("none", False, False))
}


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
