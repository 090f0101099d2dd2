"""What was measured, as a table, JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cahp_plugin.files import from_plain
from cahp_plugin.latency.measurement import Measurement
from cahp_plugin.table import format_table

LATENCY_NAME = "latency.json"
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
        """Builds a report from what :meth:`to_dict` returned.

        Raises:
            KeyError: A part is missing.
            TypeError: A part is of another type.
            ValueError: There is no measurement in it, or a time that is none.
        """
        report = from_plain(cls, entries)
        if not report.measurements or not all(0 < entry.p50_ms < float("inf") for entry in report.measurements):
            raise ValueError("there is no measurement, or a time that is none")
        return report

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

    def write(self, folder: Path) -> None:
        """Writes ``latency.json``, ``.csv`` and ``.md`` into a folder that is there.

        :func:`cahp_plugin.report.save_latency` adds a picture, and replaces the folder in one step.
        """
        (folder / LATENCY_NAME).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        (folder / "latency.md").write_text(self.to_markdown(), encoding="utf-8")
        with open(folder / "latency.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Measurement)])
            writer.writeheader()
            writer.writerows(dataclasses.asdict(entry) for entry in self.measurements)
