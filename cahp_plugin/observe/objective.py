"""The loss of each example, whose gradient is the heads' salience."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cahp_plugin.errors import DataError, UnsupportedModelError
from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.classes import classes_of
from cahp_plugin.observe.conditioning import LABEL, Conditioning, classifier_logits, described
from cahp_plugin.tasks import known_task
from cahp_plugin.tasks.losses import OWN_LOSS, of_classes, of_tokens

#: ``loss(output, inputs, labels)`` -> loss of each example, shape ``(batch,)``; labels as the batch has them, or None.
Loss = Callable[[Any, Mapping[str, Any], Any], Tensor]


def example_losses(
    model: nn.Module, output: Any, batch: Batch, conditioning: Conditioning = LABEL, loss: Loss | None = None
) -> Tensor:
    """Makes the loss of each example that salience is the gradient of, in nats where it is not the caller's own.

    The model's task says what it is (``cahp_plugin.tasks``): the cross-entropy of classes to the labels, of tokens to
    those that are labelled, and so on; a model's own predictions stand for labels where classes are predicted, and
    where there are none.

    Args:
        model: The model.
        output: Its output for the batch.
        batch: The batch.
        conditioning: What heads are compared by.
        loss: The caller's own loss.

    Returns:
        Losses of shape ``(batch,)``.

    Raises:
        UnsupportedModelError: The model does no task that is known and ``loss`` is not given.
        DataError: Labels are missing or do not fit, or ``loss`` returns something else.
    """
    if loss is not None:
        return _own(output, batch, loss, next(model.parameters()).device)
    logits = getattr(output, "logits", None)
    labels = batch.labels
    if conditioning.classes and not conditioning.labelled:
        labels = None
    task = known_task(model)
    if task is not None and all(hasattr(output, name) for name in task.outputs):
        if conditioning.classes:
            classes_of(conditioning).predict(output, batch.mask)  # it has the classes that are compared
        return task.salience_losses(output, batch.inputs, labels)
    if isinstance(logits, Tensor) and logits.dim() == 2:
        return of_classes(classifier_logits(output, len(batch)), labels)
    if isinstance(logits, Tensor) and logits.dim() == 3 and len(logits) == len(batch):
        return of_tokens(logits, labels, name=type(model).__name__)
    raise UnsupportedModelError(
        f"{type(model).__name__} gives {described(logits)}: there is no loss to measure salience by. Load it with a "
        f"head (`AutoModelForCausalLM`, `AutoModelForSequenceClassification`...), or {OWN_LOSS}."
    )


def _own(output: Any, batch: Batch, loss: Loss, device: torch.device) -> Tensor:
    labels = batch.labels.to(device) if isinstance(batch.labels, Tensor) else batch.labels
    losses = loss(output, batch.inputs_on(device), labels)
    if not isinstance(losses, Tensor) or losses.shape != (len(batch),):
        got = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise DataError(f"`loss` must return a tensor of shape ({len(batch)},), one loss an example; got {got}.")
    return losses
