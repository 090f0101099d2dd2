"""Keeps a layer in step with the heads or neurons it has left."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import nn

from cahp_plugin.errors import UnsupportedModelError
from cahp_plugin.prune.origin import original_width
from cahp_plugin.units import AttentionLayer, PrunableLayer, attention_layers, head_entries, neuron_entries
from cahp_plugin.units.adapters import Adapter, BiasOnly, NoUnits, adapt
from cahp_plugin.units.find import find_feed_forward, find_layers
from cahp_plugin.units.linear import keep_channels
from cahp_plugin.units.record import RECORD_KEY, HeadEntry, NeuronEntry, make_record


def record_units(model: Any, layer: PrunableLayer, kept: Sequence[int]) -> None:
    """Updates a layer's attributes and the model's map after the layer's weights were cut.

    Args:
        model: The model.
        layer: The layer as it was before the cut.
        kept: Original indices of the units that stay; without any the layer becomes one that adds a bias.
    """
    heads = recorded_heads(model)  # while every other layer can still be counted
    update_layer(model, layer, kept)
    _record(model, heads, [dataclasses.replace(layer, present=tuple(sorted(kept)))])


def update_layer(model: Any, layer: PrunableLayer, kept: Sequence[int]) -> None:
    """Updates a layer's attributes and modules after its weights were cut; the map is not touched."""
    attention = isinstance(layer, AttentionLayer)
    place = layer.core if isinstance(layer, AttentionLayer) else layer.block
    for name, value in _counts(layer, len(kept)).items():
        if hasattr(place, name):  # some have it on one transformers major only
            setattr(place, name, value)
    if not kept:  # the projections into the units go; of the one out of them the bias stays, under its old name
        for path, module in layer.projections().items():
            _replace(layer.block, path, None if attention else NoUnits(module))
        _replace(layer.block, layer.spec.output, BiasOnly(layer.output))
    if isinstance(layer, AttentionLayer):
        _adapt_all(model, layer, kept)


def _counts(layer: PrunableLayer, count: int) -> dict[str, int]:
    """Attributes that hold numbers of units or of channels -> what they hold with so many units."""
    counts = dict.fromkeys(layer.spec.width, count * layer.size)
    if isinstance(layer, AttentionLayer):
        counts |= dict.fromkeys(layer.spec.head_count, count)
        if layer.spec.groups:
            counts[layer.spec.groups] = count // layer.group_size
    return counts


def _adapt_all(model: Any, layer: AttentionLayer, kept: Sequence[int]) -> None:
    """Mixes in what a core needs that has lost heads, and what the other layers then need."""
    spec = layer.spec
    if not kept:
        _adapt(layer, spec.empty, ())
    elif spec.narrow is not None:
        _adapt(layer, spec.narrow, kept)
    if spec.narrow_all and spec.narrow is not None:
        for other in find_layers(model):
            if other.index != layer.index and other.spec == spec and not isinstance(other.core, Adapter):
                _adapt(other, spec.narrow, other.heads)


def record_cut(dense: Any, config: Any, layers: Sequence[PrunableLayer]) -> None:
    """Writes the map of a copy of a model, some of whose layers :func:`shrink_layer` has cut, into the copy's config.

    Args:
        dense: The model, which is whole.
        config: The copy's config.
        layers: The layers that were cut, with the units that they have left.
    """
    _record(dense, recorded_heads(dense), layers, config)


def _record(model: Any, heads: dict[int, HeadEntry], layers: Sequence[PrunableLayer], config: Any = None) -> None:
    """Writes the units that layers have into the model's map, or another config's, which names all attention layers.

    It names the feed-forward layers once neurons have been removed, but for those that another pruner has narrowed:
    nobody knows which of their neurons are there.
    """
    neurons = neuron_entries(model.config)
    for layer in layers:
        if isinstance(layer, AttentionLayer):
            heads[layer.index] = _head_entry(layer)
        else:
            for other in (*(find_feed_forward(model) if not neurons else ()), layer):
                width = original_width(model, other)
                if other.num_original == width or not other.present:
                    neurons[other.index] = NeuronEntry(width, other.present)
    record = make_record(getattr(model.config, RECORD_KEY, None), heads, neurons)
    setattr(model.config if config is None else config, RECORD_KEY, record)


def recorded_heads(model: Any) -> dict[int, HeadEntry]:
    """Attention layer -> the heads on record, or that it has."""
    return head_entries(model.config) or {layer.index: _head_entry(layer) for layer in find_layers(model)}


def _head_entry(layer: AttentionLayer) -> HeadEntry:
    return HeadEntry(layer.num_original, layer.size, layer.group_size, layer.present)


def _adapt(layer: AttentionLayer, mixin: Any, kept: Sequence[int]) -> None:
    spec = layer.spec
    core = f"{spec.core}." if spec.core else ""
    inside = spec.output.startswith(core) if spec.output_in_core is None else spec.output_in_core
    output_path = spec.output.removeprefix(core) if inside else ""
    adapt(layer.core, mixin, places=kept, output_path=output_path, map_index=spec.map_index)


def _replace(block: nn.Module, path: str, module: nn.Module | None) -> None:
    parent, _, name = path.rpartition(".")
    if module is None:
        delattr(block.get_submodule(parent), name)
    else:
        setattr(block.get_submodule(parent), name, module)


def shrink_layer(model: Any, layer: PrunableLayer, kept: Sequence[int]) -> None:
    """Cuts a layer to the kept units by plain slicing, for loading; no graph, any device. The map is not touched.

    Args:
        model: The model.
        layer: The layer.
        kept: Original indices of the units that stay.
    """
    for path, module in layer.projections().items():
        keep_channels(module, layer.outputs(path, kept), outputs=True)
    keep_channels(layer.output, layer.channels(kept), outputs=False)
    update_layer(model, layer, kept)


def duplicate_kv_heads(model: Any) -> None:
    """Gives every query head a key and value head of its own, in place, so that query heads can go one by one.

    Models with grouped queries keep or drop whole groups, for the heads of a group share their keys and values. This
    copies them: the model computes the same (its key and value projections and its cache grow by the size of a
    group), and every head can then be selected and removed by itself. A saved copy of the pruned model loads as usual.

    Args:
        model: A supported model with grouped queries; others stay as they are.

    Raises:
        UnsupportedModelError: The architecture is unknown, its query, key and value are one projection (Falcon), or
            the model is quantized.
    """
    layers = [layer for layer in attention_layers(model) if layer.group_size > 1]
    fused = next((layer for layer in layers if layer.spec.fused), None)
    if fused is not None:
        raise UnsupportedModelError(
            f"{fused.name} has queries, keys and values in one projection, laid out by group: its keys and values "
            "can't be copied. Its heads stay or go by groups."
        )
    for layer in layers:
        duplicate_layer(layer)
    if layers:
        _record(model, recorded_heads(model), [dataclasses.replace(layer, group_size=1) for layer in layers])


def duplicate_layer(layer: AttentionLayer) -> None:
    """Gives every query head of a layer a key and value head of its own; the map is not touched."""
    size = layer.size
    count = len(layer.heads) // layer.group_size
    places = [
        group * size + offset for group in range(count) for _ in range(layer.group_size) for offset in range(size)
    ]
    for path in (layer.spec.key, layer.spec.value):
        if count:
            keep_channels(layer.block.get_submodule(path), places, outputs=True)
    setattr(layer.core, layer.spec.group, 1)
