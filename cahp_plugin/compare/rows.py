"""Runs taken together over seeds: means, spread, and the difference from CAHP with its interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cahp_plugin.compare.runs import Run
from cahp_plugin.tasks.metrics import METRICS, Score, bootstrap_interval

DENSE = "dense"
#: What others are held against: among ways of choosing heads, and among planners under a budget.
REFERENCE, PLANNED = "cahp", "joint"


@dataclasses.dataclass(frozen=True)
class Row:
    """One way of choosing what stays, at one size and after one recovery.

    Attributes:
        method: Name of the way.
        size: Heads kept; under a budget, the % of the work that it allowed.
        recover: Recovery.
        num_seeds: Runs behind it.
        mean: Mean of the metric over the runs; a share in [0, 1] where it is shown in %.
        deviation: Standard deviation over the runs; ``None`` for a single one.
        loss: Mean loss, nat; ``None`` where the runs had none.
        difference: Mean minus that of the reference, ``None`` for it and where it was not run.
        interval: Its 95 % bootstrap interval over test examples, both evaluated on the same ones; ``None`` where it is
            not known what each example adds.
        seconds: Median seconds of choosing and recovering.
        validation: Mean of the metric on the validation set; ``None`` where the runs had none.
        metric: Name of the metric.
        higher_is_better: Its direction.
        percent: Whether it is shown in %.
        planned: Whether it is under a budget: the reference is the planner then, else CAHP.
        divergence: Mean divergence from the dense model's outputs over runs and examples, where it was measured.
        farther: It less that of the reference, with its 95 % bootstrap interval over test examples.
    """

    method: str
    size: float
    recover: str
    num_seeds: int
    mean: float
    deviation: float | None
    loss: float | None
    difference: float | None
    interval: tuple[float, float] | None
    seconds: float
    validation: float | None
    metric: str = "accuracy"
    higher_is_better: bool = True
    percent: bool = True
    planned: bool = False
    divergence: float | None = None
    farther: tuple[float, float, float] | None = None

    @property
    def reference(self) -> str:
        """What it is held against."""
        return PLANNED if self.planned else REFERENCE

    @property
    def at(self) -> str:
        """Its size in words."""
        return told_size(self.size, self.planned and self.method != DENSE)

    @property
    def score(self) -> Score:
        """The mean as a score."""
        return Score(self.metric, self.mean, None, self.higher_is_better, self.percent)

    @property
    def side(self) -> int | None:
        """1 where the interval says better than the reference, -1 for worse, 0 where it holds zero; else ``None``."""
        if self.interval is None:
            return None
        above = (self.interval[0] > 0) - (self.interval[1] < 0)
        return above if self.higher_is_better else -above

    def gain(self, number: float | None) -> float:
        """A number of the metric's, or a difference, turned so that more is better; 0 for none."""
        return (number or 0.0) * (1 if self.higher_is_better else -1)

    def cells(self) -> dict[str, str]:
        """The row as cells of a table, shares in %."""
        bare = self.score.bare
        spread = "" if self.deviation is None else f" ± {bare(self.deviation)}"
        against = "" if self.difference is None else bare(self.difference, "+")
        if self.difference is not None and self.interval is not None:
            against += f" [{bare(self.interval[0], '+')}, {bare(self.interval[1], '+')}]"
        return {
            "recovery": "" if self.method == DENSE else self.recover,
            **(
                {"work": "" if self.method == DENSE else f"{self.size:g} %"}
                if self.planned
                else {"heads": f"{self.size:g}"}
            ),
            ("planner" if self.planned else "method"): self.method,
            self.score.title: f"{bare()}{spread} (n={self.num_seeds})",
            # All of a folder's runs have these, or none.
            **({} if self.loss is None else {"loss": f"{self.loss:.3f}"}),
            **({} if self.validation is None else {"validation": bare(self.validation)}),
            f"against {self.reference}": against,
            **self._divergences(),
            "seconds": f"{self.seconds:.1f}",
        }

    def _divergences(self) -> dict[str, str]:
        if not self.planned:
            return {}
        found = {"divergence": "" if self.divergence is None else f"{self.divergence:.4f}"}
        told = "" if self.farther is None else "{:+.4f} [{:+.4f}, {:+.4f}]".format(*self.farther)
        return {**found, f"divergence less {self.reference}'s": told}


