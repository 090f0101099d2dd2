"""Masks: multiply the output of single heads or neurons without changing the model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cahp_plugin.units import KeptSet, PrunableLayer, layers_named, resolve


@contextlib.contextmanager
def unit_masks(layers: Sequence[PrunableLayer], masks: Mapping[int, Tensor]) -> Iterator[None]:
    """Multiplies units' outputs by masks, at the input of each output projection, while the context is open.

    This place exists in every architecture and on both transformers majors (version 5 has no ``head_mask`` any more).

    Args:
        layers: Layers of one kind.
        masks: Layer index -> mask over the units present (heads, the query heads of one key and value head, neurons),
            of shape ``(units,)`` or ``(batch, units)``; layers that are absent stay as they are.
    """
    handles = []
    for layer in layers:
        if layer.index in masks and layer.present:
            handles.append(layer.output.register_forward_pre_hook(_mask_hook(layer, masks[layer.index])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _mask_hook(layer: PrunableLayer, mask: Tensor) -> Any:
    if mask.dim() == 1:
        mask = mask[None]
    shaped, count = mask[:, None, :, None], len(layer.present) // layer.group_size

    def multiply(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        units = inputs[0].unflatten(-1, (count, layer.unit_dim))
        return ((units * shaped).flatten(-2).to(inputs[0].dtype), *inputs[1:])

    return multiply


@contextlib.contextmanager
def only_kept(model: nn.Module, kept: KeptSet | Mapping[int, Sequence[int]]) -> Iterator[None]:
    """Zeroes every unit that is not kept: what the pruned model computes, without pruning.

    Args:
        model: A supported model.
        kept: The units to keep, or a mapping of layer -> original indices of heads; layers that are not named keep
            all.

    Raises:
        SelectionError: A layer, head or neuron is not in the model, or a group is split.
        UnsupportedModelError: Neurons are named and the model's feed-forward is unknown.
    """
    kept = kept if isinstance(kept, KeptSet) else KeptSet(heads=kept)
    layers = layers_named(model, kept)
    wanted = resolve(kept, layers)
    with contextlib.ExitStack() as stack:
        for layer in layers:
            units = set(getattr(wanted, layer.noun)[layer.index])
            if layer.present and len(units) < len(layer.present):
                like = next(layer.output.parameters())
                flags = torch.tensor([float(unit[0] in units) for unit in layer.units]).to(like)
                stack.enter_context(unit_masks([layer], {layer.index: flags}))
        yield
