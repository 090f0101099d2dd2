"""Wires a budget: calibration examples, plan, measured times, drop on the evaluation set."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from transformers.utils import logging

from cahp_plugin.config import CAHPConfig, PlanSettings, RecoverySettings
from cahp_plugin.cost.budget import Budget
from cahp_plugin.cost.times import How, speed_of, time_table
from cahp_plugin.errors import CheckpointError, ConfigError
from cahp_plugin.export import export_pruned
from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.inputs import fixed_length
from cahp_plugin.observe.streams import apart, calibration_batches
from cahp_plugin.plan.choosing import Clocks, Lost, SizeChooser, Walk
from cahp_plugin.plan.compared import compared_of
from cahp_plugin.plan.making import EVERY, RIDGE, plan_pruning
from cahp_plugin.plan.outcome import Outcome
from cahp_plugin.plan.plan import Plan, fingerprint_of_batches
from cahp_plugin.plan.trials import Trials
from cahp_plugin.processes import processes
from cahp_plugin.prune import save_pruned
from cahp_plugin.recover import recover_least_squares
from cahp_plugin.recover.pruned import prune_to
from cahp_plugin.tasks import Evaluation, Examples
from cahp_plugin.tasks.metrics import METRICS, Score, bootstrap_interval
from cahp_plugin.units import KeptSet, prunable_layers
from cahp_plugin.units.positions import max_positions
from cahp_plugin.units.state import fingerprint_of_model
from cahp_plugin.workflow.sets import drawn

#: Of the lengths of an evaluation set, the quantiles that times are the mean over.
_QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What stays under a budget.

    Attributes:
        kept: The units.
        outcome: What is known of them.
        plan: What they were chosen by.
        fitted: Batches that the repair is fitted on.
        held_out: Batches that it is checked on.
    """

    kept: KeptSet
    outcome: Outcome
    plan: Plan
    fitted: list[Batch]
    held_out: list[Batch]

    def repair(self, model: Any, dense: Any) -> None:
        """Repairs the pruned model, in place, as the plan counts on it."""
        repair_as_planned(model, dense, self.fitted, self.held_out, self.plan.ridge)


def repair_as_planned(
    model: Any, dense: Any, fitted: Sequence[Batch], held_out: Sequence[Batch], ridge: float
) -> None:
    """Repairs a pruned model, in place, by least squares on the calibration examples of a plan."""
    inputs, checked = ([batch.inputs for batch in own] for own in (fitted, held_out))
    recover_least_squares(model, dense, inputs, num_examples=sum(map(len, fitted)), ridge=ridge, held_out=checked)


