"""Planners that take the sizes of a plan, or the same share of every layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from cahp_plugin.cost.budget import Units
from cahp_plugin.errors import BudgetError, ConfigError
from cahp_plugin.plan.plan import LayerPlan
from cahp_plugin.planners.base import Job, Planner, Proposal
from cahp_plugin.units import PrunableLayer
from cahp_plugin.units.linear import weight_of

#: Shares that an even plan takes of every layer, from large to small.
_SHARES = tuple(number / 1000 for number in range(1000, -1, -1))


@dataclasses.dataclass(frozen=True)
class Planned(Planner):
    """The sizes of the least predicted loss.

    Args:
        units: ``"both"``, ``"heads"`` or ``"neurons"``: what may go.
        order: Name of the selector that orders the heads.
    """

    units: Units = "both"
    order: str = "obs"

    def propose(self, job: Job, *, repair: bool = False) -> Proposal:
        """See the base class."""
        plan = job.plan_of(self.order)
        if self.units != "both" and not any(layer.kind == self.units for layer in plan.layers):
            raise ConfigError(f"The model has no {self.units} that can be pruned.")
        budget = dataclasses.replace(job.budget, units=self.units)
        costs = plan.costs("macs", budget)
        least = plan.least(costs, budget) / sum(float(own[0]) for own in costs)
        if least > budget.target[1]:
            raise BudgetError(f"without any {self.units}, {100 * least:.1f} % of the work is left")
        return Proposal(plan.keep(budget))


@dataclasses.dataclass(frozen=True)
class Even(Planner):
    """The same share of the units of every layer.

    Args:
        order: Which units of a layer go last: ``"plan"`` as in the plan, ``"magnitude"`` those of the largest norm,
            or ``"random"``.
    """

    order: str = "plan"

    def propose(self, job: Job, *, repair: bool = False) -> Proposal:
        """See the base class."""
        costs, capacity = job.costs()

        def sizes(share: float) -> list[int]:
            return [_size(layer, share, job.budget.multiple_of) for layer in job.plan.layers]

        def within(found: Sequence[int]) -> bool:
            used = sum(costs[layer.path] * size for layer, size in zip(job.plan.layers, found, strict=True))
            return used <= capacity * (1 + 1e-12)

        found = next(filter(within, map(sizes, _SHARES)))
        generator = torch.Generator().manual_seed(job.seed)
        places = {}
        for layer, own, size in zip(job.layers, job.plan.layers, found, strict=True):
            if self.order == "magnitude":
                order = norms(layer).argsort(descending=True, stable=True).tolist()
            elif self.order == "random":
                order = torch.randperm(len(own.order), generator=generator).tolist()
            else:
                place_of = {unit[0]: place for place, unit in enumerate(layer.units)}
                order = [place_of[first] for first in own.order]
            places[own.path] = order[:size]
        return Proposal(job.kept(places))


def _size(layer: LayerPlan, share: float, multiple_of: int) -> int:
    """A share of a layer's units: heads to the nearest, neurons in multiples from below."""
    total = len(layer.order)
    if layer.kind == "heads":
        return int(share * total + 0.5)
    return total if share == 1 else int(share * total / multiple_of) * multiple_of


def norms(layer: PrunableLayer) -> torch.Tensor:
    """Euclidean norm of each unit's weights, into and out of it: ``(units,)``."""
    out = weight_of(layer.output).detach().double().square().sum(0)
    total = out.reshape(len(layer.units), layer.unit_dim).sum(1).cpu()
    for path, module in layer.projections().items():
        rows = weight_of(module).detach().double().square().sum(1).cpu()
        total += torch.stack([rows[layer.outputs(path, unit)].sum() for unit in layer.units])
    return total.sqrt()
