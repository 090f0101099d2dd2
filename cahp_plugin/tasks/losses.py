"""Losses of the examples of a batch, and how far apart two models' outputs for them are: nats, of classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cahp_plugin.errors import DataError
from cahp_plugin.tasks.decoder_inputs import IGNORED

OWN_LOSS = (
    "pass `loss=callable(output, inputs, labels) -> (batch,)` to `select_heads`: the loss of each example, from the "
    "model's output, its inputs and the batch's labels"
)


def of_classes(logits: Tensor, targets: Any) -> Tensor:
    """Cross-entropy of one class an example.

    Args:
        logits: Of shape ``(batch, classes)``.
        targets: Classes, int64 of shape ``(batch,)``; the predicted ones where they are ``None``.

    Returns:
        Losses of shape ``(batch,)``.

    Raises:
        DataError: The targets are no classes.
    """
    if targets is None:
        targets = logits.detach().argmax(dim=1)
    usable = isinstance(targets, Tensor) and targets.dim() == 1 and targets.dtype == torch.long
    if not usable or int(targets.min()) < 0 or int(targets.max()) >= logits.shape[1]:
        raise DataError(
            f"The labels are not classes from 0 to {logits.shape[1] - 1} of shape (batch,). Leave them out (the "
            f"model's predictions then stand for them), map them, or {OWN_LOSS}."
        )
    return functional.cross_entropy(logits.float(), targets.to(logits.device), reduction="none")


def of_sets(logits: Tensor, targets: Any) -> Tensor:
    """Mean binary cross-entropy over the labels of each example.

    Args:
        logits: Of shape ``(batch, labels)``.
        targets: 0 or 1, of the same shape; the predicted ones where they are ``None``.
    """
    targets = logits.detach() > 0 if targets is None else _shaped(targets, logits)
    losses = functional.binary_cross_entropy_with_logits(
        logits.float(), targets.to(logits.device).float(), reduction="none"
    )
    return losses.mean(dim=1)


def of_numbers(logits: Tensor, targets: Any) -> Tensor:
    """Squared error of each example; the number itself where there are no targets.

    Args:
        logits: Of shape ``(batch, 1)`` or ``(batch, numbers)``.
        targets: Of the same shape, or ``(batch,)``.
    """
    if targets is None:
        return logits.float().mean(dim=1)
    targets = _shaped(targets.view(len(targets), -1), logits)
    return (logits.float() - targets.to(logits.device).float()).square().mean(dim=1)


def _shaped(targets: Tensor, logits: Tensor) -> Tensor:
    if targets.shape != logits.shape or not bool(torch.isfinite(targets.float()).all()):
        raise DataError(
            f"Labels of shape {tuple(targets.shape)} do not go with logits of shape {tuple(logits.shape)}, or are not "
            f"all numbers. Map them, or {OWN_LOSS}."
        )
    return targets


def of_tokens(logits: Tensor, labels: Any, *, name: str) -> Tensor:
    """Mean cross-entropy over the labelled tokens of each example.

    Args:
        logits: Of shape ``(batch, tokens, classes)``.
        labels: Int64 of shape ``(batch, tokens)``, -100 where a token has none.
        name: What the model is called in messages.

    Raises:
        DataError: The labels are none.
    """
    usable = isinstance(labels, Tensor) and not labels.is_floating_point() and labels.shape == logits.shape[:2]
    if not usable:
        got = f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else "none"
        raise DataError(
            f"{name} gives logits of shape {tuple(logits.shape)} and needs whole-number `labels` of "
            f"shape {tuple(logits.shape[:2])}, -100 where a token has none; got {got}. Or {OWN_LOSS}."
        )
    labels = labels.to(logits.device)
    losses = functional.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    return losses.sum(dim=1) / (labels != IGNORED).sum(dim=1).clamp(min=1)


def of_spans(start: Tensor, end: Tensor, spans: Any) -> Tensor:
    """Mean cross-entropy of the first and the last token of each answer.

    Args:
        start: Of shape ``(batch, tokens)``.
        end: The same.
        spans: First and last token, int64 of shape ``(batch, 2)``; the predicted ones where they are ``None``.
    """
    targets = (None, None) if spans is None else spans.unbind(dim=1)
    return (of_classes(start, targets[0]) + of_classes(end, targets[1])) / 2


def divergence_of_classes(ours: Tensor, theirs: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(theirs || ours) of the classes in the last dimension, nat."""
    if ours.dim() > 2:  # of one example after the other: a vocabulary's temporary values are as large as the logits
        return torch.stack([divergence_of_classes(*pair) for pair in zip(ours, theirs, strict=True)])
    p, q = (values.float().log_softmax(dim=-1) for values in (theirs.to(ours.device), ours))
    return (p.exp() * (p - q)).sum(dim=-1).clamp(min=0)  # rounding alone brings it below


def divergence_of_sets(ours: Tensor, theirs: Tensor) -> Tensor:
    """The same for independent labels, summed over the last dimension."""
    pairs = (torch.stack([values.float(), torch.zeros_like(values.float())], dim=-1) for values in (ours, theirs))
    return divergence_of_classes(*pairs).sum(dim=-1)


def mean_over(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of ``(batch, tokens)`` over the chosen tokens of each example."""
    chosen = chosen.to(values.device)
    return values.masked_fill(~chosen, 0).sum(dim=1) / chosen.sum(dim=1).clamp(min=1)
