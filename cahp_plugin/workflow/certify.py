"""The certificate of a budget: held-out examples in, the smallest model that they certify out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from cahp_plugin.cost.budget import Budget
from cahp_plugin.errors import BudgetError, ConfigError, DataError
from cahp_plugin.export import export_pruned
from cahp_plugin.export.runner import open_graphs
from cahp_plugin.plan.certificate import CONFIDENCE, Array, enough, fewest, least_refuted, refuted
from cahp_plugin.processes import processes
from cahp_plugin.prune.certificate import INT8, Certificate, would_do
from cahp_plugin.tasks import Examples, Task, evaluate
from cahp_plugin.tasks.metrics import METRICS, Metric
from cahp_plugin.units.state import fingerprint_of_model
from cahp_plugin.workflow.budget import without_bars
from cahp_plugin.workflow.held_out import HeldOut, registry, used_before
from cahp_plugin.workflow.sets import JobSets

logger = logging.get_logger(__name__)


def check_certify(budget: Budget | None, certify: Any, confidence: float, group_column: str | None) -> None:
    """Makes sure that the options of a certificate go together.

    Raises:
        ConfigError: They do not.
    """
    if certify is None:
        alone = [f"`{name}`" for name, given in (("confidence", confidence != CONFIDENCE),
                                                 ("group_column", group_column is not None)) if given]  # fmt: skip
        if alone:
            raise ConfigError(f"{' and '.join(alone)} given without `certify` (`--certify`): nothing is certified.")
        return
    if budget is None or budget.max_drop is None:
        raise ConfigError("`certify` is for a drop: give `max_drop` (`--max-drop`), the points that may be lost.")
    if not budget.max_drop > 0:
        raise ConfigError("No number of examples certifies that nothing is lost: give a `max_drop` above 0.")
    if isinstance(confidence, bool) or not isinstance(confidence, float) or not 0.5 < confidence < 1:
        raise ConfigError(f"`confidence` must be a number in (0.5, 1); got {confidence!r}.")


def certifiable(task: Task, examples: Examples, asked: str | None) -> Metric:
    """The number that is certified: the one that the job reports first.

    Raises:
        ConfigError: It is no mean of scores in [0, 1], one of each example.
    """

    def fits(metric: Metric) -> bool:
        return metric.is_mean and metric.percent and metric.higher_is_better

    metric = task.chosen_metrics(examples, asked)[0]
    if metric.name not in METRICS or not fits(metric):
        names = [name for name in (*task.metrics_of(examples), *task.more_metrics) if fits(METRICS[name])]
        other = f"`metric` may be {' or '.join(names)}" if names else f"{task.name} has no such number"
        raise ConfigError(
            f"What is certified has to be the mean of a score of each example, in [0, 1], which {metric.name} is not: "
            f"{other}. Leave `certify` out, or certify another number."
        )
    return metric


class Certifier:
    """Tests models on held-out examples; made ready before anything that takes long.

    Args:
        model: The dense model; unchanged.
        data: The rows to certify on, as a ``datasets.Dataset``.
        sets: The job's sets, encoded.
        budget: The budget, for ``max_drop``.
        task: The task.
        metric: Name of the number; the task's without it.
        confidence: 1 - alpha.
        group_column: See :class:`HeldOut`.
        seed: Seed of the order.
        batch_size: Examples a batch.
        follows: What else the models that are tested follow from.
        graphs: Arguments of ``export_pruned``, where it is the graph of a model that is certified.
        processor: The model's tokenizer or processor, for graphs.

    Raises:
        ConfigError: The number can't be certified, or there is no evaluation set.
        DataError: There are so few examples that no model could be certified, or some can't be used or scored.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        sets: JobSets,
        *,
        budget: Budget,
        task: Task,
        metric: str | None,
        confidence: float,
        group_column: str | None,
        seed: int,
        batch_size: int,
        follows: Sequence[Any],
        graphs: Mapping[str, Any] | None = None,
        processor: Any = None,
    ) -> None:
        if sets.evaluation is None or budget.max_drop is None or sets.certification is None:
            raise ConfigError("`max_drop` needs labelled evaluation examples: give `--eval`.")
        self._metric = certifiable(task, sets.evaluation, metric)
        looked_at = [sets.train, sets.evaluation]
        self._held = held = HeldOut(data, sets.certification, looked_at, seed=seed, group_column=group_column)
        told = {
            "model": fingerprint_of_model(model), "train": sets.train.fingerprint(), "budget": budget.to_dict(),
            "evaluation": sets.evaluation.fingerprint(), "metric": self._metric.name, "confidence": confidence,
            "groups": group_column, "graphs": None if graphs is None else dict(graphs),
            "follows": list(map(str, follows)),
        }  # fmt: skip
        self._what = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]
        self._points, self._confidence, self._batch_size = budget.max_drop, confidence, batch_size
        self._graphs, self._processor = graphs, processor
        self.precision = INT8 if graphs is not None else str(model.dtype).removeprefix("torch.")
        self.precision = "fp32" if self.precision == "float32" else self.precision
        least = fewest(self._points / 100, confidence)
        if least is None or held.units < least:
            kind = "examples" if held.groups is None else "groups of examples"
            would = "no million does" if least is None else f"at least {least:,} are needed"
            raise DataError(
                f"{held.units:,} {kind} are too few to certify a drop of {self._points:g} points at "
                f"{100 * confidence:g} %: {would}, even if the models never differ. Give more, or allow more "
                "(`--max-drop`)."
            )
        self._used: int | None = None
        self._fixed, self._stopped, self._enough = True, None, None  # type: tuple[bool, float | None, int | None]
        self._walked = False
        self._dense = self._rows(model)

    @property
    def of_graph(self) -> bool:
        """Whether it is the graph of a model that is certified."""
        return self._graphs is not None

    def walk(
        self,
        steps: Sequence[tuple[float, Sequence[int]]],
        repaired: Callable[[Sequence[int]], AbstractContextManager[Any]],
    ) -> int:
        """The last model that is certified: one after the other is tested, until one fails.

        So each that passes is certified, at the same confidence for all (fixed-sequence testing; Angelopoulos et al.,
        "Learn then test", arXiv 2110.01052).

        Args:
            steps: Share of the layers' work and sizes of each model, from large to small, fixed beforehand.
            repaired: Makes a model of sizes.

        Raises:
            BudgetError: The first fails.
        """
        self._spend()
        self._fixed, self._walked = len(steps) == 1, True
        for number, (share, sizes) in enumerate(steps):
            with repaired(sizes) as model, self._runner(model) as runner:
                losses = self._losses(runner)
            sure = bool(refuted(losses, self._points / 100, self._confidence))
            logger.info(
                f"{100 * share:.0f} % of the layers' work: {100 * losses.mean():.2f} points lost on {len(losses):,} "
                f"{'examples' if self._held.groups is None else 'groups'}, {'' if sure else 'not '}certified."
            )
            if not sure:
                self._stopped, self._enough = share, enough(losses, self._points / 100, self._confidence)
                if number == 0:
                    raise BudgetError(self._refusal(share, losses, smallest=len(steps) == 1))
                return number - 1
        return len(steps) - 1

    def certificate(self, model: Any, share: float) -> Certificate:
        """What can be said of the model, or the runner of its graph, that came out.

        Args:
            model: The model.
            share: Share of the layers' multiply-accumulates that it keeps.

        Raises:
            BudgetError: A walk has certified it, or one like it, and it is not certified after all.
        """
        self._spend()
        losses, held, limit = self._losses(model), self._held, self._points / 100
        certified = bool(refuted(losses, limit, self._confidence))
        least = 100 * least_refuted(losses, self._confidence)
        bound = None if least >= 100 else round(least, 4)
        if certified:  # of a model that was chosen among several, no more than what all were tested for
            bound = min(bound or 100.0, self._points) if self._fixed else self._points
        found = Certificate(
            metric=self._metric.name,
            drop=self._points,
            confidence=self._confidence,
            certified=certified,
            examples=held.count,
            groups=held.groups,
            group_column=held.column,
            dropped=held.dropped,
            differing=int((losses != 0).sum()),
            observed=round(100 * float(losses.mean()), 6),
            bound=bound,
            share=share,
            seed=held.seed,
            data=held.fingerprint,
            precision=self.precision,
            used_before=self._used or 0,
            stopped=self._stopped if certified else None,
            enough=self._enough if certified else enough(losses, limit, self._confidence),
        )
        if not certified and self._walked:
            raise BudgetError(
                f"The model that came out is not the one that was certified: {' '.join(found.sentences())} "
                "Nothing is written."
            )
        if not certified:
            logger.warning(" ".join(found.sentences()))
        return found

    def _rows(self, model: Any) -> Array:
        rows = evaluate(model, self._held.examples, metric=self._metric.name, batch_size=self._batch_size).rows
        if len(rows) != self._held.count:
            missing = self._held.count - len(rows)
            raise DataError(f"{missing:,} of the examples to certify on hold nothing to score: leave them out.")
        return rows

    def _losses(self, model: Any) -> Array:
        """What each example, or group, loses, in the order that was drawn."""
        return self._held.drawn(np.clip(self._dense - self._rows(model), -1, 1))

    @contextlib.contextmanager
    def _runner(self, model: Any) -> Iterator[Any]:
        if self._graphs is None:
            yield model
            return
        with tempfile.TemporaryDirectory(prefix="cahp-") as name:
            with without_bars():
                export_pruned(model.cpu(), Path(name) / "graph", tokenizer=self._processor, **self._graphs)
            yield open_graphs(Path(name) / "graph")

    def _refusal(self, share: float, losses: Array, *, smallest: bool) -> str:
        least = least_refuted(losses, self._confidence)
        can = "nothing" if least >= 1 else f"that at most {100 * least:.1f} points are lost"
        which = "The model" if smallest else "The largest smaller model"
        kind = "examples" if self._held.groups is None else "groups"
        return (
            f"{which}, with {100 * share:.0f} % of the layers' work, can't be certified to lose at most "
            f"{self._points:g} points: {100 * losses.mean():.2f} points are lost on the {len(losses):,} {kind}. What "
            f"can be certified of it at {100 * self._confidence:g} %: {can}. "
            f"{would_do(self._enough, self._held.groups is not None)} Or allow more (`--max-drop`)."
        )

    def _spend(self) -> None:
        """Notes that the examples are used, once."""
        if self._used is not None:
            return
        self._used = processes().share(lambda: used_before(self._held, self._what))
        if self._used:
            logger.warning(
                f"The examples to certify on were used for {self._used} other certificate(s) before "
                f"({registry()}): the confidence holds for each alone, not for all together nor "
                "for a choice among them."
            )
