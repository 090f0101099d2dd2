"""Whether results that were written down come out again."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cahp_plugin.compare.rows import Row, mean_of, told_size
from cahp_plugin.compare.runs import RUNS_NAME, SETUP_NAME, Key, Run, read_missed, read_runs, read_setup, setup_changes
from cahp_plugin.errors import CheckpointError
from cahp_plugin.table import format_table
from cahp_plugin.tasks.metrics import Score

#: What must be the same for two folders' results to be comparable; versions may differ.
_SAME = ("model", "train", "test", "config", "recovery", "gate_epochs", "task", "metric", "budget")


@dataclasses.dataclass(frozen=True)
class CheckRow:
    """One way of choosing heads at one number of heads after one recovery, then and now.

    Attributes:
        method: Name of the way.
        at: Its size in words.
        recover: Recovery.
        expected: Mean of the metric in the committed results; a share in [0, 1] where it is shown in %.
        interval: What still counts as the same: the wider, on each side, of the 95 % bootstrap interval over test
            examples and twice the standard deviation over seeds.
        found: Mean of the metric now.
        metric: Its name.
        percent: Whether it is shown in %.
    """

    method: str
    at: str
    recover: str
    expected: float
    interval: tuple[float, float]
    found: float
    metric: str = "accuracy"
    percent: bool = True

    @property
    def inside(self) -> bool:
        """Whether the mean now is in the interval."""
        return self.interval[0] <= self.found <= self.interval[1]

    @property
    def score(self) -> Score:
        """The mean now as a score, with the interval that it should be in."""
        return Score(self.metric, self.found, self.interval, percent=self.percent)

    def __str__(self) -> str:
        found, low, high = map(self.score.bare, (self.found, *self.interval))
        found += " %" if self.percent else ""
        return f"{self.method} at {self.at} ({self.recover}): {found}, allowed {low} to {high}"


@dataclasses.dataclass(frozen=True)
class Check:
    """Results now beside results in a folder.

    Attributes:
        folder: Folder of the committed results.
        rows: One for each method, number of heads and recovery that was run now.
        reached: What was run now and was out of reach there, a sentence each.
    """

    folder: Path
    rows: tuple[CheckRow, ...]
    reached: tuple[str, ...] = ()

    @property
    def outside(self) -> tuple[CheckRow, ...]:
        """Rows that did not come out again."""
        return tuple(row for row in self.rows if not row.inside)

    def to_dict(self) -> dict[str, Any]:
        """Returns the rows as plain JSON values."""
        rows = [dataclasses.asdict(row) | {"inside": row.inside} for row in self.rows]
        return {"folder": str(self.folder), "rows": rows, "reached": list(self.reached)}

    def __str__(self) -> str:
        cells = [
            {
                "recovery": row.recover,
                "at": row.at,
                "method": row.method,
                "committed": row.score.bare(row.expected),
                "allowed": f"[{', '.join(map(row.score.bare, row.interval))}]",
                "now": row.score.bare(),
                "": "" if row.inside else "outside",
            }
            for row in self.rows
        ]
        told = f"{len(self.rows) - len(self.outside)} of {len(self.rows)} as in {self.folder}."
        return "\n".join([format_table(cells), "", told, *self.reached])


def committed_runs(
    folder: str | os.PathLike[str], wanted: Sequence[Key], setup: dict[str, Any]
) -> dict[tuple[str, float, str], list[Run]]:
    """Reads a folder's results, and makes sure before any work that they can be compared.

    Args:
        folder: A comparison's folder.
        wanted: Keys of the runs that will be compared.
        setup: What the runs will share.

    Returns:
        The folder's runs by method, number of heads and recovery.

    Raises:
        CheckpointError: The folder holds no comparison, one of another model, data or settings, or lacks a result.
    """
    runs_path = Path(folder) / RUNS_NAME
    before = read_setup(Path(folder) / SETUP_NAME)
    if before is None or not runs_path.exists():
        raise CheckpointError(f"{folder} holds no comparison: there is no {SETUP_NAME} and {RUNS_NAME} in it.")
    changes = setup_changes(before, setup, _SAME)
    if changes:
        raise CheckpointError(f"The results in {folder} are of another set-up, so they can't be checked ({changes}).")
    found: dict[tuple[str, float, str], list[Run]] = {}
    for run in read_runs(runs_path):
        found.setdefault((run.method, run.size, run.recover), []).append(run)
    missed = {(name, round(100 * share, 6)) for name, share, _ in read_missed(Path(folder))}
    absent = sorted({(name, size, how) for name, size, _, how in wanted if (name, size) not in missed} - set(found))
    if absent:
        planned = setup.get("budget") is not None
        names = ", ".join(f"{method} at {told_size(size, planned)} ({how})" for method, size, how in absent)
        raise CheckpointError(f"{folder} has no results for {names}: name the methods, sizes and recoveries it has.")
    return found


def check_runs(
    now: Sequence[Row], committed: dict[tuple[str, float, str], list[Run]], folder: str | os.PathLike[str]
) -> Check:
    """Compares means of the metric with committed ones.

    Args:
        now: Rows of the runs made now.
        committed: From :func:`committed_runs`.
        folder: Where they are from.

    Raises:
        CheckpointError: They are of another metric.
    """
    rows, reached = [], []
    for row in now:
        runs = committed.get((row.method, row.size, row.recover))
        if runs is None:  # a planner that could not reach the share there
            reached.append(f"{row.method} at {row.at} ({row.recover}): {row.score.shown()}, out of reach in {folder}.")
            continue
        if runs[0].score.name != row.metric:
            raise CheckpointError(f"The results in {folder} are of {runs[0].score.name}, those now of {row.metric}.")
        values, (_, interval) = [run.score.value for run in runs], mean_of(runs)
        mean = float(np.mean(values))
        # What each example adds is not known: the intervals that the runs were written with say the same for each.
        ends = [interval] if interval else [run.score.interval or (mean, mean) for run in runs]
        low, high = np.mean(ends, axis=0).tolist()
        spread = 2 * float(np.std(values, ddof=1)) if len(runs) > 1 else 0.0
        allowed = (min(low, mean - spread), max(high, mean + spread))
        rows.append(CheckRow(row.method, row.at, row.recover, mean, allowed, row.mean, row.metric, row.percent))
    return Check(Path(folder), tuple(rows), tuple(reached))
