"""Keeps an attention layer in step with the heads it has left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cahp_plugin.architectures import AttentionLayer, set_head_map
from cahp_plugin.architectures.layers import find_layers
from cahp_plugin.prune.empty import make_headless


def channels(layer: AttentionLayer, heads: Sequence[int]) -> list[int]:
    """Channels of the given heads (original indices) among the layer's present ones, ascending."""
    places = sorted(layer.heads.index(head) for head in heads)
    return [place * layer.head_dim + offset for place in places for offset in range(layer.head_dim)]


def record_heads(model: Any, layer: AttentionLayer, kept: Sequence[int]) -> None:
    """Updates a layer's attributes and the model's map of heads after the layer's weights were cut.

    Args:
        model: The model.
        layer: The layer as it was before the cut.
        kept: Original indices of the heads that stay; without any the layer becomes one without heads.
    """
    core: Any = layer.module("core")
    for attribute in layer.spec.head_count:
        setattr(core, attribute, len(kept))
    for attribute in layer.spec.width:
        setattr(core, attribute, len(kept) * layer.head_dim)
    if not kept:
        make_headless(layer)
    present = {other.index: other.heads for other in find_layers(model)}
    set_head_map(
        model.config,
        present | {layer.index: tuple(sorted(kept))},
        num_heads=layer.num_original_heads,
        head_dim=layer.head_dim,
    )


def shrink_layer(model: Any, layer: AttentionLayer, kept: Sequence[int]) -> None:
    """Cuts a layer's weights to the kept heads by plain slicing, for loading; no graph, any device.

    Args:
        model: The model.
        layer: The layer.
        kept: Original indices of the heads that stay.
    """
    places = channels(layer, kept)
    sides: list[tuple[Any, int]] = [(module, 0) for module in layer.projections().values()]
    for module, dim in [*sides, (layer.module("output"), 1)]:
        index = torch.tensor(places, dtype=torch.long, device=module.weight.device)
        module.weight = _cut(module.weight, index, dim)
        if dim == 0:
            module.out_features = len(places)
            if module.bias is not None:
                module.bias = _cut(module.bias, index, 0)
        else:
            module.in_features = len(places)
    record_heads(model, layer, kept)


def _cut(parameter: nn.Parameter, index: torch.Tensor, dim: int) -> nn.Parameter:
    return nn.Parameter(parameter.data.index_select(dim, index), requires_grad=parameter.requires_grad)
