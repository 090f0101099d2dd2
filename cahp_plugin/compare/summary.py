"""What the runs of a comparison say, as tables."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from cahp_plugin.compare.check import Check
from cahp_plugin.compare.knee import KneeTable
from cahp_plugin.compare.rows import DENSE, PLANNED, REFERENCE, Row, row_of
from cahp_plugin.compare.runs import RUNS_NAME, SETUP_NAME, STRUCTURE_NAME, Run, read_missed, read_runs, read_setup
from cahp_plugin.compare.structure import HeadPlaces, head_places, places_table
from cahp_plugin.files import load
from cahp_plugin.table import format_table

#: The recovery that stands for a planner's own repair.
OWN = "own"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All runs of a comparison.

    Attributes:
        output: Folder of the runs.
        runs: The runs.
        knee: What the knee says with and without the model, where that was asked for.
        check: The runs beside those of an earlier comparison, where that was asked for.
        setup: What all runs share, as the folder has it: settings, versions, fingerprints.
        missed: Planner, share of the work, and why it could not be reached.
    """

    output: Path
    runs: tuple[Run, ...]
    knee: KneeTable | None = None
    check: Check | None = None
    setup: dict[str, Any] = dataclasses.field(default_factory=dict)
    missed: tuple[tuple[str, float, str], ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Comparison:
        """Reads all runs of a folder back, with its knee table where there is one.

        Raises:
            CheckpointError: A file is damaged; the message names it, and the line.
        """
        setup = read_setup(folder / SETUP_NAME) or {}
        return cls(folder, tuple(read_runs(folder / RUNS_NAME)), read_knee(folder), None, setup, read_missed(folder))

    def rows(self) -> list[Row]:
        """The runs, seeds taken together, by recovery and number of heads."""
        return list(self._rows)

    @functools.cached_property
    def _rows(self) -> list[Row]:
        groups: dict[tuple[str, float, str], list[Run]] = {}
        for run in self.runs:
            groups.setdefault((run.recover, run.size, run.method), []).append(run)
        order = {key: position for position, key in enumerate(groups)}
        planned, rows = self.planned, []
        for key in sorted(groups, key=lambda key: (key[2] != DENSE, key[0], -key[1], order[key])):
            recover, size, _ = key
            if planned and recover == OWN:  # the reference's own repair is the least-squares one
                recover = "least-squares"
            reference = groups.get((recover, size, PLANNED if planned else REFERENCE))
            rows.append(row_of(key, groups[key], reference, planned))
        return rows

    @property
    def planned(self) -> bool:
        """Whether the runs are of planners under a budget."""
        return bool(self.missed) or any(run.macs is not None for run in self.runs)

    def structure(self) -> list[HeadPlaces]:
        """Where each method's heads are, over layers and seeds."""
        return head_places(self.runs)

    def to_dict(self) -> dict[str, Any]:
        """Returns the rows, the places of the heads and the knees as plain JSON values."""
        return {
            "output": str(self.output),
            "rows": [dataclasses.asdict(row) for row in self.rows()],
            "structure": [dataclasses.asdict(place) for place in self.structure()],
            "knee": None if self.knee is None else self.knee.to_dict(),
            "check": None if self.check is None else self.check.to_dict(),
            "missed": [list(entry) for entry in self.missed],
        }

    def table(self, *, markdown: bool = False) -> str:
        """The rows as a table, shares in %."""
        return format_table([row.cells() for row in self.rows()], markdown=markdown)

    def __str__(self) -> str:
        head = self._rows[0].score.legend if self._rows else "Metric"
        parts = [
            self.table(),
            f"{head}: mean ± standard deviation over seeds (0 for a method without a seed before recovery). "
            f"Against {PLANNED if self.planned else REFERENCE}: difference of the means, with a 95 % bootstrap "
            "interval over the test examples. Seconds: choosing and recovering, without the shared observation.",
        ]
        if self.planned:
            parts += [f"{planner} at {100 * share:g} % of the work: {why}." for planner, share, why in self.missed]
        else:
            parts += [
                places_table(self.structure()),
                "Kept in each layer: mean over seeds. Thirds: % of the kept heads in that third of the layers. "
                "Overlap of seeds: mean pairwise Jaccard, %.",
            ]
        parts += [str(part) for part in (self.knee, self.check) if part is not None]
        return "\n\n".join([*parts, f"Runs: {self.output}"])


def read_knee(folder: Path) -> KneeTable | None:
    """The knee table of a comparison's folder, where one was asked for."""
    return load(folder / STRUCTURE_NAME, lambda known: known["knee"] and KneeTable.from_dict(known["knee"]))
