"""The ways of choosing heads, by name."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Hashable
from typing import Any

from cahp_plugin.selectors import (
    HardConcreteImportance,
    HIESImportance,
    MagnitudeImportance,
    MichelImportance,
    NoiseImportance,
    RandomImportance,
    ReconstructionImportance,
    SalienceImportance,
    SeparationImportance,
    SubsetPruningImportance,
    attention_entropy,
)
from cahp_plugin.selectors.controls import shuffled_separation
from cahp_plugin.selectors.iterative import SalienceWalk
from cahp_plugin.selectors.cahp.representatives import select_from_distances, select_from_separation
from cahp_plugin.selectors.cahp.selection import HeadSelection
from cahp_plugin.prune import CAHPImportance


class Measurements:
    """Measurements that several choices share; what each took is charged to every choice that uses it.

    Attributes:
        saved: Seconds that measurements took which were not made again, in all.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[Any, float]] = {}
        self.saved = 0.0

    def once(self, key: Hashable, measure: Callable[[], Any]) -> Any:
        """Returns ``measure()``, called for the first of equal keys only."""
        if key in self._known:
            self.saved += self._known[key][1]
        else:
            start = time.perf_counter()
            value = measure()
            self._known[key] = value, time.perf_counter() - start
        return self._known[key][0]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What a way of choosing heads may look at.

    Attributes:
        model: The dense model.
        observed: A selection on it, for its separation matrix, salience and settings.
        train: Batches of the training set, the shortest examples first.
        shuffled_batches: Makes batches of the training set, in an order drawn by the seed; with
            ``group_by_length=True`` examples about as long share one.
        num_heads: Heads to keep.
        seed: Seed of whatever is drawn.
        gate_epochs: Passes over the training set for methods that train gates.
        measurements: Shared with the other choices on this model and data.
    """

    model: Any
    observed: HeadSelection
    train: Any
    shuffled_batches: Callable[..., Any]
    num_heads: int
    seed: int
    gate_epochs: float
    measurements: Measurements

    @property
    def least(self) -> dict[str, int]:
        """The layers' minimum, as a keyword argument."""
        return {"min_heads_per_layer": self.observed.config.min_heads_per_layer}

    @property
    def calibration(self) -> Any:
        """Batches of the training set, in an order drawn by the seed."""
        return self.shuffled_batches()

    @property
    def training(self) -> Any:
        """The same, with examples about as long in one batch: less padding in a whole walk."""
        return self.shuffled_batches(group_by_length=True)

    @property
    def gates(self) -> dict[str, Any]:
        """Keyword arguments of what trains gates."""
        return {"epochs": self.gate_epochs, "seed": self.seed, **self.least}


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


def _shuffled(c: Candidate) -> CAHPImportance:
    separation = c.measurements.once(
        ("shuffled", c.seed), lambda: shuffled_separation(c.model, c.train, c.observed, seed=c.seed)
    )
    return SeparationImportance(c.observed, separation, c.num_heads, seed=c.seed)


def _iterative(c: Candidate) -> CAHPImportance:
    walk = c.measurements.once(("iterative", c.seed), lambda: SalienceWalk(c.model, c.calibration, **c.least))
    start = time.perf_counter()
    importance, _ = walk.down_to(c.num_heads)
    c.measurements.saved += walk.seconds - (time.perf_counter() - start)  # rounds that another number had walked
    return importance


def _hies(c: Candidate) -> CAHPImportance:
    entropy = c.measurements.once("entropy", lambda: attention_entropy(c.model, c.train))
    return HIESImportance(c.observed.salience, entropy, c.num_heads, **c.least)


#: Name -> from what may be looked at to the heads to keep; the names of ``names.METHOD_NAMES``.
METHODS: dict[str, Callable[[Candidate], CAHPImportance]] = {
    "cahp": _cahp,
    "medoid": lambda c: _cahp(c, representative="medoid"),
    "shuffled": _shuffled,
    "noise": lambda c: NoiseImportance(c.observed, c.num_heads, seed=c.seed),
    "salience": lambda c: SalienceImportance(c.observed.salience, c.num_heads, **c.least),
    "salience-layernorm": lambda c: MichelImportance(c.observed.salience, c.num_heads, **c.least),
    "salience-iterative": _iterative,
    "hies": _hies,
    "voita": lambda c: HardConcreteImportance(c.model, c.training, c.num_heads, **c.gates),
    "dsp": lambda c: SubsetPruningImportance(c.model, c.training, c.num_heads, **c.gates),
    "magnitude": lambda c: MagnitudeImportance(c.model, c.num_heads, **c.least),
    "obs": lambda c: ReconstructionImportance(c.model, c.calibration, c.num_heads, **c.least),
    "random": lambda c: RandomImportance(c.model, c.num_heads, seed=c.seed, **c.least),
}

#: Methods that choose the same heads for every seed.
UNSEEDED = frozenset({"salience", "salience-layernorm", "hies", "magnitude"})

#: Methods that put something else in the place of the class separation.
SEPARATION_CONTROLS = frozenset({"shuffled", "noise"})
