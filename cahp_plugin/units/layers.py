"""Finds the attention layers of a model and names their heads by the indices they had in the unpruned model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from cahp_plugin.units.head_map import HEAD_MAP_KEY, HeadEntry, head_entries
from cahp_plugin.units.linear import LINEAR, in_width, out_width
from cahp_plugin.units.spec import AttentionSpec, kind_of, spec_of, supported_architectures
from cahp_plugin.errors import CheckpointError, UnsupportedModelError


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionLayer:
    """One attention layer of a model.

    Attributes:
        index: Position among the model's attention layers, from 0.
        name: Path of the block in the model, as in ``model.named_modules()``.
        spec: The architecture's row.
        block: The block itself.
        kind: ``"self"`` (both ways), ``"causal"`` or ``"cross"`` (keys from another sequence).
        head_dim: Channels a head.
        group_size: Query heads that share a key and value head; they are kept or dropped together.
        heads: Original indices of the (query) heads that are present, ascending; empty for a layer without heads.
        num_original_heads: Heads that the layer had before any pruning.
    """

    index: int
    name: str
    spec: AttentionSpec
    block: nn.Module
    kind: str
    head_dim: int
    group_size: int
    heads: tuple[int, ...]
    num_original_heads: int

    @property
    def units(self) -> tuple[tuple[int, ...], ...]:
        """What is kept or dropped together: single heads, or the query heads of one key and value head."""
        size = self.group_size
        return tuple(self.heads[start : start + size] for start in range(0, len(self.heads), size))

    @property
    def unit_dim(self) -> int:
        """Channels a unit, at the input of the output projection."""
        return self.group_size * self.head_dim

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

    def stream(self, model: nn.Module) -> nn.Module | None:
        """The module whose input is the residual stream in front of the layer; ``None`` where there is no such."""
        path = self.spec.cross_residual if self.kind == "cross" else self.spec.residual
        if not path:
            return self.block if path == "" else None
        return model.get_submodule(f"{self.name.rpartition('.')[0]}.{path}".lstrip("."))

    def channels(self, heads: Iterable[int]) -> list[int]:
        """Channels of heads (original indices) at the input of the output projection, ascending."""
        return _spread(sorted(self.heads.index(head) for head in heads), self.head_dim)

    def outputs(self, path: str, heads: Sequence[int]) -> list[int]:
        """Output channels of a projection that belong to heads (original indices), ascending.

        Args:
            path: A key of :meth:`projections`.
            heads: Whole units.
        """
        own = self.channels(heads)
        if self.spec.fused:
            width = len(self.heads) * self.head_dim
            return [part * width + channel for part in range(3) for channel in own]
        if self.group_size > 1 and path in (self.spec.key, self.spec.value):
            places = sorted({self.heads.index(head) // self.group_size for head in heads})
            return _spread(places, self.head_dim)
        return own

    def expected_width(self, path: str) -> int:
        """Output channels that a projection has with the heads present."""
        return len(self.outputs(path, self.heads))


def _spread(places: Sequence[int], size: int) -> list[int]:
    return [place * size + offset for place in places for offset in range(size)]


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
    for layer in layers:
        if layer.heads:
            for path, module in layer.projections().items():
                _check_width(layer, path, module, outputs=True)
            _check_width(layer, layer.spec.output, layer.module("output"), outputs=False)
    return layers


def _check_width(layer: AttentionLayer, path: str, module: nn.Module, *, outputs: bool) -> None:
    name = f"{layer.name}.{path}"
    if not isinstance(module, LINEAR):
        raise UnsupportedModelError(
            f"{name} is a {type(module).__name__}; expected torch.nn.Linear or transformers' Conv1D. Prune before the "
            "model is quantized or wrapped by adapters."
        )
    width = out_width(module) if outputs else in_width(module)
    expected = layer.expected_width(path) if outputs else len(layer.heads) * layer.head_dim
    if width != expected:
        raise UnsupportedModelError(
            f"{name} is {width} channels wide; {len(layer.heads)} heads of {layer.head_dim} channels make "
            f"{expected}. Heads were removed by another tool (transformers' `prune_heads`?), "
            "which leaves no map of the heads that stayed. Start from the unpruned model."
        )


def find_layers(model: nn.Module) -> tuple[AttentionLayer, ...]:
    """Finds the attention layers like :func:`attention_layers`, without a look at their widths."""
    found = [(name, module, spec) for name, module in model.named_modules() if (spec := spec_of(module)) is not None]
    config = getattr(model, "config", None)
    if not found or config is None:
        raise _unknown(model)
    _check_roles(model, config, [spec for _, _, spec in found])
    entries = head_entries(config)
    if entries and sorted(entries) != list(range(len(found))):
        raise CheckpointError(
            f"`{HEAD_MAP_KEY}` names layers {sorted(entries)}; {type(model).__name__} has layers 0 to "
            f"{len(found) - 1}."
        )
    return tuple(
        _layer(index, name, spec, block, config, entries.get(index)) for index, (name, block, spec) in enumerate(found)
    )


def _layer(
    index: int, name: str, spec: AttentionSpec, block: nn.Module, config: Any, entry: HeadEntry | None
) -> AttentionLayer:
    core = block.get_submodule(spec.core)
    kind = kind_of(spec, name.split("."))
    group_size = int(getattr(core, spec.group)) if spec.group else 1
    if entry is not None:
        return AttentionLayer(index, name, spec, block, kind, entry.head_dim, group_size, entry.kept, entry.num_heads)
    own_config = getattr(core, "config", None) or getattr(block, "config", None) or config
    head_dim = _head_dim(core, own_config)
    count = (
        int(own_config.num_attention_heads)
        if spec.heads_in_config
        else in_width(block.get_submodule(spec.output)) // head_dim
    )
    return AttentionLayer(index, name, spec, block, kind, head_dim, group_size, tuple(range(count)), count)


def _head_dim(core: nn.Module, config: Any) -> int:
    for name in ("head_dim", "attention_head_size", "key_value_proj_dim"):
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
