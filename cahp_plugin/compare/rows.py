"""Runs taken together over seeds: means, spread, and the difference from CAHP with its interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cahp_plugin.compare.runs import Run

REFERENCE, DENSE = "cahp", "dense"


@dataclasses.dataclass(frozen=True)
class Row:
    """One way of choosing heads at one number of heads after one recovery.

    Attributes:
        method: Name of the way.
        num_heads: Heads kept.
        recover: Recovery.
        num_seeds: Runs behind it.
        mean: Mean accuracy over the runs, in [0, 1].
        deviation: Standard deviation over the runs; ``None`` for a single one.
        loss: Mean loss, nat.
        difference: Mean accuracy minus CAHP's, ``None`` for CAHP and where CAHP was not run.
        interval: Its 95 % bootstrap interval over test examples, both evaluated on the same ones.
        seconds: Median seconds of choosing and recovering.
        validation: Mean accuracy on the validation set; ``None`` where the runs had none.
    """

    method: str
    num_heads: int
    recover: str
    num_seeds: int
    mean: float
    deviation: float | None
    loss: float
    difference: float | None
    interval: tuple[float, float] | None
    seconds: float
    validation: float | None

    @property
    def side(self) -> int | None:
        """1 where the interval is above zero, -1 where it is below, 0 where it holds zero; ``None`` without one."""
        if self.interval is None:
            return None
        return (self.interval[0] > 0) - (self.interval[1] < 0)

    def cells(self) -> dict[str, str]:
        """The row as cells of a table, in %."""
        spread = "" if self.deviation is None else f" ± {100 * self.deviation:.1f}"
        against = ""
        if self.difference is not None and self.interval is not None:
            low, high = (100 * end for end in self.interval)
            against = f"{100 * self.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
        return {
            "recovery": "" if self.method == DENSE else self.recover,
            "heads": f"{self.num_heads}",
            "method": self.method,
            "accuracy": f"{100 * self.mean:.1f}{spread} (n={self.num_seeds})",
            "loss": f"{self.loss:.3f}",
            # All of a folder's runs have it, or none.
            **({} if self.validation is None else {"validation": f"{100 * self.validation:.1f}"}),
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
    accuracies = [run.accuracy for run in runs]
    validations = [run.validation for run in runs if run.validation is not None]
    difference, interval = None, None
    if reference is not None and method != REFERENCE:
        change = _rate(runs) - _rate(reference)
        difference, interval = float(change.mean()), bootstrap_interval(change)
    return Row(
        method,
        num_heads,
        recover,
        len(runs),
        float(np.mean(accuracies)),
        float(np.std(accuracies, ddof=1)) if len(runs) > 1 else None,
        float(np.mean([run.loss for run in runs])),
        difference,
        interval,
        float(np.median([run.seconds.get("choose", 0.0) + run.seconds.get("recover", 0.0) for run in runs])),
        float(np.mean(validations)) if len(validations) == len(runs) else None,
    )


def _rate(runs: Sequence[Run]) -> np.ndarray[Any, Any]:
    """How often each test example was classified right, over the runs."""
    return np.mean([run.hits() for run in runs], axis=0)


def bootstrap_interval(change: np.ndarray[Any, Any], *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean over examples ``(examples,)``."""
    from scipy.stats import bootstrap

    if np.ptp(change) == 0:
        return float(change[0]), float(change[0])
    found = bootstrap((change,), np.mean, n_resamples=2000, method="percentile", rng=seed, batch=100)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