def told_size(size: float, planned: bool) -> str:
    """A size in words."""
    return f"{size:g} % of the work" if planned else f"{size:g} heads"


def row_of(key: tuple[str, float, str], runs: Sequence[Run], reference: Sequence[Run] | None, planned: bool) -> Row:
    """Takes runs of one way together.

    Args:
        key: Recovery, size, and name of the way.
        runs: Its runs, one a seed.
        reference: The reference's runs at the same size with the same recovery, where there are any.
        planned: Whether they are under a budget.
    """
    recover, size, method = key
    score = runs[0].score
    values = [run.score.value for run in runs]
    losses = [run.loss for run in runs if run.loss is not None]
    validations = [run.validation for run in runs if run.validation is not None]
    difference, interval = None, None
    divergence, farther = None, None
    far = [own for run in runs if (own := run.divergences()) is not None]
    if len(far) == len(runs):
        divergence = float(np.mean(far))
    if reference is not None and runs is not reference:
        difference, interval = mean_of(runs, reference)
        theirs = [own for run in reference if (own := run.divergences()) is not None]
        if divergence is not None and len(theirs) == len(reference):
            change = np.mean(far, axis=0) - np.mean(theirs, axis=0)
            farther = (float(change.mean()), *mean_interval(change))
    return Row(
        method,
        size,
        recover,
        len(runs),
        float(np.mean(values)),
        float(np.std(values, ddof=1)) if len(runs) > 1 else None,
        float(np.mean(losses)) if len(losses) == len(runs) else None,
        difference,
        interval,
        float(np.median([run.seconds.get("choose", 0.0) + run.seconds.get("recover", 0.0) for run in runs])),
        float(np.mean(validations)) if len(validations) == len(runs) else None,
        score.name,
        score.higher_is_better,
        score.percent,
        planned,
        divergence,
        farther,
    )


def mean_of(runs: Sequence[Run], reference: Sequence[Run] = ()) -> tuple[float, tuple[float, float] | None]:
    """Mean of the metric over runs, less that over others, which were evaluated on the same test examples.

    Args:
        runs: Runs.
        reference: The others; none for the mean alone.

    Returns:
        The number, and its 95 % bootstrap interval over the examples, ``None`` where it is not known what each adds.
    """
    found = [[run.examples() for run in side] for side in (runs, reference)]
    ours, theirs = ([rows for rows in side if rows is not None] for side in found)
    metric = METRICS.get(runs[0].score.name)
    if metric is None or len(ours) + len(theirs) < len(runs) + len(reference):
        values, others = ([run.score.value for run in side] for side in (runs, reference))
        return float(np.mean(values)) - float(np.mean(others or 0.0)), None
    if metric.is_mean:
        change = np.mean(ours, axis=0) - (np.mean(theirs, axis=0) if theirs else 0.0)
        return float(change.mean()), mean_interval(change.reshape(len(change), -1).mean(axis=1))

    def statistic(drawn: Any) -> float:
        values, others = ([metric.value(rows[drawn]) for rows in side] for side in (ours, theirs))
        return float(np.mean(values)) - float(np.mean(others or 0.0))

    count = runs[0].num_examples
    return statistic(np.arange(count)), bootstrap_interval(statistic, count, metric.resamples)


def mean_interval(change: np.ndarray[Any, Any]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean over examples ``(examples,)``."""
    return bootstrap_interval(lambda drawn, axis=-1: change[drawn].mean(axis), len(change))
