"""Runs as lines of a file that only grows: a comparison goes on where it was stopped, and never mixes two set-ups."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cahp_plugin.compare.packing import pack, pack_rows, unpack, unpack_halves, unpack_rows
from cahp_plugin.config import CAHPConfig, RecoverySettings
from cahp_plugin.errors import CheckpointError
from cahp_plugin.files import checked, from_plain, load, write_text
from cahp_plugin.tasks.metrics import Score

RUNS_NAME = "runs.jsonl"
SETUP_NAME = "setup.json"
STRUCTURE_NAME = "structure.json"


#: Method, size, seed and recovery of a run.
Key = tuple[str, float, int, str]


@dataclasses.dataclass(frozen=True)
class Run:
    """One way of choosing what stays, recovered and evaluated.

    Attributes:
        method: Name of the way; ``"dense"`` for the model before pruning.
        num_heads: Heads kept.
        seed: Seed of the choice, of the calibration examples and of the fine-tuning.
        recover: What happened to the weights after pruning.
        score: How it does on the test set, by the task's metric.
        loss: Mean loss on the test set, nat; ``None`` for a task without one.
        num_examples: Test examples.
        kept: Layer -> original indices of the heads kept.
        parameters: Number of parameters.
        seconds: Wall-clock seconds by phase.
        validation: The metric on the validation set; ``None`` without one.
        correct: Of an accuracy: one bit a test example, packed (:func:`cahp_plugin.compare.packing.pack`): which were
            classified right. Examples are sorted by their number of tokens, the shortest first.
        rows: Of another metric: what each test example adds to it, packed
            (:func:`cahp_plugin.compare.packing.pack_rows`); ``None`` where that is not numbers.
        macs: Under a budget, the share of the layers' multiply-accumulates that it allowed; ``None`` without one.
        neurons: Under a budget, layer -> the number of neurons kept.
        divergence: Under a budget, how far the outputs are from the dense model's for each test example, packed
            (:func:`cahp_plugin.compare.packing.pack_halves`); the examples may be in another order than those above.
    """

    method: str
    num_heads: int
    seed: int
    recover: str
    score: Score
    loss: float | None
    num_examples: int
    kept: dict[str, list[int]]
    parameters: int
    seconds: dict[str, float]
    validation: float | None = None
    correct: str | None = None
    rows: str | None = None
    macs: float | None = None
    neurons: dict[str, int] | None = None
    divergence: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns a line of :data:`RUNS_NAME`, where an accuracy has fewer parts than another metric."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if self.correct is not None:
            how = {"accuracy": self.score.value, "loss": self.loss, "correct": self.correct}
        else:
            how = dataclasses.asdict(self.score) | {"loss": self.loss, "rows": self.rows}
            how = {"metric": how.pop("name")} | how
        for name in ("score", "loss", "correct", "rows"):
            own.pop(name)
        for name in ("macs", "neurons", "divergence"):
            if own[name] is None:
                own.pop(name)
        return {name: own.pop(name) for name in ("method", "num_heads", "seed", "recover")} | how | own

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Run:
        """Builds a run from a line of :data:`RUNS_NAME`.

        Raises:
            KeyError: A part is missing.
            TypeError: A part is of another type.
            ValueError: Its parts do not go together.
        """
        if "metric" in values:
            score = from_plain(Score, {**values, "name": values["metric"]})
            parts = {"correct": None, "rows": values["rows"]}
        else:
            score = Score.of_accuracy(values["accuracy"])
            parts = {"correct": values["correct"], "rows": None}
        run = from_plain(cls, {**values, **parts, "score": score})
        if (run.examples() is None and "metric" not in values) or not [int(layer) for layer in run.kept]:
            raise ValueError("it is not said which examples are right, or no layer is named")
        run.divergences()
        return run

    @property
    def size(self) -> float:
        """What runs are compared at: the number of heads, or under a budget the % of the work that it allowed."""
        return self.num_heads if self.macs is None else round(100 * self.macs, 6)

    @property
    def key(self) -> Key:
        """What tells a run from the others of a comparison."""
        return self.method, self.size, self.seed, self.recover

    def divergences(self) -> np.ndarray[Any, Any] | None:
        """How far the outputs are from the dense model's, ``(num_examples,)``; ``None`` where it was not measured."""
        return None if self.divergence is None else unpack_halves(self.divergence, self.num_examples)

    def examples(self) -> np.ndarray[Any, Any] | None:
        """What each test example adds to the metric.

        Returns:
            Array of ``num_examples`` rows: bool for an accuracy, else float64; ``None`` where it was not stored.

        Raises:
            ValueError: It does not go with the number of examples.
        """
        if self.correct is not None:
            return unpack(self.correct, self.num_examples)
        return None if self.rows is None else unpack_rows(self.rows, self.num_examples)


