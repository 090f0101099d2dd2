"""The loss of each example, whose gradient is the heads' salience."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cahp_plugin.errors import DataError, UnsupportedModelError
from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.conditioning import LABEL, Conditioning, classifier_logits, described
from cahp_plugin.observe.decoder_inputs import IGNORED, takes_decoder_inputs

#: ``loss(output, inputs, labels)`` -> loss of each example, shape ``(batch,)``; labels as the batch has them, or None.
Loss = Callable[[Any, Mapping[str, Any], Any], Tensor]

_OWN_LOSS = (
    "pass `loss=callable(output, inputs, labels) -> (batch,)` to `select_heads`: the loss of each example, from the "
    "model's output, its inputs and the batch's labels"
)


def forward_arguments(model: nn.Module) -> dict[str, Any]:
    """Arguments that keep a forward call from work that no one looks at: a decoder's cache."""
    return {"use_cache": False} if "use_cache" in inspect.signature(type(model).forward).parameters else {}


def example_losses(
    model: nn.Module, output: Any, batch: Batch, conditioning: Conditioning = LABEL, loss: Loss | None = None
) -> Tensor:
    """Makes the loss of each example, in nats where it is not the caller's own.

    - logits ``(batch, classes)``: cross-entropy to the label; to the model's own prediction where
      classes are predicted and where there are no labels;
    - logits ``(batch, tokens, vocabulary)``: mean cross-entropy over the labelled tokens of an example. A causal
      language model predicts the next token; its labels default to its real input tokens. Other models need labels of
      tokens, -100 where there is none.

    Args:
        model: The model.
        output: Its output for the batch.
        batch: The batch.
        conditioning: What heads are compared by.
        loss: The caller's own loss.

    Returns:
        Losses of shape ``(batch,)``.

    Raises:
        UnsupportedModelError: The output has no such logits and ``loss`` is not given.
        DataError: Labels are missing or do not fit, or ``loss`` returns something else.
    """
    if loss is not None:
        return _own(output, batch, loss)
    logits = getattr(output, "logits", None)
    if conditioning.classes or (isinstance(logits, Tensor) and logits.dim() == 2):
        return _of_classes(classifier_logits(output, len(batch)), batch, conditioning)
    if isinstance(logits, Tensor) and logits.dim() == 3 and len(logits) == len(batch):
        return _of_tokens(model, logits, batch)
    raise UnsupportedModelError(
        f"{type(model).__name__} gives {described(logits)}: there is no loss to measure salience by. Load it with a "
        f"head (`AutoModelForCausalLM`, `AutoModelForSequenceClassification`...), or {_OWN_LOSS}."
    )


def _own(output: Any, batch: Batch, loss: Loss) -> Tensor:
    device = next((v.device for v in _tensors(output)), torch.device("cpu"))
    labels = batch.labels.to(device) if isinstance(batch.labels, Tensor) else batch.labels
    losses = loss(output, batch.inputs_on(device), labels)
    if not isinstance(losses, Tensor) or losses.shape != (len(batch),):
        got = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise DataError(f"`loss` must return a tensor of shape ({len(batch)},), one loss an example; got {got}.")
    return losses


def _tensors(output: Any) -> list[Tensor]:
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple) else [output]
    return [value for value in values if isinstance(value, Tensor)]


def _of_classes(logits: Tensor, batch: Batch, conditioning: Conditioning) -> Tensor:
    targets = batch.labels
    if targets is None or (conditioning.classes and not conditioning.labelled):
        targets = logits.detach().argmax(dim=1)
    usable = isinstance(targets, Tensor) and targets.dim() == 1 and targets.dtype == torch.long
    if not usable or int(targets.min()) < 0 or int(targets.max()) >= logits.shape[1]:
        raise DataError(
            f"The labels are not classes from 0 to {logits.shape[1] - 1} of shape (batch,). Leave them out (the "
            f"model's predictions then stand for them), map them, or {_OWN_LOSS}."
        )
    return nn.functional.cross_entropy(logits.float(), targets.to(logits.device), reduction="none")


def _of_tokens(model: nn.Module, logits: Tensor, batch: Batch) -> Tensor:
    labels = batch.labels if isinstance(batch.labels, Tensor) and batch.labels.dim() == 2 else None
    shifts = is_causal_language_model(model)
    if labels is None and shifts:
        labels = batch.inputs["input_ids"].cpu().masked_fill(~batch.mask, IGNORED)
    if labels is None or labels.is_floating_point() or labels.shape != logits.shape[:2]:
        got = "none" if labels is None else f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise DataError(
            f"{type(model).__name__} gives logits of shape {tuple(logits.shape)} and needs whole-number `labels` of "
            f"shape {tuple(logits.shape[:2])}, -100 where a token has none; got {got}. Or {_OWN_LOSS}."
        )
    labels = labels.to(logits.device)
    if shifts:
        # Behind padding on the left, the first real token would be predicted from nothing.
        real = batch.mask[:, :-1].to(labels.device)
        logits, labels = logits[:, :-1], labels[:, 1:].masked_fill(~real, IGNORED)
    counts = (labels != IGNORED).sum(dim=1)
    losses = nn.functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )
    return losses.sum(dim=1) / counts.clamp(min=1)


def is_causal_language_model(model: nn.Module) -> bool:
    """Whether the logits at a token are about the next one."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # takes scikit-learn with it

    names = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    own = any(cls.__name__ in names or cls.__name__.endswith("ForCausalLM") for cls in type(model).__mro__)
    return own and not takes_decoder_inputs(model)
