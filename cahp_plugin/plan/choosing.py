"""From a plan to the units that stay under a budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from transformers.utils import logging

from cahp_plugin.config import PlanSettings
from cahp_plugin.cost.budget import Budget
from cahp_plugin.cost.layers import at_length
from cahp_plugin.cost.times import Speed, TimeTable
from cahp_plugin.errors import BudgetError
from cahp_plugin.plan.knapsack import Array
from cahp_plugin.plan.outcome import Cost, Drop, Left, Outcome, points
from cahp_plugin.plan.plan import Plan
from cahp_plugin.plan.refine import Refined, refine
from cahp_plugin.plan.trials import Trials
from cahp_plugin.units import KeptSet

logger = logging.get_logger(__name__)

#: How near a measured speed has to be to what was asked for no correction of the plan, which is half of what is
#: promised, for it is measured again where it is used; what is promised; and how many corrections there are.
_NEAR, _WITHIN, _CORRECTIONS = 0.015, 0.03, 2
#: Shares of the layers' work that ``max_drop`` chooses among.
_SHARES = tuple(number / 100 for number in range(99, 0, -1))
#: Shares that are certified one after the other, until one is not.
_STEPS = tuple(number / 100 for number in range(95, 0, -5))

#: ``speed(sizes)``: the whole model of these sizes against the dense one, measured.
Measure = Callable[[Sequence[int]], Speed]
#: ``drop(model)``: points that a model loses on the evaluation set, with the interval.
Lost = Callable[[Any], tuple[float, float | None, float | None]]
#: ``walk(steps, repaired)``: the last of some models, from large to small, that is certified. Each is the share of the
#: layers' work that is left and the sizes, from which ``repaired`` makes it.
Walk = Callable[[Sequence[tuple[float, tuple[int, ...]]], Callable[[Sequence[int]], AbstractContextManager[Any]]], int]


@dataclasses.dataclass(frozen=True)
class Clocks:
    """Measured times.

    Attributes:
        table: Of each layer's sizes.
        speed: Of whole models.
    """

    table: TimeTable
    speed: Measure


class SizeChooser:
    """Chooses sizes under one budget.

    Args:
        plan: What was measured.
        budget: The budget.
        settings: How far the sizes are bettered.
        trials: Whole models to better them by.
    """

    def __init__(self, plan: Plan, budget: Budget, settings: PlanSettings, trials: Trials) -> None:
        self._plan, self._budget, self._settings, self._trials = plan, budget, settings, trials

    def by_work(self) -> tuple[KeptSet, Outcome]:
        """The units to keep under a budget for multiply-accumulates or parameters, and what is known of them.

        Raises:
            ConfigError: The budget is below the smallest model.
        """
        name, value = self._budget.target
        costs = self._plan.costs(name, self._budget)
        capacity = value * sum(float(own[0]) for own in costs)
        refined = self._refined(costs, capacity)
        return self._outcome(refined.sizes, refined)

    def _solve(self, costs: Sequence[Array], capacity: float, weights: Any = None) -> Any:
        return self._plan.solve(costs, capacity, self._budget, None if weights is None else list(weights))

    def _refined(self, costs: Sequence[Array], capacity: float) -> Refined:
        return refine(
            self._plan,
            lambda weights: self._solve(costs, capacity, weights),
            self._trials.divergences,
            self._settings,
        )

    def _reached(self, speed: Speed) -> float:
        """What is measured as a share of what was asked."""
        name, asked = self._budget.target
        return speed.ratio / asked if name == "speedup" else asked / speed.pruned_ms

    def by_time(self, clocks: Clocks) -> tuple[KeptSet, Outcome]:
        """The same under a budget of time.

        Args:
            clocks: Measured times.

        Raises:
            BudgetError: It can't be met.
        """
        name, asked = self._budget.target
        table, costs = clocks.table, [np.array(layer) for layer in clocks.table.layers]
        wanted = table.whole / asked if name == "speedup" else asked
        least = table.rest + self._plan.least(costs, self._budget)
        if wanted < least:
            raise BudgetError(
                f"{self._budget} can't be reached on this machine by pruning: the smallest model takes about "
                f"{least:.2f} ms of the dense one's {table.whole:.2f} ms ({table.whole / least:.2f} times as fast)."
            )
        found: Speed | None = None
        goal = wanted

        def met(weights: Sequence[float] | None) -> tuple[int, ...]:
            """Sizes whose measured time is near to what was asked; the goal is moved by what they miss it by."""
            nonlocal found, goal
            best: tuple[tuple[bool, float], Speed, tuple[int, ...], float] | None = None
            for correction in range(_CORRECTIONS + 1):
                sizes = self._solve(costs, max(goal, least) - table.rest, weights)
                speed = dataclasses.replace(clocks.speed(sizes), corrections=correction)
                miss = self._reached(speed) - 1
                logger.info(f"Measured with these sizes: {speed}.")
                rank = miss < -_WITHIN, abs(miss)  # too fast rather than too slow
                if best is None or rank < best[0]:
                    best = rank, speed, sizes, goal
                if abs(miss) <= _NEAR:
                    break
                goal *= 1 + miss
            assert best is not None
            _, found, sizes, goal = best
            return sizes

        sizes = met(None)
        refined = self._refined(costs, max(goal, least) - table.rest)
        if refined.sizes != sizes:
            sizes = met(refined.weights)
        if found is not None and not 1 - _WITHIN <= self._reached(found) <= 1 + _WITHIN:
            logger.warning(f"Asked for: {self._budget}. It came no nearer in {_CORRECTIONS} corrections than {found}.")
        return self._outcome(sizes, refined, speed=found)

    def by_drop(self, lost: Lost, walk: Walk | None = None) -> tuple[KeptSet, Outcome]:
        """The same of the smallest model that loses no more, by bisection: the smaller a model, the more it loses.

        With a walk, the smallest that is certified as well: the shares on the way there are fixed before it begins.

        Args:
            lost: Measures the drop.
            walk: Certifies models down to the one that the drop allows.

        Raises:
            BudgetError: No smaller model is allowed, or loses so little.
        """
        limit = self._budget.target[1]
        costs = self._plan.costs("macs", self._budget)
        whole = sum(float(own[0]) for own in costs)
        drops: list[Drop] = []

        def tried(share: float) -> Drop:
            with self._trials.as_saved(self._solve(costs, share * whole)) as model:
                drops.append(Drop(*lost(model), share))
            logger.info(f"{100 * share:.0f} % of the layers' work: {drops[-1]} lost.")
            return drops[-1]

        shares = [share for share in _SHARES if share * whole >= self._plan.least(costs, self._budget)]
        if not shares:
            raise BudgetError("No smaller model is allowed: nothing is left that `keep` and `units` let go.")
        low, high = -1, len(shares)  # the last known to be within the limit, the first known not to be
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if tried(shares[middle]).value <= limit else (low, middle)
        if low < 0:
            best = min(drops, key=lambda drop: drop.value)
            raise BudgetError(
                f"No smaller model loses at most {limit:g} points: the best, with {100 * best.macs:.0f} % of the "
                f"layers' work, loses {best}. Allow more, give more calibration examples, or fine-tune after the "
                "repair (`--recover least-squares+finetune` with a budget for `macs`)."
            )
        chosen = next(drop for drop in drops if drop.macs == shares[low])
        better, sizes = self._refined(costs, shares[low] * whole), self._solve(costs, shares[low] * whole)
        refined: Refined | None = better
        if better.sizes != sizes:
            with self._trials.as_saved(better.sizes) as model:
                other = Drop(*lost(model), shares[low])
            if other.value <= limit:
                sizes, chosen = better.sizes, other
            else:
                refined = None
        if walk is not None:
            larger = [share for share in _STEPS if share > chosen.macs]
            steps = [*((share, self._solve(costs, share * whole)) for share in larger), (chosen.macs, sizes)]
            share, sizes = steps[walk(steps, self._trials.as_saved)]
            if share != chosen.macs:
                refined, chosen = None, next((drop for drop in drops if drop.macs == share), None) or tried(share)
        drops = [drop for drop in drops if drop is not chosen] + [chosen]
        return self._outcome(sizes, refined, drops=tuple(drops))

    def _outcome(
        self,
        sizes: Sequence[int],
        refined: Refined | None,
        *,
        speed: Speed | None = None,
        drops: tuple[Drop, ...] = (),
    ) -> tuple[KeptSet, Outcome]:
        plan, budget = self._plan, self._budget
        macs, parameters = plan.share(sizes, "macs", budget), plan.share(sizes, "parameters", budget)
        work = at_length(plan.macs, budget.sequence_length)
        layers_work, layers_parameters = (
            sum(float(own[0]) for own in plan.costs(name, budget)) for name in ("macs", "parameters")
        )
        return plan.kept(sizes), Outcome(
            budget=budget.to_dict(),
            told=str(budget),
            planning=dataclasses.asdict(self._settings) | {"order": plan.settings["order"]},
            ridge=plan.ridge,
            compared=plan.compared,
            layers=tuple(
                Left(layer.name, layer.kind, layer.index, layer.sizes[0] * layer.group_size, size * layer.group_size)
                for layer, size in zip(plan.layers, sizes, strict=True)
            ),
            macs=Cost(macs, work, work - (1 - macs) * layers_work),
            parameters=Cost(parameters, plan.parameters, plan.parameters - (1 - parameters) * layers_parameters),
            predicted=plan.loss(sizes),
            divergence=float(self._trials.divergences(sizes).mean()),
            refined=refined,
            curve=points([(point["macs"], point["loss"]) for point in plan.curve(budget)]),
            measured=points(
                [(plan.share(own, "macs", budget), float(values.mean())) for own, values in self._trials.known.items()]
            ),
            speed=speed,
            drops=drops,
            seconds=dict(plan.seconds),
        )
