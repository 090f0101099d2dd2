"""Runs taken together over seeds: means, spread, and the difference from CAHP with its interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cahp_plugin.compare.runs import Run
from cahp_plugin.tasks.metrics import METRICS, Score, bootstrap_interval

REFERENCE, DENSE = "cahp", "dense"


@dataclasses.dataclass(frozen=True)
class Row:
    """One way of choosing heads at one number of heads after one recovery.

    Attributes:
        method: Name of the way.
        num_heads: Heads kept.
        recover: Recovery.
        num_seeds: Runs behind it.
        mean: Mean of the metric over the runs; a share in [0, 1] where it is shown in %.
        deviation: Standard deviation over the runs; ``None`` for a single one.
        loss: Mean loss, nat; ``None`` where the runs had none.
        difference: Mean minus CAHP's, ``None`` for CAHP and where CAHP was not run.
        interval: Its 95 % bootstrap interval over test examples, both evaluated on the same ones; ``None`` where it is
            not known what each example adds.
        seconds: Median seconds of choosing and recovering.
        validation: Mean of the metric on the validation set; ``None`` where the runs had none.
        metric: Name of the metric.
        higher_is_better: Its direction.
        percent: Whether it is shown in %.
    """

    method: str
    num_heads: int
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

    @property
    def score(self) -> Score:
        """The mean as a score."""
        return Score(self.metric, self.mean, None, self.higher_is_better, self.percent)

    @property
    def side(self) -> int | None:
        """1 where the interval says better than CAHP, -1 where worse, 0 where it holds zero; ``None`` without one."""
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
            "heads": f"{self.num_heads}",
            "method": self.method,
            self.score.title: f"{bare()}{spread} (n={self.num_seeds})",
            # All of a folder's runs have these, or none.
            **({} if self.loss is None else {"loss": f"{self.loss:.3f}"}),
            **({} if self.validation is None else {"validation": bare(self.validation)}),
            f"against {REFERENCE}": against,
            "seconds": f"{self.seconds:.1f}",
        }


def row_of(method: str, num_heads: int, recover: str, runs: Sequence[Run], reference: Sequence[Run] | None) -> Row:
    """Takes runs of one way together.

    Args:
        method: Name of the way.
        num_heads: Heads kept.
        recover: Recovery.
        runs: Its runs, one a seed.
        reference: CAHP's runs at the same number of heads with the same recovery, where there are any.
    """
    score = runs[0].score
    values = [run.score.value for run in runs]
    losses = [run.loss for run in runs if run.loss is not None]
    validations = [run.validation for run in runs if run.validation is not None]
    difference, interval = None, None
    if reference is not None and method != REFERENCE:
        difference, interval = mean_of(runs, reference)
    return Row(
        method,
        num_heads,
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


def mean_interval(change: np.ndarray[Any, Any], *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean over examples ``(examples,)``."""
    from scipy.stats import bootstrap

    if np.ptp(change) == 0:
        return float(change[0]), float(change[0])
    found = bootstrap((change,), np.mean, n_resamples=2000, method="percentile", rng=seed, batch=100)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