def measured(evaluation: Any) -> dict[str, Any]:
    """What a :class:`Run` has of an evaluation.

    Args:
        evaluation: Has ``scores``, the task's metric first, that metric's ``rows`` (what each example adds), ``loss``
            and ``num_examples``.
    """
    score, rows = evaluation.scores[0], np.asarray(evaluation.rows)
    found = {"loss": evaluation.loss, "num_examples": evaluation.num_examples}
    # Of an accuracy the bits say all; a metric of the user's may have its name.
    if score.name == "accuracy" and rows.ndim == 1 and np.isin(rows, (0, 1)).all():
        return found | {"score": Score.of_accuracy(score.value), "correct": pack(rows)}
    return found | {"score": score, "rows": pack_rows(rows)}


class RunLog:
    """The runs of a comparison in a folder.

    Args:
        folder: Made where it is missing.
        setup: What all runs share: model, data, versions, settings; plain JSON values.

    Attributes:
        runs: The runs that are there, by key.

    Raises:
        CheckpointError: The folder holds runs of another set-up, or something else.
    """

    def __init__(self, folder: str | os.PathLike[str], setup: dict[str, Any]) -> None:
        self.path = Path(folder) / RUNS_NAME
        path = Path(folder) / SETUP_NAME
        before = read_setup(path)
        if before is not None:
            changes = setup_changes(before, setup, sorted({*before, *setup}))
            if changes:
                raise CheckpointError(
                    f"{folder} holds runs of another set-up ({changes}). Give the comparison another folder."
                )
        elif Path(folder).exists() and any(Path(folder).iterdir()):
            raise CheckpointError(f"{folder} is not empty and holds no comparison. Give it another folder.")
        else:
            Path(folder).mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(setup, indent=2) + "\n")
        self.runs = {run.key: run for run in self._read()}

    def _read(self) -> list[Run]:
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        whole, _, rest = text.rpartition("\n")
        if rest:  # a kill cut the last line short
            write_text(self.path, whole + "\n" if whole else "")
        return read_runs(self.path)

    def twin(self, kept: dict[str, list[int]]) -> Run | None:
        """A run whose model is the dense one without exactly these heads, and nothing else changed."""
        return next((run for run in self.runs.values() if run.recover == "none" and run.kept == kept), None)

    def add(self, run: Run) -> None:
        """Appends a run, for good when this returns."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(run.to_dict()) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.runs[run.key] = run


def read_setup(path: Path) -> dict[str, Any] | None:
    """Reads what a folder's runs share; ``None`` where the file is missing.

    A setting younger than the file had its default's behaviour there; heads were compared by the labels' classes, and
    fine-tuning was the only training.

    Raises:
        CheckpointError: The file is damaged.
    """

    def build(setup: dict[str, Any]) -> dict[str, Any]:
        recovery = recovery_entries(RecoverySettings()) | setup["recovery"]
        if "temperature" not in setup["recovery"] and recovery["learning_rate"] == 2e-5:
            recovery["learning_rate"] = None
        return (
            {"gate_epochs": 1.0, "eval": None, "task": "text-classification", "metric": None, "budget": None}
            | setup
            | {"config": CAHPConfig.from_dict({}).to_dict() | setup["config"], "recovery": recovery}
        )

    return load(path, build)


def recovery_entries(settings: RecoverySettings) -> dict[str, Any]:
    """Settings that the runs of a comparison share, whatever their recovery is."""
    return {name: value for name, value in dataclasses.asdict(settings).items() if name != "method"}


def read_missed(folder: Path) -> tuple[tuple[str, float, str], ...]:
    """Planner, share of the work, and why it could not be reached, as a folder has it."""

    def build(values: dict[str, Any]) -> list[tuple[str, float, str]]:
        return [(str(name), float(share), str(why)) for name, share, why in values.get("missed", ())]

    return tuple(load(folder / STRUCTURE_NAME, build) or ())


def setup_changes(before: dict[str, Any], now: dict[str, Any], names: Sequence[str]) -> str:
    """What differs between two set-ups, for a message; empty where nothing does."""
    other = [name for name in names if before.get(name) != now.get(name)]
    return "; ".join(f"{name}: {before.get(name)!r}, now {now.get(name)!r}" for name in other)


def read_runs(path: Path) -> list[Run]:
    """Reads the whole lines of a file of runs; a last line that a kill cut short is left out.

    Raises:
        CheckpointError: The file can't be read, or a line is damaged; the message names it.
    """
    try:
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} can't be read: {error}.") from error
    runs = [
        checked(f"{path}, line {number},", lambda line=line: Run.from_dict(json.loads(line)))  # type: ignore[misc]
        for number, line in enumerate(whole.splitlines(), start=1)
    ]
    kinds = {(run.score.name, run.score.higher_is_better, run.score.percent) for run in runs}
    if len(kinds) > 1:
        raise CheckpointError(
            f"{path} holds runs of different metrics: {', '.join(sorted(kind[0] for kind in kinds))}."
        )
    return runs
