"""Models that planners make for a comparison: chosen once for each share and seed, whatever recoveries follow."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from cahp_plugin.compare.summary import OWN
from cahp_plugin.config import CAHPConfig, PlanSettings, RecoverySettings
from cahp_plugin.cost.budget import Budget
from cahp_plugin.errors import BudgetError, CheckpointError, ConfigError
from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.streams import apart, calibration_batches
from cahp_plugin.plan.compared import compared_of
from cahp_plugin.plan.knapsack import Array
from cahp_plugin.plan.making import EVERY, RIDGE
from cahp_plugin.plan.plan import PLAN_NAME, Plan
from cahp_plugin.plan.trials import Reference
from cahp_plugin.planners import PLANNERS, make_planner
from cahp_plugin.planners.base import Job, Proposal
from cahp_plugin.processes import processes
from cahp_plugin.recover.pruned import pruned_copy
from cahp_plugin.recover.settings import repair, train_again
from cahp_plugin.recover.state import at_rest
from cahp_plugin.tasks import Examples
from cahp_plugin.workflow.budget import calibration_of, check_plan, make_plan, repair_as_planned

logger = logging.get_logger(__name__)


class Planned:
    """Models under budgets, each made by a planner from the calibration examples of a seed.

    Plans are kept in the comparison's folder, below ``plans``.

    Args:
        model: The dense model; unchanged.
        train: The training set.
        test: What outputs are compared on.
        folder: Folder of the comparison.
        config: Settings of CAHP, for its order.
        recovery: Number of calibration examples, and the settings of the recoveries.
        sequence_length: Tokens an example, for costs.
        own: Whether the planners' own repairs will be asked for.

    Attributes:
        missed: Planner, share, and why it could not be reached.
    """

    def __init__(
        self,
        model: Any,
        train: Examples,
        test: Examples,
        folder: Path,
        config: CAHPConfig,
        recovery: RecoverySettings,
        sequence_length: int,
        own: bool,
    ) -> None:
        self._model, self._train, self._folder = model, train, folder
        self._config, self._recovery, self._length, self._own = config, recovery, sequence_length, own
        self._batches: dict[int, list[Batch]] = {}
        self._plans: dict[tuple[str, int], Plan] = {}
        self._proposed: tuple[Any, Proposal | None, float] = None, None, 0.0
        batches = calibration_batches(test.batches(recovery.batch_size), model, len(test), labels=True)
        self._reference = Reference(model, batches, compared_of(model))
        _, first, self._row = np.unique(test.rows, return_index=True, return_inverse=True)
        self._rows = np.argsort(first)  # in the order of the examples
        self.missed: list[tuple[str, float, str]] = []

    def make(self, name: str, share: float, seed: int, how: str) -> tuple[Any, float, float] | None:
        """Prunes a copy of the model, and recovers it.

        Args:
            name: Name of the planner.
            share: Share of the layers' multiply-accumulates that may stay.
            seed: Seed of the calibration examples and of whatever is drawn.
            how: The recovery.

        Returns:
            The model, and the seconds of choosing and of recovering; ``None`` where the share can't be reached.
        """
        proposal, choosing = self._propose(name, share, seed)
        if proposal is None:
            return None
        if how == OWN:
            return copy.deepcopy(proposal.repaired).to(self._model.device), choosing, proposal.repairing
        fitted, held_out = apart(self._of(seed), EVERY)
        model = pruned_copy(self._model, proposal.kept, fitted[0])
        start = time.perf_counter()
        settings = dataclasses.replace(self._recovery, method=how)  # type: ignore[arg-type]  # checked before
        if settings.closed_form == "least-squares":
            repair_as_planned(model, self._model, fitted, held_out, RIDGE)
        else:
            repair(model, self._model, self._train, settings, seed=seed)
        train_again(model, self._model, self._train, settings, seed=seed)
        return model, choosing, time.perf_counter() - start

    def divergences(self, model: Any) -> Array:
        """How far a model's outputs are from the dense one's: by rows, the mean of its examples."""
        with at_rest(self._model, model):
            found = self._reference.divergences(model)
        return (np.bincount(self._row, found) / np.bincount(self._row))[self._rows]

    def _of(self, seed: int) -> list[Batch]:
        """The calibration examples of a seed."""
        if seed not in self._batches:
            self._batches = {seed: calibration_of(self._model, self._train, self._recovery, seed)[0]}
        return self._batches[seed]

    def _plan(self, order: str, seed: int) -> Plan:
        """The plan of a seed with an order of the heads; read back where an earlier call has made it."""
        if (order, seed) not in self._plans:
            here, folder = processes(), self._folder / "plans" / f"{order}-{seed}"
            plan = here.share(lambda: Plan.load(folder) if (folder / PLAN_NAME).exists() else None)
            if plan is not None:
                try:
                    check_plan(plan, self._model, self._of(seed))
                except CheckpointError as error:
                    raise CheckpointError(f"{folder} is of another set-up: {error}") from error
            else:
                settings, config = PlanSettings(order=order), dataclasses.replace(self._config, seed=seed)
                progress = self._folder / f"plan-{order}-{seed}.jsonl"
                made = plan = make_plan(self._model, self._of(seed), settings, config, 16, progress)
                here.share(lambda: made.save(folder))
                progress.unlink(missing_ok=True)
            self._plans[order, seed] = plan
        return self._plans[order, seed]

    def _propose(self, name: str, share: float, seed: int) -> tuple[Proposal | None, float]:
        """What a planner keeps, as the first process has it, and the seconds that this took, without the plan's."""
        key = (name, share, seed)
        if self._proposed[0] == key:
            return self._proposed[1:]
        plans = {order: self._plan(order, seed) for order in dict.fromkeys(("obs", PLANNERS[name].order))}
        fitted, held_out = apart(self._of(seed), EVERY)
        budget = Budget(macs=share, sequence_length=self._length)
        job = Job(self._model, plans.__getitem__, budget, fitted, held_out, seed)

        def propose() -> Proposal | str:
            try:
                with at_rest(self._model):
                    found = make_planner(name).propose(job, repair=self._own and PLANNERS[name].own_repair)
            except (BudgetError, ConfigError) as error:
                return str(error).removesuffix(".")
            return dataclasses.replace(found, repaired=found.repaired and found.repaired.cpu())

        start = time.perf_counter()
        found = processes().share(propose)
        if isinstance(found, str):
            if (name, share, found) not in self.missed:
                self.missed.append((name, share, found))
                logger.warning(f"{name} has no model with {100 * share:g} % of the work: {found}.")
            self._proposed = key, None, 0.0
        else:
            self._proposed = key, found, time.perf_counter() - start - found.repairing
        return self._proposed[1:]


def wanted_of(
    planners: Sequence[str], shares: Sequence[float], seeds: Sequence[int], recoveries: Sequence[str]
) -> list[tuple[str, float, int, str]]:
    """Keys of the runs of planners; those of one choice stand together."""
    found = [
        (name, round(100 * share, 6), seed, how)
        for seed in seeds
        for share in shares
        for name in planners
        for how in recoveries
        if how != OWN or PLANNERS[name].own_repair
    ]
    return list(dict.fromkeys(found))
