"""Runs as lines of a file that only grows: a comparison goes on where it was stopped, and never mixes two set-ups."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cahp_plugin.config import CAHPConfig
from cahp_plugin.errors import CheckpointError
from cahp_plugin.files import checked, from_plain, load, write_text

RUNS_NAME = "runs.jsonl"
SETUP_NAME = "setup.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """One way of choosing heads, recovered and evaluated.

    Attributes:
        method: Name of the way; ``"dense"`` for the model before pruning.
        num_heads: Heads kept.
        seed: Seed of the choice, of the calibration examples and of the fine-tuning.
        recover: What happened to the weights after pruning.
        accuracy: Share of test examples classified right, in [0, 1].
        loss: Mean cross-entropy on the test set, nat.
        correct: One bit a test example, packed, as hexadecimal digits: which were classified right. Examples are
            sorted by their number of tokens, the shortest first.
        num_examples: Test examples.
        kept: Layer -> original indices of the heads kept.
        parameters: Number of parameters.
        seconds: Wall-clock seconds by phase.
        validation: Share of validation examples classified right; ``None`` without a validation set.
    """

    method: str
    num_heads: int
    seed: int
    recover: str
    accuracy: float
    loss: float
    correct: str
    num_examples: int
    kept: dict[str, list[int]]
    parameters: int
    seconds: dict[str, float]
    validation: float | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Run:
        """Builds a run from a line of :data:`RUNS_NAME`.

        Raises:
            KeyError: A part is missing.
            TypeError: A part is of another type.
            ValueError: Its parts do not go together.
        """
        run = from_plain(cls, values)
        if len(bytes.fromhex(run.correct)) != -(-run.num_examples // 8) or not [int(layer) for layer in run.kept]:
            raise ValueError("bits and examples differ in number, or no layer is named")
        return run

    @property
    def key(self) -> tuple[str, int, int, str]:
        """What tells a run from the others of a comparison."""
        return self.method, self.num_heads, self.seed, self.recover

    def hits(self) -> np.ndarray[Any, Any]:
        """Which test examples were classified right, bool of shape ``(num_examples,)``."""
        packed = np.frombuffer(bytes.fromhex(self.correct), dtype=np.uint8)
        return np.unpackbits(packed, count=self.num_examples).astype(bool)


def pack(hits: Any) -> str:
    """Bits as hexadecimal digits; the inverse of :meth:`Run.hits`."""
    return np.packbits(np.asarray(hits, dtype=bool)).tobytes().hex()


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
            file.write(json.dumps(dataclasses.asdict(run)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.runs[run.key] = run


def read_setup(path: Path) -> dict[str, Any] | None:
    """Reads what a folder's runs share; ``None`` where the file is missing.

    A setting younger than the file had its default's behaviour there.

    Raises:
        CheckpointError: The file is damaged.
    """

    def build(setup: dict[str, Any]) -> dict[str, Any]:
        return {"gate_epochs": 1.0, "eval": None} | setup | {"config": CAHPConfig().to_dict() | setup["config"]}

    return load(path, build)


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
    return [
        checked(f"{path}, line {number},", lambda line=line: Run.from_dict(json.loads(line)))  # type: ignore[misc]
        for number, line in enumerate(whole.splitlines(), start=1)
    ]


def fingerprint_of_model(model: Any) -> str:
    """First 16 digits of the SHA-256 of a model's tensors and their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def fingerprint_of_data(encoded: Any) -> str:
    """First 16 digits of the SHA-256 of an encoded data set's tokens and labels."""
    digest = hashlib.sha256()
    for row in encoded.with_format(None):
        digest.update(json.dumps([row["input_ids"], row["labels"]]).encode())
    return digest.hexdigest()[:16]
