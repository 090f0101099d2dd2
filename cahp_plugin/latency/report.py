"""What was measured, as a table, JSON, CSV, Markdown and a picture."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cahp_plugin.latency.figure import plot_latency
from cahp_plugin.latency.measurement import Measurement
from cahp_plugin.prune import replaced_folder
from cahp_plugin.report import format_table, style

_ENOUGH_ROUNDS = 50


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

    def title(self) -> str:
        """How it was measured, in a line."""
        settings = self.settings
        return f"Latency on {settings['device']}, {settings['threads']} thread(s), {settings['rounds']} rounds"

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
        """Writes ``latency.json``, ``.csv``, ``.md`` and ``.png``.

        Args:
            folder: Folder to write; it appears whole or not at all.
            overwrite: Whether a non-empty folder is replaced.

        Returns:
            File ending -> path.

        Raises:
            CheckpointError: The folder is not empty, or the disk refuses.
        """
        with replaced_folder(folder, overwrite=overwrite) as partial:
            (partial / "latency.json").write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
            (partial / "latency.md").write_text(self.to_markdown(), encoding="utf-8")
            with open(partial / "latency.csv", "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Measurement)])
                writer.writeheader()
                writer.writerows(dataclasses.asdict(entry) for entry in self.measurements)
            plot_latency(self.measurements, self.title()).savefig(partial / "latency.png", dpi=style.DPI)
        endings = ("json", "csv", "md", "png")
        return {ending: Path(folder) / f"latency.{ending}" for ending in endings}
