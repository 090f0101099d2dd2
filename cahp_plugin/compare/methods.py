"""The ways of choosing heads, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from cahp_plugin.baselines import (
    MagnitudeImportance,
    MichelImportance,
    RandomImportance,
    ReconstructionImportance,
    SalienceImportance,
)
from cahp_plugin.method.representatives import select_from_distances, select_from_separation
from cahp_plugin.method.selection import HeadSelection
from cahp_plugin.prune import CAHPImportance


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What a way of choosing heads may look at.

    Attributes:
        model: The dense model.
        observed: A selection on it, for its separation matrix, salience and settings.
        calibration: Batches of the training set.
        num_heads: Heads to keep.
        seed: Seed of whatever is drawn.
    """

    model: Any
    observed: HeadSelection
    calibration: Any
    num_heads: int
    seed: int


def _cahp(candidate: Candidate, **changes: Any) -> CAHPImportance:
    seen = candidate.observed
    config = dataclasses.replace(seen.config, num_heads=candidate.num_heads, seed=candidate.seed, **changes)
    size = seen.group_size
    if seen.distances is not None:
        return CAHPImportance(
            select_from_distances(seen.distances, seen.heads, seen.salience, config, group_size=size)
        )
    assert seen.separation is not None  # a fresh selection has one of them
    return CAHPImportance(select_from_separation(seen.separation, seen.heads, seen.salience, config, group_size=size))


def _least(candidate: Candidate) -> dict[str, int]:
    return {"min_heads_per_layer": candidate.observed.config.min_heads_per_layer}


#: Name -> from what may be looked at to the heads to keep.
METHODS: dict[str, Callable[[Candidate], CAHPImportance]] = {
    "cahp": _cahp,
    "medoid": lambda c: _cahp(c, representative="medoid"),
    "salience": lambda c: SalienceImportance(c.observed.salience, c.num_heads, **_least(c)),
    "salience-layernorm": lambda c: MichelImportance(c.observed.salience, c.num_heads, **_least(c)),
    "magnitude": lambda c: MagnitudeImportance(c.model, c.num_heads, **_least(c)),
    "obs": lambda c: ReconstructionImportance(c.model, c.calibration, c.num_heads, **_least(c)),
    "random": lambda c: RandomImportance(c.model, c.num_heads, seed=c.seed, **_least(c)),
}
