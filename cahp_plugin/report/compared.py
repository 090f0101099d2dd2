"""What the rows of a comparison are about, in the order in which pictures, tables and sentences take it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from cahp_plugin.compare.rows import DENSE, Row
from cahp_plugin.planners import PLANNERS
from cahp_plugin.selectors import selectors

RANDOM = "random"
RECOVERIES = {
    "none": "no recovery",
    "bias": "biases repaired",
    "least-squares": "least-squares repair",
    "finetune": "fine-tuning",
    "least-squares+finetune": "repair, then fine-tuning",
    "distill": "distillation",
    "least-squares+distill": "repair, then distillation",
    "own": "each planner's own repair",
}


def methods_of(rows: Sequence[Row]) -> dict[str, int]:
    """Way of choosing heads that was run -> its place among all ways, in that order: the same in every comparison."""
    names = [row.method for row in rows if row.method != DENSE]
    known = PLANNERS if any(row.planned for row in rows) else selectors()
    places = {name: place for place, name in enumerate(dict.fromkeys([*known, *names]))}
    return {name: place for name, place in places.items() if name in names}


def recoveries_of(rows: Sequence[Row]) -> list[str]:
    """Recoveries in the order of growing effort."""
    return sorted({row.recover for row in rows if row.method != DENSE}, key=place_of)


def place_of(recovery: str) -> tuple[int, str]:
    """Where a recovery stands in that order; those that are not known come last."""
    return (list(RECOVERIES).index(recovery) if recovery in RECOVERIES else len(RECOVERIES)), recovery


def sizes_of(rows: Sequence[Row]) -> list[float]:
    """Numbers of heads, or shares of the work in %, the highest first."""
    return sorted({row.size for row in rows if row.method != DENSE}, reverse=True)


def dense_of(rows: Sequence[Row]) -> Row | None:
    """The dense model's row."""
    return next((row for row in rows if row.method == DENSE), None)


def by_divergence(rows: Sequence[Row]) -> list[Row]:
    """The same rows by how far the outputs are from the dense model's, as far as that was measured."""
    return [
        dataclasses.replace(
            row, metric="divergence", mean=row.divergence, deviation=None, higher_is_better=False, percent=False,
            difference=row.farther[0] if row.farther else None, interval=row.farther[1:] if row.farther else None,
        )
        for row in rows if row.divergence is not None
    ]  # fmt: skip


def best_of(rows: Sequence[Row]) -> tuple[Row, Row | None]:
    """Rows of the best way at the smallest size, and of the reference with the same recovery, where it was run.

    The best is that on the validation set where there is one, else on the test set, in the metric's direction.
    """
    fewest = [row for row in rows if row.method != DENSE and row.size == sizes_of(rows)[-1]]
    best = max(fewest, key=lambda row: row.gain(row.mean if row.validation is None else row.validation))
    own = [row for row in fewest if row.method == row.reference and row.recover == best.recover]
    return best, own[0] if own else None


def named(recovery: str) -> str:
    """A recovery in words."""
    return RECOVERIES.get(recovery, recovery)
