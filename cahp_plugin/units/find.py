"""Finds what can be pruned in a model: attention and feed-forward layers, and the units that they have left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from cahp_plugin.errors import CheckpointError, SelectionError, UnsupportedModelError
from cahp_plugin.units.adapters import BiasOnly
from cahp_plugin.units.kept import KINDS, KeptSet, Kind, format_ranges
from cahp_plugin.units.layers import AttentionLayer, FeedForwardLayer, PrunableLayer, join, parent
from cahp_plugin.units.linear import LINEAR, in_width, out_width
from cahp_plugin.units.record import RECORD_KEY, HeadEntry, NeuronEntry, head_entries, neuron_entries
from cahp_plugin.units.spec import AttentionSpec, FeedForwardSpec, pattern_of, spec_of
from cahp_plugin.units.table import supported_architectures


def attention_layers(model: nn.Module) -> tuple[AttentionLayer, ...]:
    """Finds the attention layers of a model, in the order of ``named_modules()``.

    Args:
        model: A transformers model, pruned by this library or not.

    Returns:
        One entry a layer.

    Raises:
        UnsupportedModelError: No block of a registered architecture is found; the model is quantized, runs on flash
            attention only, attends across sequences where its row knows of none, or lost heads to another tool.
        CheckpointError: The config's map of heads does not fit the model.
    """
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        raise UnsupportedModelError(
            f"{type(model).__name__} is quantized: its heads can't be observed or removed. Prune the model in "
            "floating point first and quantize the result."
        )
    layers = find_layers(model)
    implementation = str(getattr(model.config, "_attn_implementation", "eager"))
    if "flash" in implementation or "flex" in implementation:
        raise UnsupportedModelError(
            f"{type(model).__name__} runs on {implementation!r}, which gives no attention maps and can't be traced. "
            'Load it with `attn_implementation="eager"` or `"sdpa"` to prune it; the pruned model may run on any.'
        )
    _check_widths(layers)
    return layers


def feed_forward_layers(model: nn.Module) -> tuple[FeedForwardLayer, ...]:
    """Finds the feed-forward layers of a model, in the order of ``named_modules()``.

    Where another tool narrowed a layer, its neurons are numbered as they are now.

    Args:
        model: A transformers model, pruned by this library or not.

    Returns:
        One entry a layer.

    Raises:
        UnsupportedModelError: The layout of its feed-forward is unknown, is a mixture of experts, or does not have the
            widths that its row says.
        CheckpointError: The config's map of neurons does not fit the model.
    """
    layers = find_feed_forward(model)
    experts = _experts(model)
    if experts:
        raise UnsupportedModelError(
            f"The feed-forward of {type(model).__name__} is a mixture of experts ({', '.join(experts)}): its neurons "
            "can't be removed. Its heads can."
        )
    if not layers:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no feed-forward layer that cahp-plugin knows, so its neurons can't be "
            f"removed. Its layers are {', '.join(_surroundings(model))}. Describe them with "
            "`cahp_plugin.units.register_architecture(FeedForwardSpec(...))`; its docstring has an example."
        )
    _check_widths(layers)
    return layers


def prunable_layers(model: nn.Module) -> tuple[PrunableLayer, ...]:
    """The attention layers of a model, and its feed-forward layers where their layout is known."""
    attention = attention_layers(model)
    feed_forward = () if _experts(model) else find_feed_forward(model)
    _check_widths(feed_forward)
    return (*attention, *feed_forward)


def layers_named(model: nn.Module, kept: KeptSet) -> tuple[PrunableLayer, ...]:
    """The layers of the kinds that a kept set is about.

    Raises:
        UnsupportedModelError: The set names neurons and the model's feed-forward can't be pruned.
    """
    return (*attention_layers(model), *(feed_forward_layers(model) if kept.neurons else ()))


def resolve(kept: KeptSet, layers: Sequence[PrunableLayer]) -> KeptSet:
    """Checks a kept set against a model's layers, and names them all.

    Args:
        kept: Which units are to stay.
        layers: From :func:`layers_named`.

    Returns:
        The same set with every layer named.

    Raises:
        SelectionError: A layer or unit is not there (any more), or half of a group would stay.
    """
    for noun in KINDS:
        own = [layer for layer in layers if layer.noun == noun]
        unknown = sorted(set(getattr(kept, noun)) - {layer.index for layer in own})
        if unknown:
            raise SelectionError(
                f"The selection names the layers {unknown} for {noun}; the model has layers 0 to {len(own) - 1}."
            )
    return set_of(
        (layer, _checked(layer, getattr(kept, layer.noun).get(layer.index, layer.present))) for layer in layers
    )


def set_of(chosen: Iterable[tuple[PrunableLayer, tuple[int, ...]]]) -> KeptSet:
    """The kept set of layers and the units that each is to keep."""
    kinds: dict[Kind, dict[int, tuple[int, ...]]] = {noun: {} for noun in KINDS}
    for layer, units in chosen:
        kinds[layer.noun][layer.index] = units
    return KeptSet(**kinds)


def _checked(layer: PrunableLayer, units: tuple[int, ...]) -> tuple[int, ...]:
    missing = sorted(set(units) - set(layer.present))
    if missing:
        gone = [unit for unit in missing if unit < layer.num_original]
        why = "removed before" if gone == missing else f"indices go from 0 to {layer.num_original - 1}"
        raise SelectionError(
            f"Layer {layer.index} has no {layer.noun[:-1]} {format_ranges(missing)} ({why}); it has the {layer.noun} "
            f"{format_ranges(layer.present) or 'none'}."
        )
    if layer.group_size > 1:
        split = [unit for unit in layer.units if 0 < len(set(unit) & set(units)) < len(unit)]
        if split:
            raise SelectionError(
                f"Layer {layer.index} keeps {sorted(set(units) & set(split[0]))} of the heads {list(split[0])}, "
                "which share a key and value head: they stay or go together. To choose among them, give each its "
                "own keys and values first: `cahp_plugin.prune.duplicate_kv_heads(model)`."
            )
    return units


def _check_widths(layers: Iterable[PrunableLayer]) -> None:
    for layer in (layer for layer in layers if layer.present):
        for path, module in (*layer.projections().items(), (layer.spec.output, layer.output)):
            name = join(layer.name, path)
            if not isinstance(module, LINEAR) or "weight" not in module._parameters:
                raise _not_linear(name, module)
            if path == layer.spec.output:
                width, expected = in_width(module), len(layer.present) * layer.size
            else:
                width, expected = out_width(module), layer.expected_width(path)
            if width != expected and isinstance(layer, FeedForwardLayer):
                raise UnsupportedModelError(
                    f"{name} is {width} channels wide and {layer.output_path} reads {len(layer.present)}; the row of "
                    f"{layer.spec.name!r} makes that {expected}. Register a FeedForwardSpec that fits."
                )
            if width != expected:
                raise UnsupportedModelError(
                    f"{name} is {width} channels wide; {len(layer.present)} heads of {layer.size} channels make "
                    f"{expected}. Heads were removed by another tool (transformers' `prune_heads`?), which leaves no "
                    "map of the heads that stayed. Start from the unpruned model."
                )


def _not_linear(name: str, module: nn.Module) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{name} is a {type(module).__name__}; expected torch.nn.Linear or transformers' Conv1D with a weight of its "
        "own. Prune before the model is quantized, reparametrized (weight norm) or wrapped by adapters."
    )


def find_layers(model: nn.Module) -> tuple[AttentionLayer, ...]:
    """Finds the attention layers like :func:`attention_layers`, without a look at their widths."""
    found = _blocks(model, AttentionSpec)
    config = getattr(model, "config", None)
    if not found or config is None:
        raise _unknown(model)
    _check_roles(model, config, [spec for _, _, spec in found])
    entries = head_entries(config)
    if entries and sorted(entries) != list(range(len(found))):
        raise CheckpointError(
            f"`{RECORD_KEY}` names layers {sorted(entries)}; {type(model).__name__} has layers 0 to {len(found) - 1}."
        )
    return tuple(
        _attention_layer(index, name, spec, block, config, entries.get(index))
        for index, (name, block, spec) in enumerate(found)
    )


def find_feed_forward(model: nn.Module) -> tuple[FeedForwardLayer, ...]:
    """Finds the feed-forward layers whose layout is known, without a look at their widths; there may be none."""
    entries = neuron_entries(getattr(model, "config", None))
    layers = []
    for index, (name, block, spec) in enumerate(_blocks(model, FeedForwardSpec)):
        output, entry = block.get_submodule(spec.output), entries.get(index)
        if not isinstance(output, (*LINEAR, BiasOnly)):
            raise _not_linear(join(name, spec.output), output)
        width = in_width(output)
        if entry is None or len(entry.kept) > width:  # with fewer neurons, another tool has been at work since
            entry = NeuronEntry(width, tuple(range(width)))
        if len(entry.kept) < width:
            raise CheckpointError(
                f"`{RECORD_KEY}` says that {name} has {len(entry.kept)} neurons, and it has {width}: the config is "
                "another model's. Give each model a copy of its own (`copy.deepcopy(config)`)."
            )
        pattern = "causal" if "decoder" in name.split(".") else "self"
        layers.append(FeedForwardLayer(index, name, spec, block, entry.kept, entry.num_neurons, pattern=pattern))
    unknown = sorted(set(entries) - {layer.index for layer in layers})
    if unknown:
        raise CheckpointError(
            f"`{RECORD_KEY}` names feed-forward layers {unknown}; {type(model).__name__} has {len(layers)} of them."
        )
    return tuple(layers)


def _blocks(model: nn.Module, kind: Any) -> list[tuple[str, nn.Module, Any]]:
    found = ((name, module, spec_of(module, kind)) for name, module in model.named_modules())
    return [(name, module, spec) for name, module, spec in found if spec is not None]


def _attention_layer(
    index: int, name: str, spec: AttentionSpec, block: nn.Module, config: Any, entry: HeadEntry | None
) -> AttentionLayer:
    if entry is None:
        core, output = block.get_submodule(spec.core), block.get_submodule(spec.output)
        config = getattr(core, "config", None) or getattr(block, "config", None) or config
        size = _head_dim(core, config)
        count = int(config.num_attention_heads) if spec.heads_in_config else in_width(output) // size
        group_size = int(getattr(core, spec.group)) if spec.group else 1
        if spec.groups:
            group_size = count // int(getattr(core, spec.groups))
        entry = HeadEntry(count, size, group_size, tuple(range(count)))
    heads = (entry.kept, entry.num_heads, entry.head_dim, entry.group_size)
    return AttentionLayer(index, name, spec, block, *heads, pattern_of(spec, name.split(".")))


def _head_dim(core: nn.Module, config: Any) -> int:
    for name in ("head_dim", "attention_head_size", "key_value_proj_dim", "head_size"):
        value = getattr(core, name, None)
        if isinstance(value, int):
            return value
    return int(config.hidden_size) // int(config.num_attention_heads)


def _check_roles(model: nn.Module, config: Any, specs: Sequence[AttentionSpec]) -> None:
    """Refuses encoders that are configured as decoders: their rows know neither causal maps nor a second sequence."""
    crosses = any(spec.cross or spec.cross_paths for spec in specs)
    decodes = any(spec.causal or spec.causal_paths for spec in specs)
    if (getattr(config, "add_cross_attention", False) and not crosses) or (
        getattr(config, "is_decoder", False) and not decodes
    ):
        raise UnsupportedModelError(
            f"{type(model).__name__} is configured as a decoder (`is_decoder` or `add_cross_attention`); of this "
            "architecture cahp-plugin supports encoders only."
        )


def _unknown(model: nn.Module) -> UnsupportedModelError:
    classes = sorted({type(module).__name__ for module in model.modules() if "Attention" in type(module).__name__})
    seen = f" It has {', '.join(classes)}." if classes else ""
    return UnsupportedModelError(
        f"{type(model).__name__} has no attention layer that cahp-plugin knows.{seen} Supported architectures: "
        f"{', '.join(supported_architectures())}. Add one with "
        "`cahp_plugin.units.register_architecture(AttentionSpec(...))`; its docstring has an example."
    )


def _experts(model: nn.Module) -> list[str]:
    """Classes of a mixture of experts in a model."""
    return sorted(
        {type(module).__name__ for name, module in model.named_modules() if name.rpartition(".")[2] == "experts"}
    )


def _surroundings(model: nn.Module) -> list[str]:
    """Classes of the transformer layers that hold the attention, and of what stands in them beside it."""
    attention = {layer.name: layer.block for layer in find_layers(model)}
    layers = [model.get_submodule(parent(name)) for name in attention]
    beside = [part for layer in layers for part in layer.children() if part not in attention.values()]
    return list(dict.fromkeys(type(module).__name__ for module in (*layers, *beside)))
