"""What was measured, as a table, JSON, CSV, Markdown and a picture."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cahp_plugin.errors import MissingDependencyError
from cahp_plugin.prune.checkpoint import replaced_folder
from cahp_plugin.report import format_table

_ENOUGH_ROUNDS = 50


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One target at one shape.

    Attributes:
        target: Name of the target.
        backend: ``"torch"`` or ``"onnxruntime"``.
        precision: ``"fp32"``, ``"fp16"``, ``"int8 dynamic"``, ``"int8 static"``, or a checkpoint's dtype.
        num_heads: Attention heads in it.
        batch_size: Examples a call.
        sequence_length: Tokens an example.
        p50_ms: Median, milliseconds.
        p90_ms: 90th percentile, milliseconds.
        p99_ms: 99th percentile, milliseconds.
        iqr_ms: Interquartile range, milliseconds.
        ratio: Median over rounds of the time over the first target's in the same round.
        ratio_low: Lower end of its 95 % bootstrap interval.
        ratio_high: Upper end.
        theory: Ratio of the multiply-accumulates.
        macs: Multiply-accumulates of a call.
        throughput: Examples a second at the median.
        mib: Size of the weights on disk, MiB, or ``None``.
        peak_mib: Peak memory for loading and running, MiB, or ``None``.
    """

    target: str
    backend: str
    precision: str
    num_heads: int
    batch_size: int
    sequence_length: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    iqr_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    theory: float
    macs: int
    throughput: float
    mib: float | None
    peak_mib: float | None

    def row(self) -> dict[str, str]:
        """The measurement as a row of a table."""
        return {
            "batch": f"{self.batch_size}",
            "length": f"{self.sequence_length}",
            "target": self.target,
            "runs in": self.backend,
            "precision": self.precision,
            "heads": f"{self.num_heads}",
            "p50 ms": f"{self.p50_ms:.2f}",
            "p90 ms": f"{self.p90_ms:.2f}",
            "p99 ms": f"{self.p99_ms:.2f}",
            "IQR ms": f"{self.iqr_ms:.2f}",
            "ratio [95 % interval]": f"{self.ratio:.3f} [{self.ratio_low:.3f}, {self.ratio_high:.3f}]",
            "theory": f"{self.theory:.3f}",
            "examples/s": f"{self.throughput:.1f}",
            "disk MiB": "-" if self.mib is None else f"{self.mib:.1f}",
            "peak MiB": "-" if self.peak_mib is None else f"{self.peak_mib:.0f}",
        }


@dataclasses.dataclass(frozen=True)
class LatencyReport:
    """Times of several models, measured in one run.

    Attributes:
        measurements: One entry a target and shape; the targets of a shape stand together, the reference first.
        settings: How it was measured.
        environment: What it was measured on: processor, versions, provider, load, date.
        convention: What the theoretical ratio counts.
    """

    measurements: tuple[Measurement, ...]
    settings: dict[str, Any]
    environment: dict[str, Any]
    convention: str

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain JSON values."""
        return dataclasses.asdict(self) | {"measurements": [dataclasses.asdict(entry) for entry in self.measurements]}

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> LatencyReport:
        """Builds a report from what :meth:`to_dict` returned."""
        measurements = tuple(Measurement(**entry) for entry in entries["measurements"])
        return cls(**{**entries, "measurements": measurements})

    def table(self, *, markdown: bool = False) -> str:
        """All measurements as one table."""
        return format_table([entry.row() for entry in self.measurements], markdown=markdown)

    def notes(self) -> list[str]:
        """What has to be known to read the table, a sentence each."""
        settings, machine = self.settings, self.environment
        where = machine["gpu"] or f"{machine['cpu']} ({', '.join(machine['cpu_flags']) or 'flags unknown'})"
        versions = machine["versions"]
        packages = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "onnxruntime",
                             "onnxruntime-gpu") if name in versions)  # fmt: skip
        notes = [
            f"Ratio: median over {settings['rounds']} rounds of the time over that of {self.measurements[0].target} "
            "in the same round, with a bootstrap interval. In each round every target runs once, in random order.",
            self.convention,
            f"Measured on {where}, {machine['cores']} cores, {settings['threads']} thread(s), {machine['provider']} "
            f"for graphs, {settings['attn_implementation'] or 'default'} attention in torch, load "
            f"{machine['load_before']} before and {machine['load_after']} after; {packages}; {machine['date']}.",
        ]
        if settings["memory_shape"] is not None:
            batch, length = settings["memory_shape"]
            notes.append(
                f"Peak memory: of a process that loads one target and runs it at batch size {batch}, length {length}, "
                "above the same process before loading."
            )
        if settings["rounds"] < _ENOUGH_ROUNDS:
            notes.append(f"Fewer than {_ENOUGH_ROUNDS} rounds: a first look, not a measurement.")
        return notes

    def __str__(self) -> str:
        return "\n".join([self.table(), "", *self.notes()])

    def to_markdown(self) -> str:
        """The table and the notes as GitHub Markdown."""
        return "\n".join([self.table(markdown=True), "", *(f"- {note}" for note in self.notes()), ""])

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> dict[str, Path]:
        """Writes ``latency.json``, ``.csv``, ``.md`` and, where matplotlib is installed, ``.png``.

        Args:
            folder: Folder to write; it appears whole or not at all.
            overwrite: Whether a non-empty folder is replaced.

        Returns:
            File ending -> path.

        Raises:
            CheckpointError: The folder is not empty, or the disk refuses.
        """
        from cahp_plugin.latency.figure import plot_latency
        from cahp_plugin.report import style

        with replaced_folder(folder, overwrite=overwrite) as partial:
            (partial / "latency.json").write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
            (partial / "latency.md").write_text(self.to_markdown(), encoding="utf-8")
            with open(partial / "latency.csv", "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Measurement)])
                writer.writeheader()
                writer.writerows(dataclasses.asdict(entry) for entry in self.measurements)
            endings = ["json", "csv", "md"]
            try:
                plot_latency(self).savefig(partial / "latency.png", dpi=style.DPI)
                endings.append("png")
            except MissingDependencyError:
                pass
        return {ending: Path(folder) / f"latency.{ending}" for ending in endings}
