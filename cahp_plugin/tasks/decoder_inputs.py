"""What the decoder of an encoder-decoder model is fed with, and which of it is real."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cahp_plugin.errors import DataError

IGNORED = -100
"""Label of tokens that no loss looks at, as in transformers."""


def takes_decoder_inputs(model: nn.Module) -> bool:
    """Whether the model's forward call takes tokens for a decoder."""
    return "decoder_input_ids" in inspect.signature(type(model).forward).parameters


def add_decoder_inputs(
    model: nn.Module, inputs: Mapping[str, Any], labels: Any, mask: Tensor, position: int
) -> tuple[dict[str, Any], Tensor]:
    """Completes the inputs of an encoder-decoder model by what its decoder reads.

    In this order: ``decoder_input_ids`` as given; for sequence classifiers, which feed the decoder with the encoder's
    tokens shifted right, nothing but the mask; labels of tokens, shifted right by one behind the start token as the
    model itself would do (the labels stay here, so that the model makes no loss of them).

    Args:
        model: The model.
        inputs: Arguments of its forward call so far.
        labels: Labels of tokens, int64 of shape ``(batch, tokens)`` with -100 where there is none, or anything else.
        mask: Real tokens of the encoder, shape ``(batch, tokens)``.
        position: Number of the batch, for messages.

    Returns:
        The arguments, and the real tokens of the decoder, bool of shape ``(batch, decoder tokens)``. Without a
        ``decoder_attention_mask`` all given tokens are real.

    Raises:
        DataError: There is nothing to feed the decoder with.
    """
    inputs = dict(inputs)
    ids = inputs.get("decoder_input_ids")
    given = inputs.get("decoder_attention_mask")
    if isinstance(ids, Tensor):
        return inputs, (torch.ones_like(ids) if given is None else given).bool().cpu()
    if mask.shape[1] and any(cls.__name__.endswith("ForSequenceClassification") for cls in type(model).__mro__):
        real = _shift(mask, True) if given is None else given.bool().cpu()
    elif isinstance(labels, Tensor) and labels.dim() == 2 and not labels.is_floating_point():
        inputs["decoder_input_ids"] = _shifted(model, labels)
        real = _shift(labels != IGNORED, True) if given is None else given.bool().cpu()
    else:
        raise DataError(
            f"Batch {position} has nothing for the decoder of {type(model).__name__}: give `decoder_input_ids` (with "
            "`decoder_attention_mask` where they are padded) or `labels` of shape (batch, tokens), -100 where padded."
        )
    inputs["decoder_attention_mask"] = real.long()
    return inputs, real


def _shifted(model: nn.Module, labels: Tensor) -> Tensor:
    own = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if callable(own):
        return own(labels=labels.to(next(model.parameters()).device)).cpu()
    config: Any = model.config
    if config.decoder_start_token_id is None or config.pad_token_id is None:
        raise DataError(
            "`decoder_input_ids` can't be made from the labels: the model's config lacks `decoder_start_token_id` or "
            "`pad_token_id`. Set them or give `decoder_input_ids`."
        )
    ids = _shift(labels, int(config.decoder_start_token_id))
    return ids.masked_fill(ids == IGNORED, int(config.pad_token_id))


def _shift(values: Tensor, first: int | bool) -> Tensor:
    start = torch.full_like(values[:, :1], first)
    return torch.cat([start, values[:, :-1]], dim=1)
