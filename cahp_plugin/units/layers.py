"""Layers whose units can be removed: attention with its heads, feed-forward with its neurons."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

from torch import nn

from cahp_plugin.units.kept import Kind
from cahp_plugin.units.spec import AttentionSpec, FeedForwardSpec, Spec


@dataclasses.dataclass(frozen=True, eq=False)
class PrunableLayer(abc.ABC):
    """One layer whose units can be removed: projections that feed them, and one that writes what they make.

    Attributes:
        kind: ``"attention"`` or ``"feed-forward"``.
        noun: What its units are: ``"heads"`` or ``"neurons"``.
        index: Position among the model's layers of this kind, from 0.
        name: Path of the block in the model, as in ``model.named_modules()``.
        spec: The architecture's row.
        block: The block itself.
        present: Original indices of the heads or neurons that are there, ascending; empty for a layer without any.
        num_original: How many the layer had before any pruning.
        size: Channels of each, at the input of the output projection.
        group_size: How many are kept or dropped together.
        pattern: What the tokens look at: ``"self"`` (both ways), ``"causal"`` or ``"cross"`` (keys from another
            sequence); of a feed-forward layer, ``"causal"`` in the decoder of an encoder-decoder.
    """

    kind: ClassVar[Literal["attention", "feed-forward"]]
    noun: ClassVar[Kind]

    index: int
    name: str
    spec: Spec
    block: nn.Module
    present: tuple[int, ...]
    num_original: int
    size: int = 1
    group_size: int = 1
    pattern: str = "self"

    def __str__(self) -> str:
        return f"{self.kind.capitalize()} layer {self.index} ({self.name})"

    @property
    def units(self) -> tuple[tuple[int, ...], ...]:
        """What is kept or dropped together: single heads, the query heads of one key and value head, neurons."""
        size = self.group_size
        return tuple(self.present[start : start + size] for start in range(0, len(self.present), size))

    @property
    def unit_dim(self) -> int:
        """Channels a unit, at the input of the output projection."""
        return self.group_size * self.size

    @property
    def output(self) -> Any:
        """The projection that writes to the residual stream; a bias alone where no unit is left."""
        return self.block.get_submodule(self.spec.output)

    @property
    def output_path(self) -> str:
        """Full path of the output projection in the model."""
        return join(self.name, self.spec.output)

    def projections(self) -> dict[str, nn.Module]:
        """Path in the block -> projection, for all whose output channels are units'."""
        there = dict(self.block.named_modules())
        return {path: there[path] for path in self.inputs() if path in there}

    def stream(self, model: nn.Module) -> nn.Module | None:
        """The module whose input is the residual stream in front of the layer; ``None`` where there is no such."""
        path = self.spec.residual
        if isinstance(self.spec, AttentionSpec) and self.pattern == "cross":
            path = self.spec.cross_residual
        config: Any = model.config
        if path is None or any(getattr(config, name, False) for name in self.spec.parallel):
            return None
        if not path:
            return self.block
        return model.get_submodule(join(self.name if path[0] == "." else parent(self.name), path.lstrip(".")))

    def channels(self, units: Iterable[int]) -> list[int]:
        """Channels of heads or neurons (original indices) at the input of the output projection, ascending."""
        return _spread(self._places(units), self.size)

    @abc.abstractmethod
    def outputs(self, path: str, units: Iterable[int]) -> list[int]:
        """Output channels of a projection that belong to heads or neurons (original indices), ascending.

        Args:
            path: A key of :meth:`projections`.
            units: Whole units.
        """

    @abc.abstractmethod
    def inputs(self) -> Sequence[str]:
        """Paths in the block of the projections into the units, whether they are there or not."""

    def _places(self, units: Iterable[int]) -> list[int]:
        place = {unit: number for number, unit in enumerate(self.present)}
        return sorted(place[unit] for unit in units)

    def expected_width(self, path: str) -> int:
        """Output channels that a projection has with the units present."""
        return len(self.outputs(path, self.present))


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionLayer(PrunableLayer):
    """An attention layer: its units are heads, or groups of query heads that share a key and value head."""

    kind = "attention"
    noun = "heads"
    spec: AttentionSpec

    @property
    def heads(self) -> tuple[int, ...]:
        """Original indices of the (query) heads that are present, ascending."""
        return self.present

    @property
    def core(self) -> Any:
        """The module whose ``forward`` returns the output and the attention map."""
        return self.block.get_submodule(self.spec.core)

    def outputs(self, path: str, units: Iterable[int]) -> list[int]:
        """See the base class; a projection has the queries, the keys, the values, or all three."""
        units = list(units)
        if self.spec.fused and self.spec.layout == "part":
            return _parts(self.channels(units), len(self.present) * self.size, 3)
        if self.spec.fused or path in (self.spec.key, self.spec.value):
            groups = sorted({place // self.group_size for place in self._places(units)})
            return _spread(groups, ((self.group_size + 2) if self.spec.fused else 1) * self.size)
        return self.channels(units)

    def inputs(self) -> Sequence[str]:
        """See the base class."""
        return list(dict.fromkeys((self.spec.query, self.spec.key, self.spec.value, *self.spec.positions)))


@dataclasses.dataclass(frozen=True, eq=False)
class FeedForwardLayer(PrunableLayer):
    """A feed-forward layer: its units are neurons."""

    kind = "feed-forward"
    noun = "neurons"
    spec: FeedForwardSpec

    def outputs(self, path: str, units: Iterable[int]) -> list[int]:
        """See the base class."""
        return _parts(self.channels(units), len(self.present), self.spec.parts)

    def inputs(self) -> Sequence[str]:
        """See the base class."""
        return self.spec.inputs


def _spread(places: Sequence[int], size: int) -> list[int]:
    return [place * size + offset for place in places for offset in range(size)]


def _parts(channels: Sequence[int], width: int, count: int) -> list[int]:
    return [part * width + channel for part in range(count) for channel in channels]


def join(*parts: str) -> str:
    """Joins parts of a path; empty ones are left out."""
    return ".".join(part for part in parts if part)


def parent(name: str) -> str:
    """The path of the module that holds another."""
    return name.rpartition(".")[0]