def calibration_of(
    model: Any,
    examples: Examples,
    settings: RecoverySettings,
    seed: int,
    more: int = 0,
    without: Collection[int] = (),
) -> tuple[list[Batch], list[Batch]]:
    """The examples of a training set that plans and repairs look at, drawn by a seed, in batches by length.

    Args:
        model: The model.
        examples: The training set.
        settings: Number of examples, and the batch size.
        seed: Seed of the draw.
        more: Further examples, for the second result.
        without: Rows that none of the further examples may be from.

    Returns:
        The batches, and those of the further examples, as far as there are any.
    """
    first, others = drawn(examples, settings.calibration_examples, seed)
    found = []
    for chosen in (first, [index for index in others if examples.rows[index] not in without][:more]):
        sample = examples.select(chosen).by_length()
        size = max(1, min(settings.batch_size, len(sample) // (2 * EVERY)))  # of a few examples, not all in one batch
        found.append(calibration_batches(sample.batches(size), model, len(sample), labels=True) if chosen else [])
    return found[0], found[1]


def make_plan(
    model: Any,
    batches: Sequence[Batch],
    settings: PlanSettings,
    config: CAHPConfig,
    multiple_of: int,
    progress: Path | None,
) -> Plan:
    """Measures a model's layers; see :func:`cahp_plugin.plan_pruning`."""
    return plan_pruning(
        model,
        [batch.given for batch in batches],
        num_examples=sum(map(len, batches)),
        order=settings.order,
        ridge=RIDGE,
        multiple_of=multiple_of,
        config=config,
        progress=progress,
    )


def check_plan(plan: Plan, model: Any, batches: Sequence[Batch]) -> None:
    """Makes sure that a plan is of this model and these examples.

    Raises:
        CheckpointError: It is not.
    """
    if plan.model != fingerprint_of_model(model):
        raise CheckpointError("The plan is of another model, or of other weights of it. Make one with `cahp plan`.")
    there = {layer.output_path: [unit[0] for unit in layer.units] for layer in prunable_layers(model) if layer.present}
    if {layer.path: sorted(layer.order) for layer in plan.layers} != there:
        raise CheckpointError("The plan names other layers or units than the model has: its file was changed.")
    if plan.data != fingerprint_of_batches(batches):
        raise CheckpointError(
            f"The plan was made on other examples: {plan.settings['num_examples']} of them. Give the same training "
            "set, `--seed`, `--calibration-examples` and `--batch-size`, or make a plan with `cahp plan`."
        )


def choose_under(
    model: Any,
    budget: Budget,
    batches: Sequence[Batch],
    further: Sequence[Batch] = (),
    *,
    processor: Any,
    plan: Plan | None,
    planning: PlanSettings,
    config: CAHPConfig,
    evaluate: Callable[[Any], Evaluation] | None,
    dense: Evaluation | None,
    lengths: Sequence[int],
    graphs: Mapping[str, Any] = MappingProxyType({}),
    progress: Path | None = None,
    walk: Walk | None = None,
) -> Chosen:
    """Chooses what stays of a model under a budget; the model is left as it is.

    Args:
        model: The dense model.
        budget: The budget.
        batches: Calibration examples, as :func:`calibration_of` gives them.
        further: More of them, for the refinement.
        processor: Its tokenizer or processor, for graphs that are timed.
        plan: A plan of this model and these examples, which is not checked again; made without it.
        planning: How the plan is made and bettered.
        config: Seed, and the settings of the selector that orders the heads.
        evaluate: Evaluates a model, for ``max_drop``.
        dense: How the dense model does.
        lengths: Tokens of the evaluation examples, for ``lengths="data"``.
        graphs: Arguments of ``export_pruned`` for the graphs that are timed.
        progress: File of what was measured so far.
        walk: Certifies models, for ``max_drop``.

    Raises:
        BudgetError: The budget can't be met.
        ConfigError: Something that the budget needs is missing.
    """
    if budget.target[0] == "max_drop" and (evaluate is None or dense is None):
        raise ConfigError("`max_drop` needs labelled evaluation examples: give `--eval`.")
    if budget.lengths == "data" and not lengths:
        raise ConfigError("`lengths='data'` needs evaluation examples: give `--eval`.")
    if plan is None:
        plan = make_plan(model, batches, planning, config, budget.multiple_of, progress)
    plan.allowed(budget)  # patterns that match nothing are told before the work
    fitted, held_out = apart(batches, EVERY)
    trials = Trials(model, plan, fitted, [*held_out, *further], compared_of(model))
    chooser = SizeChooser(plan, budget, planning, trials)

    def choose() -> tuple[KeptSet, Outcome]:
        if not budget.timed:
            return chooser.by_work()
        how = _how(model, budget, lengths, graphs)
        with _clocks(model, plan, how, batches[0], processor, graphs) as clocks:
            return chooser.by_time(clocks)

    if evaluate is not None and dense is not None and budget.target[0] == "max_drop":
        kept, outcome = chooser.by_drop(_lost(evaluate, dense), walk)  # every process evaluates its share
    else:
        kept, outcome = processes().share(choose)
    return Chosen(kept, outcome, plan, fitted, held_out)


def _how(model: Any, budget: Budget, lengths: Sequence[int], graphs: Mapping[str, Any]) -> How:
    tokens: tuple[int, ...] | None = (min(budget.sequence_length, max_positions(model) or budget.sequence_length),)
    if fixed_length(model.config) is not None:
        tokens = None
    elif budget.lengths == "data":
        tokens = tuple(sorted({max(1, round(float(np.quantile(lengths, share)))) for share in _QUANTILES}))
    device = "cuda" if budget.runtime == "torch" and model.device.type == "cuda" else "cpu"
    precision = " ".join(filter(None, ("int8" if graphs.get("quantize") else "fp32", graphs.get("optimize"))))
    return How(budget.runtime, precision, tokens, budget.latency_batch_size, budget.threads, device)


@contextlib.contextmanager
def _clocks(
    model: Any, plan: Plan, how: How, batch: Batch, processor: Any, graphs: Mapping[str, Any]
) -> Iterator[Clocks]:
    """Measured times of a model's layers and of whole models, written to a temporary folder."""
    full = [layer.sizes[0] for layer in plan.layers]
    with tempfile.TemporaryDirectory(prefix="cahp-") as name:
        work = Path(name)
        made: dict[tuple[int, ...], Path] = {}

        def make(sizes: Sequence[int]) -> Path:
            key = tuple(sizes)
            if key not in made:
                made[key] = _written(work / str(len(made)), key)
            return made[key]

        def _written(place: Path, sizes: tuple[int, ...]) -> Path:
            cut = copy.deepcopy(model).cpu()
            prune_to(cut, plan.kept(sizes), batch)
            if how.runtime == "torch":
                save_pruned(cut, place, model_card=False)
                return place
            with without_bars():  # there is one for all
                export_pruned(cut, place, tokenizer=processor, **graphs)
            return place

        shape = f"{type(model).__name__} {model.config.to_json_string()}"
        table = time_table([(layer.path, layer.sizes) for layer in plan.layers], how, make, shape)
        yield Clocks(table, lambda sizes: speed_of(make(full), make(sizes), how))


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Shows no progress while the context is open."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _lost(evaluate: Callable[[Any], Evaluation], before: Evaluation) -> Lost:
    """Points that a model loses against the dense one on the same examples, with the 95 % interval."""

    def lost(model: Any) -> tuple[float, float | None, float | None]:
        after = evaluate(model)
        value = drop_of(before.score, before.score.value, after.score.value)
        metric = METRICS.get(before.score.name)
        if metric is None or len(before.rows) != len(after.rows) or len(before.rows) < 2:
            return value, None, None
        low, high = bootstrap_interval(
            lambda drawn: drop_of(before.score, metric.value(before.rows[drawn]), metric.value(after.rows[drawn])),
            len(before.rows),
            metric.resamples,
        )
        return value, low, high

    return lost


def drop_of(score: Score, before: float, after: float) -> float:
    """What was lost from one number to another of the same kind.

    In points: hundredths of shares and of numbers that are better when they are higher, such as correlations. Of
    others, such as perplexity, in per cent of the first.
    """
    if score.percent or score.higher_is_better:
        return 100 * (before - after) * (1 if score.higher_is_better else -1)
    return 100 * (after / before - 1)
