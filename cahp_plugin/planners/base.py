"""What a planner is given, and what it gives."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from cahp_plugin.cost.budget import Budget
from cahp_plugin.observe.batches import Batch
from cahp_plugin.plan.plan import Plan
from cahp_plugin.units import KeptSet, PrunableLayer, prunable_layers

#: Path of an output projection -> the places of the units that stay.
Places = Mapping[str, Sequence[int]]


@dataclasses.dataclass
class Job:
    """A model that is to be brought under a budget.

    Attributes:
        model: The dense model, at rest; unchanged.
        plan_of: Name of an order of heads -> the plan with it, made on ``fitted`` and ``held_out``.
        budget: A budget for multiply-accumulates.
        fitted: Calibration examples that repairs are fitted on.
        held_out: The others.
        seed: Seed of what is drawn.
    """

    model: Any
    plan_of: Callable[[str], Plan]
    budget: Budget
    fitted: Sequence[Batch]
    held_out: Sequence[Batch]
    seed: int

    @property
    def plan(self) -> Plan:
        """The plan as a budget makes it."""
        return self.plan_of("obs")

    @property
    def batches(self) -> list[Batch]:
        """All calibration examples."""
        return [*self.fitted, *self.held_out]

    @property
    def layers(self) -> list[PrunableLayer]:
        """The layers that the plan is about, in its order."""
        by_path = {layer.output_path: layer for layer in prunable_layers(self.model)}
        return [by_path[layer.path] for layer in self.plan.layers]

    def costs(self) -> tuple[dict[str, float], float]:
        """What a unit of each layer costs, and what all may cost."""
        sizes = [layer.sizes[0] for layer in self.plan.layers]
        costs = [float(own[0]) for own in self.plan.costs("macs", self.budget)]
        each = {layer.path: own / size for layer, own, size in zip(self.plan.layers, costs, sizes, strict=True)}
        return each, self.budget.target[1] * sum(costs)

    def kept(self, places: Places) -> KeptSet:
        """The kept set of some units."""
        kinds: dict[str, dict[int, list[int]]] = {"heads": {}, "neurons": {}}
        for layer in self.layers:
            units = layer.units
            left = [unit for place in places[layer.output_path] for unit in units[place]]
            kinds[layer.noun][layer.index] = sorted(left)
        return KeptSet(**kinds)


@dataclasses.dataclass(frozen=True)
class Proposal:
    """What a planner keeps.

    Attributes:
        kept: The units, of every layer.
        repaired: The model without the others, repaired in the planner's own way; ``None`` where it has none.
        repairing: Seconds that this repair took, where it is no part of the choosing.
    """

    kept: KeptSet
    repaired: Any = None
    repairing: float = 0.0


class Planner(abc.ABC):
    """A way of choosing what stays of a model under a budget."""

    @abc.abstractmethod
    def propose(self, job: Job, *, repair: bool = False) -> Proposal:
        """Chooses.

        Args:
            job: The model, the budget, the examples.
            repair: Whether the model is repaired in the planner's own way, too.

        Raises:
            BudgetError: No model that it could choose is within the budget.
            ConfigError: It has no meaning for this model.
        """


def best_first(scores: Mapping[str, Tensor], costs: Mapping[str, float], capacity: float) -> dict[str, list[int]]:
    """Keeps the units of the highest scores for their cost, whatever their layers, as long as they fit.

    Args:
        scores: Path -> score of each unit, ``(units,)``.
        costs: Path -> cost of a unit.
        capacity: What all may cost.

    Returns:
        Path -> places of the units that stay, ascending.
    """
    entries = [(path, place) for path, own in scores.items() for place in range(len(own))]
    worth = np.concatenate([own.double().cpu().numpy() / costs[path] for path, own in scores.items()])
    order = np.argsort(-worth, kind="stable")
    total = np.cumsum([costs[entries[number][0]] for number in order])
    kept: dict[str, list[int]] = {path: [] for path in scores}
    for number in order[: int(np.searchsorted(total, capacity * (1 + 1e-12), side="right"))]:
        path, place = entries[number]
        kept[path].append(place)
    return {path: sorted(places) for path, places in kept.items()}
