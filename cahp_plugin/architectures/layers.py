"""Finds the attention layers of a model and names their heads by the indices they had in the unpruned model."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from cahp_plugin._version import __version__
from cahp_plugin.architectures.spec import AttentionSpec, spec_of, supported_architectures
from cahp_plugin.errors import CheckpointError, UnsupportedModelError

HEAD_MAP_KEY = "cahp_config"
HEAD_MAP_FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionLayer:
    """One attention layer of a model.

    Attributes:
        index: Position among the model's attention layers, from 0.
        name: Path of the block in the model, as in ``model.named_modules()``.
        spec: The architecture's row.
        block: The block itself.
        head_dim: Channels a head.
        heads: Original indices of the heads that are present, ascending; empty for a layer without heads.
        num_original_heads: Heads that the layer had before any pruning.
    """

    index: int
    name: str
    spec: AttentionSpec
    block: nn.Module
    head_dim: int
    heads: tuple[int, ...]
    num_original_heads: int

    def path(self, role: str) -> str:
        """Full path in the model of ``"query"``, ``"key"``, ``"value"``, ``"output"`` or ``"core"``."""
        return ".".join(part for part in (self.name, getattr(self.spec, role)) if part)

    def projections(self) -> dict[str, nn.Module]:
        """Path in the block -> projection, for all whose output channels are heads': query, key, value and more."""
        paths = [self.spec.query, self.spec.key, self.spec.value, *self.spec.positions]
        there = {name for name, _ in self.block.named_modules()}
        return {path: self.block.get_submodule(path) for path in paths if path in there}

    def module(self, role: str) -> nn.Module:
        """The module of ``"query"``, ``"key"``, ``"value"``, ``"output"`` or ``"core"``."""
        return self.block.get_submodule(getattr(self.spec, role))


def head_map(config: Any) -> dict[int, tuple[int, ...]]:
    """Reads layer -> present original head indices from a model's config; empty for an unpruned model.

    Raises:
        CheckpointError: The map is there but is not one that this library wrote.
    """
    entry = getattr(config, HEAD_MAP_KEY, None)
    if entry is None:
        return {}
    try:
        if entry["format"] != HEAD_MAP_FORMAT:
            raise CheckpointError(
                f"`{HEAD_MAP_KEY}` in config.json has format {entry['format']!r}; this version of cahp-plugin reads "
                f"format {HEAD_MAP_FORMAT}. Install the version that wrote it: {entry.get('version')!r}."
            )
        count = int(entry["num_heads"])
        kept = {int(layer): tuple(int(head) for head in heads) for layer, heads in entry["kept_heads"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"`{HEAD_MAP_KEY}` in config.json is damaged: {error!r}. Got {entry!r}.") from error
    for layer, heads in kept.items():
        if list(heads) != sorted(set(heads)) or any(not 0 <= head < count for head in heads):
            raise CheckpointError(
                f"`{HEAD_MAP_KEY}` in config.json is damaged: layer {layer} keeps heads {list(heads)}, "
                f"expected ascending indices below {count}."
            )
    return kept


def set_head_map(config: Any, kept: dict[int, tuple[int, ...]], *, num_heads: int, head_dim: int) -> None:
    """Writes the map of present heads into a model's config, from where ``save_pretrained`` saves it.

    Whatever else is on record under ``cahp_config`` stays.

    Args:
        config: The model's config.
        kept: Layer -> original indices of the heads present, for every layer.
        num_heads: Heads a layer had before any pruning.
        head_dim: Channels a head.
    """
    setattr(
        config,
        HEAD_MAP_KEY,
        (getattr(config, HEAD_MAP_KEY, None) or {})
        | {
            "format": HEAD_MAP_FORMAT,
            "version": __version__,
            "num_heads": num_heads,
            "head_dim": head_dim,
            "kept_heads": {str(layer): list(heads) for layer, heads in sorted(kept.items())},
        },
    )


def attention_layers(model: nn.Module) -> tuple[AttentionLayer, ...]:
    """Finds the attention layers of a model, in the order of ``named_modules()``.

    Args:
        model: A transformers model, pruned by this library or not.

    Returns:
        One entry a layer.

    Raises:
        UnsupportedModelError: No block of a registered architecture is found; the model attends across sequences, is
            quantized, or lost heads to another tool.
        CheckpointError: The config's map of heads does not fit the model.
    """
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        raise UnsupportedModelError(
            f"{type(model).__name__} is quantized: its heads can't be observed or removed. Prune the model in "
            "floating point first and quantize the result."
        )
    layers = find_layers(model)
    for layer in layers:
        if layer.heads:
            for path, module in layer.projections().items():
                _check_width(layer, path, module, "out_features")
            _check_width(layer, layer.spec.output, layer.module("output"), "in_features")
    return layers


def _check_width(layer: AttentionLayer, path: str, module: nn.Module, side: str) -> None:
    name = f"{layer.name}.{path}"
    if not isinstance(module, nn.Linear):
        raise UnsupportedModelError(
            f"{name} is a {type(module).__name__}; expected torch.nn.Linear. Prune before the model is "
            "quantized or wrapped by adapters."
        )
    width = getattr(module, side)
    if width != len(layer.heads) * layer.head_dim:
        raise UnsupportedModelError(
            f"{name} is {width} channels wide; {len(layer.heads)} heads of {layer.head_dim} channels make "
            f"{len(layer.heads) * layer.head_dim}. Heads were removed by another tool (transformers' `prune_heads`?), "
            "which leaves no map of the heads that stayed. Start from the unpruned model."
        )


def find_layers(model: nn.Module) -> tuple[AttentionLayer, ...]:
    """Finds the attention layers like :func:`attention_layers`, without a look at their widths."""
    found: list[tuple[str, nn.Module, AttentionSpec]] = []
    for name, module in model.named_modules():
        spec = spec_of(tuple(cls.__name__ for cls in type(module).__mro__))
        if spec is not None:
            found.append((name, module, spec))
    config = getattr(model, "config", None)
    if not found or config is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no attention layer that cahp-plugin knows. Supported architectures: "
            f"{', '.join(supported_architectures())}. Add one with "
            "`cahp_plugin.architectures.register_architecture(AttentionSpec(...))`."
        )
    if getattr(config, "add_cross_attention", False) or getattr(config, "is_decoder", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} is configured as a decoder (`is_decoder` or `add_cross_attention`); "
            "cahp-plugin supports encoders only."
        )
    kept = head_map(config)
    num_heads = int(config.num_attention_heads)
    head_dim = int(config.hidden_size) // num_heads
    if kept and sorted(kept) != list(range(len(found))):
        raise CheckpointError(
            f"`{HEAD_MAP_KEY}` names layers {sorted(kept)}; {type(model).__name__} has layers 0 to {len(found) - 1}."
        )
    everything = tuple(range(num_heads))
    return tuple(
        AttentionLayer(index, name, spec, block, head_dim, kept.get(index, everything), num_heads)
        for index, (name, block, spec) in enumerate(found)
    )
