"""What the commands made and measured, as values that are written to a folder and read back from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cahp_plugin.config import CAHPConfig
from cahp_plugin.errors import SelectionError
from cahp_plugin.export import ExportReport
from cahp_plugin.files import from_plain, plain
from cahp_plugin.latency import LatencyReport
from cahp_plugin.plan.outcome import Outcome
from cahp_plugin.prune import Stage
from cahp_plugin.prune.certificate import Certificate
from cahp_plugin.prune.stage import stage_rows
from cahp_plugin.recover import RecoverySettings
from cahp_plugin.selectors.cahp.selection import HeadSelection, MSSCurve
from cahp_plugin.table import format_table
from cahp_plugin.tasks.metrics import score_cells
from cahp_plugin.units import KeptSet

PRUNE_NAME, DEPLOY_NAME, PAGE_NAME = "cahp_report.json", "cahp_deploy.json", "report.html"
#: What heads are compared by -> the same in words.
_COMPARED_BY = {
    "label": "class separation of the labels",
    "prediction": "class separation of predictions",
    "none": "distances of their attention",
}
#: Heads of a model that are believed of a file: it must not make its reader fill the memory.
_MOST_HEADS = 2**20


def bare_selection(
    kept: Mapping[int, Sequence[int]], width: int, *, note: str = "", config: CAHPConfig | None = None
) -> HeadSelection:
    """A selection of which no more is known than the heads that it keeps; it has no clusters and no curve.

    Args:
        kept: Layer -> heads kept.
        width: Heads of each layer before; those that are kept are there in any case.
        note: How their number came about.
        config: Settings of the method.

    Raises:
        SelectionError: The heads are none, or too many.
    """
    heads = KeptSet(heads=kept)
    width = max([width, *(1 + max(layer) for layer in heads.heads.values() if layer)])
    layers = 1 + max(heads.heads, default=-1)
    if not 0 < layers * width <= _MOST_HEADS:
        raise SelectionError(f"{layers} layers of {width} heads are no model's.")
    return HeadSelection(
        kept=heads,
        heads=tuple((layer, head) for layer in heads.heads for head in range(width)),
        salience=np.ones((layers, width)),
        coordinates=np.empty((0, 2)),
        clusters=np.empty(0, dtype=np.int64),
        curve=MSSCurve(*np.empty((3, 0))),
        knee=None,
        note=note,
        config=CAHPConfig() if config is None else config,
    )


@dataclasses.dataclass(frozen=True)
class PruneReport:
    """What :func:`cahp_plugin.prune_model` did.

    Attributes:
        selection: The heads kept, and why.
        stages: The model before pruning, after it, and after recovery.
        seconds: Wall-clock seconds of each phase.
        reload_difference: Largest absolute difference of an output between the model and its reloaded copy; ``None``
            where nothing was saved.
        output: Folder of the pruned model, or ``None``.
        figures: Paths of the pictures by name.
        versions: Versions of the packages that decide the result.
        recovery: Settings of the recovery.
        world_size: Processes that were at work.
        task: What the model does, by the Hub's name of it.
        told: What was done to the data: how many texts were cut or taken apart.
        plan: What the budget led to, where there was one.
        certificate: What it loses at most on new examples, where that was tested.
    """

    selection: HeadSelection
    stages: tuple[Stage, ...]
    seconds: dict[str, float]
    reload_difference: float | None
    output: Path | None
    figures: dict[str, Path]
    versions: dict[str, str]
    recovery: RecoverySettings | None = None
    world_size: int = 1
    task: str = "text-classification"
    told: tuple[str, ...] = ()
    plan: Outcome | None = None
    certificate: Certificate | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain JSON values, with the kept heads but without the rest of the selection."""
        chosen, own = self.selection, {name: value for name, value in vars(self).items() if name != "selection"}
        own["seconds"] = {name: round(value, 3) for name, value in self.seconds.items()}
        told = {"num_heads": chosen.num_heads, "kept": chosen.kept.heads, "knee": chosen.knee, "note": chosen.note}
        return dict(plain(told | {"config": chosen.config} | own))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], selection: HeadSelection | None = None) -> PruneReport:
        """Builds a report from what :meth:`to_dict` returned.

        Args:
            values: The report, in which the selection is told by its kept heads alone.
            selection: The whole selection, where it is known from elsewhere.

        Raises:
            KeyError: A part is missing.
            TypeError: A part is of another type.
            ValueError: A stage has no score.
            CAHPError: The settings or the kept heads are none.
        """
        stages = [Stage.from_dict(stage) for stage in values["stages"]]
        if selection is None:
            kept = {int(layer): heads for layer, heads in values["kept"].items()}
            # The dense model's heads, if it was dense: the report does not name those of each layer.
            width = stages[0].heads // max(len(kept), 1) if stages else 0
            config = CAHPConfig.from_dict(values["config"])
            selection = bare_selection(kept, width, note=str(values["note"]), config=config)
        return from_plain(cls, {"output": None, **values, "stages": stages, "selection": selection, "figures": {}})

    def rows(self) -> list[dict[str, str]]:
        """One row a stage: heads, parameters, scores with their intervals, loss, examples."""
        return stage_rows(self.stages)

    def about(self) -> str:
        """Which task it was, what the heads were compared by, and which numbers are better when they are lower."""
        how = self.selection.config.conditioning
        task = self.task.replace("-", " ")
        told = (
            f"Task: {task}." if self.plan else f"Task: {task}. Heads were compared by: {_COMPARED_BY.get(how, how)}."
        )
        lower = [score for stage in self.stages[:1] for score in stage.scores if not score.higher_is_better]
        return " ".join([told, *(f"{score.heading}: {score.direction}." for score in lower), *self.told])

    def phases(self) -> list[dict[str, str]]:
        """One row a phase: wall-clock seconds."""
        return [{"phase": name, "seconds": f"{value:.1f}"} for name, value in self.seconds.items()]

    def __str__(self) -> str:
        chosen = [str(self.selection)] if self.plan is None else self.plan.sentences()
        certified = [] if self.certificate is None else self.certificate.sentences()
        lines = [*chosen, *certified, self.about(), "", format_table(self.rows()), "", format_table(self.phases())]
        if self.output is not None:
            lines += ["", f"Saved to {self.output}; reloaded copy differs by {self.reload_difference:.1e} at most."]
        lines += [f"Figure: {path}" for path in self.figures.values()]
        if self.output is not None and self.figures:
            lines.append(f"All in one page: {self.output / PAGE_NAME}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class DeployReport:
    """What :func:`cahp_plugin.workflow.deploy_model` made and measured.

    Attributes:
        output: The folder: ``dense``, ``dense-int8``, ``pruned-onnx``, ``pruned-int8`` (graphs), ``pruned`` (the
            checkpoint), ``latency``, and this report as ``cahp_deploy.json`` and ``.md``.
        pruning: Selection, pruning and recovery.
        exports: Folder name -> export.
        latency: Times of the four graphs, the dense fp32 one as reference.
    """

    output: Path
    pruning: PruneReport
    exports: dict[str, ExportReport]
    latency: LatencyReport

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain JSON values."""
        exports = {}
        for name, report in self.exports.items():
            exports[name] = {key: value for key, value in report.to_dict().items() if key != "output"}
        pruning = {key: value for key, value in self.pruning.to_dict().items() if key not in ("output", "figures")}
        return {"pruning": pruning, "exports": exports, "latency": self.latency.to_dict()}

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], output: Path, selection: HeadSelection | None = None
    ) -> DeployReport:
        """Builds a report from what :meth:`to_dict` returned.

        Args:
            values: The report.
            output: Its folder.
            selection: The whole selection, where it is known from elsewhere.

        Raises:
            KeyError: A part is missing.
            TypeError: A part is of another type.
            CAHPError: The settings or the kept heads are none.
        """
        return cls(
            output,
            PruneReport.from_dict(values["pruning"], selection),
            {str(name): ExportReport.from_dict(export) for name, export in values["exports"].items()},
            LatencyReport.from_dict(values["latency"]),
        )

    def rows(self) -> list[dict[str, str]]:
        """One row a graph: heads, size, scores, and the median time and its ratio at each length."""
        reference = self.exports["dense"]
        evaluations = [export.quantized or export.fp32 for export in self.exports.values()]
        cells = score_cells([() if found is None else found.scores for found in evaluations])
        neurons = len({export.num_neurons for export in self.exports.values()}) > 1
        agrees = any(export.agreement is not None for export in self.exports.values())
        rows = []
        for (name, export), found, scores in zip(self.exports.items(), evaluations, cells, strict=True):
            row = {
                "graph": name,
                "heads": f"{export.num_heads}",
                **({"neurons": "-" if export.num_neurons is None else f"{export.num_neurons:,}"} if neurons else {}),
                "MiB": f"{export.mib:.1f} ({100 * export.mib / reference.mib:.0f} %)",
                **scores,
                "examples": "-" if found is None else f"{found.num_examples:,}",
            }
            if agrees:
                row["same as fp32"] = "" if export.agreement is None else f"{100 * export.agreement:.2f} %"
            for entry in self.latency.measurements:
                if entry.target == name:
                    theory = f", theory {entry.theory:.2f}" if export.quantize is None else ""
                    row[f"ms at {entry.sequence_length}"] = f"{entry.p50_ms:.2f} ({entry.ratio:.2f}x{theory})"
            rows.append(row)
        return rows

    def speeds(self) -> list[str]:
        """How many times as fast the pruned graphs are: int8 against int8, and against the dense fp32 graph."""
        found = []
        times = {(entry.target, entry.sequence_length): entry for entry in self.latency.measurements}
        for length in dict.fromkeys(entry.sequence_length for entry in self.latency.measurements):
            dense, before, fp32, int8 = (
                times[name, length].ratio for name in ("dense", "dense-int8", "pruned-onnx", "pruned-int8")
            )
            found.append(
                f"At {length} tokens, like with like: pruned fp32 is {dense / fp32:.2f} times as fast as dense fp32, "
                f"pruned int8 {before / int8:.2f} times as fast as dense int8. Pruned int8 against dense fp32: "
                f"{dense / int8:.2f} times."
            )
        return found

    def __str__(self) -> str:
        notes = [*self.speeds(), "", *self.latency.notes()]
        return "\n".join([str(self.pruning), "", format_table(self.rows()), "", *notes])

    def to_markdown(self) -> str:
        """The comparison of the four graphs as GitHub Markdown."""
        notes = (f"- {note}" for note in [*self.speeds(), *self.latency.notes()])
        return "\n".join([format_table(self.rows(), markdown=True), "", *notes, ""])
