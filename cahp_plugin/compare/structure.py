"""Where the kept heads are: over the layers, and over seeds."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from cahp_plugin.compare.runs import Run
from cahp_plugin.table import format_table

Head = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class HeadPlaces:
    """Where one way of choosing heads keeps them, at one number of heads.

    Attributes:
        method: Name of the way.
        num_heads: Heads kept.
        num_seeds: Choices behind it.
        per_layer: Heads kept in each layer, mean over seeds.
        middle: Share of the kept heads in the middle third of the layers, mean over seeds; NaN-free: 0 for no heads.
        last: Share in the last third. A share far above the middle one is the paper's "proximity bias".
        overlap: Mean Jaccard overlap (shared heads over heads in either) of the choices of two seeds; ``None`` for a
            single seed.
    """

    method: str
    num_heads: int
    num_seeds: int
    per_layer: tuple[float, ...]
    middle: float
    last: float
    overlap: float | None


def head_places(runs: Iterable[Run]) -> list[HeadPlaces]:
    """Sums up where the heads of a comparison's runs are, without the dense model's.

    Layer l of L is in the third ``floor(3 l / L)``, counted from 0. Recoveries of the same choice count once.

    Args:
        runs: Runs.

    Returns:
        One entry for each method and number of heads, the most heads first, methods in the order of the runs.
    """
    groups: dict[tuple[str, int], dict[int, Run]] = {}
    for run in runs:
        if run.method != "dense":
            groups.setdefault((run.method, run.num_heads), {}).setdefault(run.seed, run)
    order = {key: position for position, key in enumerate(groups)}
    return [
        _places(method, count, [run.kept for run in groups[method, count].values()])
        for method, count in sorted(groups, key=lambda key: (-key[1], order[key]))
    ]


def _places(method: str, num_heads: int, choices: Sequence[dict[str, list[int]]]) -> HeadPlaces:
    counts = np.array([[len(kept[layer]) for layer in sorted(kept, key=int)] for kept in choices], dtype=float)
    thirds = 3 * np.arange(counts.shape[1]) // counts.shape[1]
    totals = np.maximum(counts.sum(axis=1), 1)
    shares = [float((counts[:, thirds == third].sum(axis=1) / totals).mean()) for third in range(3)]
    sets = [{(int(layer), head) for layer, heads in kept.items() for head in heads} for kept in choices]
    pairs = [jaccard(a, b) for a, b in itertools.combinations(sets, 2)]
    return HeadPlaces(
        method,
        num_heads,
        len(choices),
        tuple(counts.mean(axis=0).tolist()),
        shares[1],
        shares[2],
        float(np.mean(pairs)) if pairs else None,
    )


def jaccard(one: set[Head], other: set[Head]) -> float:
    """Heads in both over heads in either; 1 for two empty sets."""
    return len(one & other) / len(one | other) if one | other else 1.0


def places_table(places: Sequence[HeadPlaces], *, markdown: bool = False) -> str:
    """Lays the places out as a table, shares and overlap in %."""
    cells: list[dict[str, Any]] = [
        {
            "heads": f"{place.num_heads}",
            "method": place.method,
            "kept in each layer": " ".join(f"{count:.1f}".removesuffix(".0") for count in place.per_layer),
            "middle third": f"{100 * place.middle:.0f}",
            "last third": f"{100 * place.last:.0f}",
            "overlap of seeds": "" if place.overlap is None else f"{100 * place.overlap:.0f}",
        }
        for place in places
    ]
    return format_table(cells, markdown=markdown)
