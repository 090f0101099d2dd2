"""What the runs of a comparison say: means, spread, and the difference from CAHP with its interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cahp_plugin.compare.runs import Run
from cahp_plugin.report import format_table

REFERENCE = "cahp"


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


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All runs of a comparison.

    Attributes:
        output: Folder of the runs.
        runs: The runs.
    """

    output: Path
    runs: tuple[Run, ...]

    def rows(self) -> list[Row]:
        """The runs, seeds taken together, by recovery and number of heads."""
        groups: dict[tuple[str, int, str], list[Run]] = {}
        for run in self.runs:
            groups.setdefault((run.recover, run.num_heads, run.method), []).append(run)
        order = {key: position for position, key in enumerate(groups)}
        rows = []
        for key in sorted(groups, key=lambda key: (key[2] != "dense", key[0], -key[1], order[key])):
            recover, num_heads, method = key
            rows.append(_row(method, num_heads, recover, groups[key], groups.get((recover, num_heads, REFERENCE))))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Returns the rows as plain JSON values."""
        return {"output": str(self.output), "rows": [dataclasses.asdict(row) for row in self.rows()]}

    def table(self, *, markdown: bool = False) -> str:
        """The rows as a table, in %."""
        cells = []
        for row in self.rows():
            spread = "" if row.deviation is None else f" ± {100 * row.deviation:.1f}"
            against = ""
            if row.difference is not None and row.interval is not None:
                low, high = (100 * end for end in row.interval)
                against = f"{100 * row.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
            cells.append(
                {
                    "recovery": "" if row.method == "dense" else row.recover,
                    "heads": f"{row.num_heads}",
                    "method": row.method,
                    "accuracy": f"{100 * row.mean:.1f}{spread} (n={row.num_seeds})",
                    "loss": f"{row.loss:.3f}",
                    f"against {REFERENCE}": against,
                    "seconds": f"{row.seconds:.1f}",
                }
            )
        return format_table(cells, markdown=markdown)

    def __str__(self) -> str:
        return (
            f"{self.table()}\n\nAccuracy in %: mean ± standard deviation over seeds. Against {REFERENCE}: difference "
            "of the means, with a 95 % bootstrap interval over the test examples. Seconds: choosing and recovering, "
            f"without the shared observation. Runs: {self.output}"
        )


def _row(method: str, num_heads: int, recover: str, runs: Sequence[Run], reference: Sequence[Run] | None) -> Row:
    accuracies = [run.accuracy for run in runs]
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
