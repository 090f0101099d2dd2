"""What the library has to know about an attention block or a feed-forward block, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, get_args

from torch import nn

from cahp_plugin.errors import ConfigError
from cahp_plugin.units.adapters import Adapter, Headless

Layout = Literal["part", "head"]


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """Where an attention block keeps its parts, and what to keep in step when heads leave it.

    Paths are relative to the block: the module, one a layer, that holds the query, key, value and output projections.
    Projections are ``torch.nn.Linear`` or transformers' ``Conv1D``. One architecture may have several rows, for
    classes that differ between transformers versions: the row whose ``core`` and ``output`` exist in the block is the
    one that counts.

    Args:
        name: Name of the architecture, for messages.
        block: Class names of the block.
        query: Path of the query projection, of ``num_heads * head_dim`` output channels. Where ``query``, ``key`` and
            ``value`` are the same path, it is one fused projection.
        key: Path of the key projection.
        value: Path of the value projection.
        output: Path of the output projection, whose input is the concatenated output of the heads.
        core: Path of the module whose ``forward`` returns the output and the attention map; empty for the block.
        head_count: Attributes of the core that hold its number of heads, where it has them.
        width: Attributes of the core that hold ``num_heads * head_dim``, where it has them.
        positions: Paths of further projections of ``num_heads * head_dim`` output channels that are cut like the query
            projection (DeBERTa's for positions), where the block has them.
        layout: How a fused projection is laid out: ``"part"``, all queries, then all keys, then all values;
            ``"head"``, the queries that share a key and value head, then that key and that value, then the next.
        group: Attribute of the core that holds the number of query heads that share a key and value head; empty where
            each has its own.
        groups: Attribute of the core that holds the number of key and value heads, where ``group`` is not on record.
        fixed: Names of modules that hang together with the heads in the dependency graph but have nothing to lose:
            norms over the channels of one head, tables of positions.
        shared_bias: Whether one position bias is added to the scores of all layers, which ties them together in the
            dependency graph.
        reused: Whether one block serves several layers.
        heads_in_config: Whether the config's ``num_attention_heads`` is the number of heads of this block in the
            unpruned model. Otherwise the width of the output projection tells.
        causal: Whether tokens attend to earlier ones only.
        causal_paths: Parts of a block's path in the model that make it causal, such as ``"decoder"``.
        cross: Whether the keys come from another sequence.
        cross_paths: Parts of a block's path that make it cross attention, such as ``"encoder_attn"``.
        residual: Path, from the block's parent, of the module whose input is the residual stream in front of the layer
            (a norm); empty where the block's own input is; ``None`` where the projection's output goes through more
            than an addition on its way into the stream.
        cross_residual: The same for blocks that ``cross_paths`` makes cross attention.
        parallel: Settings of the model's config that each, where true, put attention and feed-forward in parallel:
            both start from the same stream, so neither's output is added to the stream in front of it alone.
        plain: Whether transformers 4.57 by itself can remove heads from models of this architecture, layer by layer.
        map_index: Place of the attention map in what the core returns.
        maps_on_request: Whether the core returns its attention map only where the model is called with
            ``output_attentions=True``, also on transformers 5.
        output_in_core: Whether the core applies the output projection itself, so that it returns the hidden size and
            not ``num_heads * head_dim``; by default, whether the projection lies in the core.
        narrow: What changes about the core when it has lost some of its heads; see
            :mod:`cahp_plugin.units.adapters`.
        narrow_all: Whether ``narrow`` goes into all blocks of the architecture as soon as one has lost heads.
        empty: What takes the place of the core's ``forward`` when it has lost all of them.
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
    layout: Layout = "part"
    group: str = ""
    groups: str = ""
    fixed: tuple[str, ...] = ()
    shared_bias: bool = False
    reused: bool = False
    heads_in_config: bool = True
    causal: bool = False
    causal_paths: tuple[str, ...] = ()
    cross: bool = False
    cross_paths: tuple[str, ...] = ()
    residual: str | None = ""
    cross_residual: str | None = ""
    parallel: tuple[str, ...] = ()
    plain: bool = False
    map_index: int = 1
    maps_on_request: bool = False
    output_in_core: bool | None = None
    narrow: type[Adapter] | None = None
    narrow_all: bool = False
    empty: type[Adapter] = Headless

    def __post_init__(self) -> None:
        _check_row(self, (self.query, self.key, self.value), self.output)
        if self.layout not in get_args(Layout):
            raise ConfigError(
                f"AttentionSpec {self.name!r}: `layout` is one of {get_args(Layout)}, got {self.layout!r}."
            )

    @property
    def fused(self) -> bool:
        """Whether query, key and value are one projection."""
        return self.query == self.key == self.value

    def fits(self, block: nn.Module) -> bool:
        """Whether a block has the modules that this row names; projections may be gone with their heads."""
        there = {name for name, _ in block.named_modules()}
        return self.core in there and self.output in there


@dataclasses.dataclass(frozen=True)
class FeedForwardSpec:
    """Where a feed-forward block keeps its parts.

    Paths are relative to the block: the module, one a layer, that holds the projections into the neurons and the one
    out of them; where they live in the transformer layer itself (BART), that. One architecture may have several rows:
    the one whose ``inputs`` and ``output`` exist in the block counts.

    Args:
        name: Name of the architecture, for messages.
        block: Class names of the block.
        inputs: Paths of the projections into the neurons: one, or the gate and the other.
        output: Path of the projection out of them, back to the residual stream.
        parts: Blocks of neurons in each of ``inputs``: 2 where gate and other are one projection, one after the other.
        width: Attributes of the block that hold the number of neurons, where it has them.
        residual: Path, from the block's parent, of the module whose input is the residual stream in front of the layer
            (a norm); with a dot in front, from the block; empty where the block's own input is; ``None`` where the
            output goes through more than an addition on its way into the stream.
        parallel: As for :class:`AttentionSpec`.
        reused: Whether one block serves several layers.
    """

    name: str
    block: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str
    parts: int = 1
    width: tuple[str, ...] = ()
    residual: str | None = ""
    parallel: tuple[str, ...] = ()
    reused: bool = False

    def __post_init__(self) -> None:
        _check_row(self, self.inputs, self.output)
        if not isinstance(self.parts, int) or self.parts < 1:
            raise ConfigError(f"FeedForwardSpec {self.name!r}: `parts` must be at least 1, got {self.parts!r}.")

    def fits(self, block: nn.Module) -> bool:
        """Whether a block has the modules that this row names."""
        return {*self.inputs, self.output} <= {name for name, _ in block.named_modules()}


def _check_row(spec: AttentionSpec | FeedForwardSpec, inputs: Any, output: Any) -> None:
    """Raises where a row does not name classes and paths."""
    for field, names in (("block", spec.block), ("inputs", inputs), ("output", (output,))):
        if isinstance(names, str) or not names or not all(isinstance(name, str) and name for name in names):
            raise ConfigError(
                f"{type(spec).__name__} {spec.name!r}: `{field}` must name classes or paths, got {names!r}."
            )
    if output in inputs:
        raise ConfigError(f"{type(spec).__name__} {spec.name!r}: {output!r} can't feed the units and read them.")


Spec = AttentionSpec | FeedForwardSpec
_SPECS: dict[str, list[Spec]] = {}


def register_architecture(*specs: Spec) -> None:
    """Makes the models whose attention and feed-forward blocks are described by ``specs`` prunable.

    Check them by :func:`cahp_plugin.check.check_architecture`. Without a :class:`FeedForwardSpec` the heads of an
    architecture can be pruned and its neurons can't.

    Raises:
        ConfigError: A block class is claimed by another architecture already, or something is no row.

    Example:
        A model of your own whose blocks are a class ``MyAttention`` with ``to_q``, ``to_k``, ``to_v`` and ``to_out``,
        and whose ``forward`` reshapes by ``self.heads``, and a class ``MyMLP`` with ``up`` and ``down``::

            register_architecture(
                AttentionSpec(
                    name="mine", block=("MyAttention",), query="to_q", key="to_k", value="to_v", output="to_out",
                    head_count=("heads",), output_in_core=True,
                ),
                FeedForwardSpec(name="mine", block=("MyMLP",), inputs=("up",), output="down"),
            )
            print(check_architecture(model))

        ``examples/own_architecture.py`` is the whole of it, runnable.
    """
    for spec in specs:
        if not isinstance(spec, (AttentionSpec, FeedForwardSpec)):
            raise ConfigError(f"Expected an AttentionSpec or a FeedForwardSpec, got {type(spec).__name__}.")
        for block in spec.block:
            for other in _SPECS.get(block, []):
                if other.name != spec.name and type(other) is type(spec):
                    raise ConfigError(f"The block class {block} is registered already, by {other.name!r}.")
    for spec in specs:
        for block in spec.block:
            if spec not in _SPECS.setdefault(block, []):
                _SPECS[block].append(spec)


S = TypeVar("S", AttentionSpec, FeedForwardSpec)


def spec_of(block: nn.Module, kind: type[S]) -> S | None:
    """Finds the spec of a block by its class, or its nearest base class, and by the modules that it holds."""
    for cls in type(block).__mro__:
        for spec in reversed(_SPECS.get(cls.__name__, [])):  # the newest first: one may be corrected
            if isinstance(spec, kind) and spec.fits(block):
                return spec
    return None


def supported_architectures() -> tuple[str, ...]:
    """Names of all registered architectures, sorted."""
    return tuple(sorted({spec.name for specs in _SPECS.values() for spec in specs}))


def pattern_of(spec: AttentionSpec, path: Sequence[str]) -> str:
    """What an attention layer looks at, from its row and its path in the model, split at the dots.

    Returns:
        ``"self"``, ``"causal"`` or ``"cross"``.
    """
    if spec.cross or set(spec.cross_paths) & set(path):
        return "cross"
    return "causal" if spec.causal or set(spec.causal_paths) & set(path) else "self"
