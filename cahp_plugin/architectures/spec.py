"""What the library has to know about an attention block, as data."""

from __future__ import annotations

import dataclasses

from cahp_plugin.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """Where an attention block keeps its parts, and what to keep in step when heads leave it.

    Paths are relative to the block: the module, one a layer, that holds the query, key, value and output projections.

    Args:
        name: Name of the architecture, for messages.
        block: Class names of the block (they may differ between transformers versions).
        query: Path of the query projection, a ``Linear`` of ``num_heads * head_dim`` output channels.
        key: Path of the key projection.
        value: Path of the value projection.
        output: Path of the output projection, whose input is the concatenated output of the heads.
        core: Path of the module whose ``forward`` returns ``(output, attention map)``; empty for the block itself.
        head_count: Attributes of the core that hold its number of heads.
        width: Attributes of the core that hold ``num_heads * head_dim``.
        positions: Paths of further projections of ``num_heads * head_dim`` output channels that are cut like the query
            projection (DeBERTa's for positions), where the block has them.
        maps_on_request: Whether the core returns its attention map only where the model is called with
            ``output_attentions=True``, also on transformers 5.
        output_in_core: Whether the core applies the output projection itself (DistilBERT), so that it returns the
            hidden size and not ``num_heads * head_dim``.
    """

    name: str
    block: tuple[str, ...]
    query: str
    key: str
    value: str
    output: str
    core: str = ""
    head_count: tuple[str, ...] = ()
    width: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    maps_on_request: bool = False
    output_in_core: bool = False


_SPECS: dict[str, AttentionSpec] = {}


def register_architecture(spec: AttentionSpec) -> None:
    """Makes the models whose attention blocks are described by ``spec`` prunable.

    Raises:
        ConfigError: A block class is claimed by another spec already.
    """
    for block in spec.block:
        if block in _SPECS and _SPECS[block] != spec:
            raise ConfigError(f"The block class {block} is registered already, by {_SPECS[block].name!r}.")
    for block in spec.block:
        _SPECS[block] = spec


def spec_of(class_names: tuple[str, ...]) -> AttentionSpec | None:
    """Finds the spec of a block from its class and base class names, nearest first."""
    return next((_SPECS[name] for name in class_names if name in _SPECS), None)


def supported_architectures() -> tuple[str, ...]:
    """Names of all registered architectures, sorted."""
    return tuple(sorted({spec.name for spec in _SPECS.values()}))
