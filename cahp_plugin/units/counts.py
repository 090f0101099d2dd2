"""How many heads: from what a user asks for to units that can go, worked out in this one place."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from cahp_plugin.errors import SelectionError, UnsupportedModelError
from cahp_plugin.units.kept import KeptSet
from cahp_plugin.units.layers import AttentionLayer

Array = np.ndarray[Any, Any]
Head = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class HeadUnits:
    """What a way of choosing heads chooses among: heads, or the query heads of one key and value head together.

    Row i of everything that is said about units, N in all, belongs to ``firsts[i]``. Layers and heads carry their
    original indices.

    Attributes:
        firsts: Layer and first head of each unit, layer by layer, length N.
        shape: Layers of the model, and the most heads that one was trained with.
        group_size: Heads of each unit.
        min_heads_per_layer: Heads that each layer keeps at least, as far as it has them.
    """

    firsts: tuple[Head, ...]
    shape: tuple[int, int]
    group_size: int = 1
    min_heads_per_layer: int = 1

    @classmethod
    def of(cls, layers: Sequence[AttentionLayer], min_heads_per_layer: int = 1) -> HeadUnits:
        """The units that layers have left.

        Raises:
            UnsupportedModelError: There is none, or layers differ in the size of their groups.
        """
        units = [(layer.index, unit) for layer in layers for unit in layer.units]
        sizes = {len(unit) for _, unit in units}
        if not units:
            raise UnsupportedModelError("The model has no attention head left to select from.")
        if len(sizes) > 1:
            raise UnsupportedModelError(
                f"Key and value heads are shared by {' and '.join(map(str, sorted(sizes)))} query heads in different "
                "layers; one number for all is supported."
            )
        shape = len(layers), max(layer.num_original for layer in layers)
        return cls(tuple((layer, unit[0]) for layer, unit in units), shape, sizes.pop(), min_heads_per_layer)

    @property
    def layers(self) -> tuple[int, ...]:
        """Layer of each unit."""
        return tuple(layer for layer, _ in self.firsts)

    @property
    def num_heads(self) -> int:
        """Heads of all units."""
        return len(self.firsts) * self.group_size

    @property
    def min_units(self) -> int:
        """Units that hold each layer's minimum."""
        return -(-self.min_heads_per_layer // self.group_size)

    def count(self, asked: int | float) -> int:
        """Number of units that a number of heads asks for.

        Args:
            asked: A count of heads, or a share in (0, 1) of the units present; a share keeps one at least.

        Raises:
            SelectionError: There are not as many, they are no whole groups, or the layers' minimum takes more.
        """
        size, share = self.group_size, isinstance(asked, float)
        if share and not 0 < asked < 1:
            raise SelectionError(f"`num_heads` as a share must be in (0, 1); got {asked}.")
        if not share and not 0 <= asked <= self.num_heads:
            raise SelectionError(f"`num_heads` asks for {asked} heads; the model has {self.num_heads}.")
        if not share and int(asked) % size:
            near = sorted({max(1, int(asked) // size) * size, (int(asked) // size + 1) * size})
            raise SelectionError(
                f"`num_heads` asks for {asked} heads; {size} query heads share a key and value head and only go "
                f"together. Ask for {' or '.join(map(str, near))}, or for a share."
            )
        wanted = max(1, math.floor(asked * len(self.firsts) + 0.5)) if share else int(asked) // size
        least = sum(min(self.min_units, self.layers.count(layer)) for layer in set(self.layers))
        if wanted < least:
            raise SelectionError(
                f"`num_heads` asks for {wanted * size} heads, but `min_heads_per_layer={self.min_heads_per_layer}` "
                f"takes {least * size}. Lower the minimum; 0 lets whole layers go."
            )
        return wanted

    def kept(self, rows: Iterable[int]) -> KeptSet:
        """The kept set of these units; every layer is named."""
        chosen: dict[int, list[int]] = {layer: [] for layer in range(self.shape[0])}
        for layer, first in (self.firsts[row] for row in rows):
            chosen[layer] += range(first, first + self.group_size)
        return KeptSet(heads={layer: sorted(heads) for layer, heads in chosen.items()})

    def table_of(self, rows: Sequence[float] | Array) -> Array:
        """Spreads a number for each unit over its heads: ``(num_layers, num_original_heads)``, NaN for absent ones."""
        table = np.full(self.shape, np.nan)
        for (layer, first), value in zip(self.firsts, rows, strict=True):
            table[layer, first : first + self.group_size] = value
        return table

    def by_score(self, scores: Array) -> list[int]:
        """All rows, the best first: each layer's minimum, then the rest of all layers. Ties go to the lowest row."""
        order = [int(row) for row in np.argsort(-np.asarray(scores), kind="stable")]
        ranked: list[list[int]] = [[] for _ in range(self.shape[0])]
        for row in order:
            ranked[self.firsts[row][0]].append(row)
        least = [row for own in ranked for row in own[: self.min_units]]
        held = set(least)
        return least + [row for row in order if row not in held]
