"""Head masks: multiply the output of single heads without changing the model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cahp_plugin.units import AttentionLayer, attention_layers
from cahp_plugin.errors import SelectionError


@contextlib.contextmanager
def head_masks(layers: Sequence[AttentionLayer], masks: Mapping[int, Tensor]) -> Iterator[None]:
    """Multiplies the heads' outputs by masks, at the input of each output projection, while the context is open.

    This place exists in every architecture and on both transformers majors (version 5 has no ``head_mask`` any more).

    Args:
        layers: The model's attention layers.
        masks: Layer index -> mask over the units present (heads, or the query heads of one key and value head), of
            shape ``(units,)`` or ``(batch, units)``; layers that are absent stay as they are.
    """
    handles = []
    for layer in layers:
        if layer.index in masks and layer.heads:
            handles.append(layer.module("output").register_forward_pre_hook(_mask_hook(layer, masks[layer.index])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _mask_hook(layer: AttentionLayer, mask: Tensor) -> Any:
    if mask.dim() == 1:
        mask = mask[None]
    shaped = mask[:, None, :, None]

    def multiply(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        units = inputs[0].unflatten(-1, (len(layer.units), layer.unit_dim))
        return ((units * shaped).flatten(-2).to(inputs[0].dtype), *inputs[1:])

    return multiply


@contextlib.contextmanager
def only_heads(model: nn.Module, kept: Mapping[int, Sequence[int]]) -> Iterator[None]:
    """Zeroes every head that is not kept: what the pruned model computes, without pruning.

    Args:
        model: A supported model.
        kept: Layer -> original indices of the heads to keep, in whole units; absent layers keep all.

    Raises:
        SelectionError: A layer or head is not in the model, or a unit is split.
    """
    layers = attention_layers(model)
    unknown = sorted(set(kept) - {layer.index for layer in layers})
    if unknown:
        raise SelectionError(f"The model has layers 0 to {len(layers) - 1}; got {unknown}.")
    masks = {}
    for layer in layers:
        wanted = kept.get(layer.index, layer.heads)
        absent = sorted(set(wanted) - set(layer.heads))
        if absent:
            raise SelectionError(f"Layer {layer.index} has the heads {list(layer.heads)}; got {absent}.")
        if any(0 < len(set(unit) & set(wanted)) < len(unit) for unit in layer.units):
            raise SelectionError(f"Layer {layer.index} has the units {list(layer.units)}; got {list(wanted)}.")
        if layer.heads:
            like = next(layer.module("output").parameters())
            flags = [float(unit[0] in set(wanted)) for unit in layer.units]
            masks[layer.index] = torch.tensor(flags, dtype=like.dtype, device=like.device)
    with head_masks(layers, masks):
        yield
