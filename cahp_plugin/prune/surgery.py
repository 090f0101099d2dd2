"""Keeps an attention layer in step with the heads it has left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from cahp_plugin.units import AttentionLayer, attention_layers
from cahp_plugin.units.adapters import BiasOnly, adapt
from cahp_plugin.units.head_map import HeadEntry, set_head_entries
from cahp_plugin.units.layers import find_layers
from cahp_plugin.units.linear import keep_channels


def record_heads(model: Any, layer: AttentionLayer, kept: Sequence[int]) -> None:
    """Updates a layer's attributes and the model's map of heads after the layer's weights were cut.

    Args:
        model: The model.
        layer: The layer as it was before the cut.
        kept: Original indices of the heads that stay; without any the layer becomes one without heads.
    """
    core: Any = layer.module("core")
    for names, value in ((layer.spec.head_count, len(kept)), (layer.spec.width, len(kept) * layer.head_dim)):
        for name in names:
            if hasattr(core, name):  # some have it on one transformers major only
                setattr(core, name, value)
    if not kept:
        _make_headless(layer)
    elif layer.spec.narrow is not None:
        _adapt(layer, layer.spec.narrow, kept)
    others = [other for other in find_layers(model) if other.index != layer.index]
    for other in others:
        if layer.spec.narrow_all and layer.spec.narrow is not None and other.spec == layer.spec and other.heads:
            _adapt(other, layer.spec.narrow, other.heads)
    entries = {other.index: _entry(other, other.heads) for other in others}
    set_head_entries(model.config, dict(sorted({**entries, layer.index: _entry(layer, kept)}.items())))


def record_layers(model: Any) -> None:
    """Writes the heads that a model has into its map of heads."""
    set_head_entries(model.config, {layer.index: _entry(layer, layer.heads) for layer in find_layers(model)})


def _entry(layer: AttentionLayer, kept: Sequence[int]) -> HeadEntry:
    return HeadEntry(layer.num_original_heads, layer.head_dim, layer.group_size, tuple(sorted(kept)))


def _adapt(layer: AttentionLayer, mixin: Any, kept: Sequence[int]) -> None:
    output_path = layer.spec.output.removeprefix(f"{layer.spec.core}.") if layer.spec.output_in_core else ""
    adapt(layer.module("core"), mixin, places=kept, output_path=output_path, map_index=layer.spec.map_index)


def _make_headless(layer: AttentionLayer) -> None:
    """Turns a layer into one without heads, in place.

    The query, key and value projections (and more of their kind) go; of the output projection the bias stays, under
    its old name.
    """
    for path in list(layer.projections()):
        _replace(layer.block, path, None)
    _replace(layer.block, layer.spec.output, BiasOnly(layer.module("output")))
    _adapt(layer, layer.spec.empty, ())


def _replace(block: nn.Module, path: str, module: nn.Module | None) -> None:
    parent, _, name = path.rpartition(".")
    if module is None:
        delattr(block.get_submodule(parent), name)
    else:
        setattr(block.get_submodule(parent), name, module)


def shrink_layer(model: Any, layer: AttentionLayer, kept: Sequence[int]) -> None:
    """Cuts a layer's weights to the kept heads by plain slicing, for loading; no graph, any device.

    Args:
        model: The model.
        layer: The layer.
        kept: Original indices of the heads that stay.
    """
    for path, module in layer.projections().items():
        keep_channels(module, layer.outputs(path, kept), outputs=True)
    keep_channels(layer.module("output"), layer.channels(kept), outputs=False)
    record_heads(model, layer, kept)


def duplicate_kv_heads(model: Any) -> None:
    """Gives every query head a key and value head of its own, in place, so that query heads can go one by one.

    Models with grouped queries keep or drop whole groups, for the heads of a group share their keys and values. This
    copies them: the model computes the same (its key and value projections and its cache grow by the size of a
    group), and every head can then be selected and removed by itself. A saved copy of the pruned model loads as usual.

    Args:
        model: A supported model with grouped queries; others stay as they are.

    Raises:
        UnsupportedModelError: The architecture is unknown, or the model is quantized.
    """
    layers = [layer for layer in attention_layers(model) if layer.group_size > 1]
    for layer in layers:
        duplicate_layer(layer)
    if layers:
        record_layers(model)


def duplicate_layer(layer: AttentionLayer) -> None:
    """Gives every query head of a layer a key and value head of its own; the map is not touched."""
    size = layer.head_dim
    count = len(layer.heads) // layer.group_size
    places = [
        group * size + offset for group in range(count) for _ in range(layer.group_size) for offset in range(size)
    ]
    for path in (layer.spec.key, layer.spec.value):
        if count:
            keep_channels(layer.block.get_submodule(path), places, outputs=True)
    setattr(layer.module("core"), layer.spec.group, 1)
