"""The whole way to deployment in one call: prune, recover, export, quantize, and measure after each step."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cahp_plugin.config import CAHPConfig
from cahp_plugin.data import check_same_classes, encode, find_columns, make_dataloader
from cahp_plugin.export import ExportReport, export_pruned
from cahp_plugin.export.quantize import Preset
from cahp_plugin.latency import LatencyReport, measure_latency
from cahp_plugin.prune import check_output_directory, replaced_folder
from cahp_plugin.recover import RecoverySettings
from cahp_plugin.report import format_table
from cahp_plugin.workflow.prune import PruneReport, prune_classifier, read_from

DEPLOY_REPORT_NAME = "cahp_deploy"


@dataclasses.dataclass(frozen=True)
class DeployReport:
    """What :func:`deploy_classifier` made and measured.

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

    def rows(self) -> list[dict[str, str]]:
        """One row a graph: heads, size, accuracy, and the median time and its ratio at each length."""
        reference = self.exports["dense"]
        rows = []
        for name, export in self.exports.items():
            evaluation = export.quantized or export.fp32
            assert evaluation is not None  # every export here was evaluated
            row = {
                "graph": name,
                "heads": f"{export.num_heads}",
                "MiB": f"{export.mib:.1f} ({100 * export.mib / reference.mib:.0f} %)",
                "accuracy": f"{100 * evaluation.accuracy:.2f} %",
                "same class as fp32": "" if export.agreement is None else f"{100 * export.agreement:.2f} %",
            }
            for entry in self.latency.measurements:
                if entry.target == name:
                    theory = f", theory {entry.theory:.2f}" if export.quantize is None else ""
                    row[f"ms at {entry.sequence_length}"] = f"{entry.p50_ms:.2f} ({entry.ratio:.2f}x{theory})"
            rows.append(row)
        return rows

    def __str__(self) -> str:
        return "\n".join([str(self.pruning), "", format_table(self.rows()), "", *self.latency.notes()])

    def to_markdown(self) -> str:
        """The comparison of the four graphs as GitHub Markdown."""
        notes = (f"- {note}" for note in self.latency.notes())
        return "\n".join([format_table(self.rows(), markdown=True), "", *notes, ""])


def deploy_classifier(
    model: Any,
    tokenizer: Any,
    train: Any,
    evaluation: Any,
    config: CAHPConfig | None = None,
    *,
    output_dir: str | os.PathLike[str],
    recovery: RecoverySettings | None = None,
    preset: Preset | None = None,
    sequence_lengths: Sequence[int] = (32, 128, 512),
    threads: int = 1,
    rounds: int = 50,
    warmup: int = 10,
    memory: bool = True,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    max_length: int | None = None,
    overwrite: bool = False,
    figures: bool = True,
) -> DeployReport:
    """Prunes and recovers a classifier, exports it and the dense model, quantizes both to int8, and compares all.

    The folder appears only when everything went well.

    Args:
        model: The classifier; pruned in place.
        tokenizer: Its tokenizer.
        train: Training set with text and label columns.
        evaluation: Evaluation set with the same columns.
        config: Settings of the method.
        output_dir: Folder to write.
        recovery: Fine-tuning after pruning; the paper's by default.
        preset: Processors that the int8 graphs are for; see :func:`cahp_plugin.export.export_pruned`.
        sequence_lengths: Lengths that latency is measured at, in tokens; the model needs positions for all.
        threads: Threads inside an operator.
        rounds: Timed calls of each graph at each length.
        warmup: Calls before them.
        memory: Whether each graph's peak memory is measured, in a process of its own.
        text_columns: As for :func:`cahp_plugin.prune_classifier`.
        label_column: As for :func:`cahp_plugin.prune_classifier`.
        max_length: As for :func:`cahp_plugin.prune_classifier`.
        overwrite: Whether a non-empty folder is replaced.
        figures: Whether pictures of the selection are drawn.

    Returns:
        What was made and measured.

    Raises:
        CAHPError: As ``prune_classifier``, ``export_pruned`` and ``measure_latency``.
    """
    check_output_directory(output_dir, overwrite=overwrite, inputs=read_from(model, tokenizer, train, evaluation))
    columns = find_columns(evaluation, text_columns, label_column)
    check_same_classes({"training": train, "evaluation": evaluation}, columns.label, model.config)
    encoded = encode(evaluation, columns, tokenizer, model, max_length=max_length)
    batches = list(make_dataloader(encoded, tokenizer))
    exports: dict[str, ExportReport] = {}
    with replaced_folder(output_dir, overwrite=overwrite) as partial:

        def export(source: Any, name: str, **settings: Any) -> None:
            report = export_pruned(source, partial / name, evaluation=batches, tokenizer=tokenizer, **settings)
            exports[name] = dataclasses.replace(report, output=Path(output_dir) / name)

        # First what can fail soon: the dense model's export, and lengths that it has no positions for.
        export(model, "dense")
        export(partial / "dense", "dense-int8", quantize="dynamic", preset=preset)
        measure_latency([partial / "dense"], sequence_lengths=sequence_lengths, rounds=2, warmup=0, memory=False)
        pruning = prune_classifier(
            model,
            tokenizer,
            train,
            evaluation,
            config,
            output_dir=partial / "pruned",
            recovery=recovery,
            text_columns=text_columns,
            label_column=label_column,
            max_length=max_length,
            figures=figures,
        )
        export(partial / "pruned", "pruned-onnx")
        export(partial / "pruned-onnx", "pruned-int8", quantize="dynamic", preset=preset)
        latency = measure_latency(
            [partial / name for name in exports],
            sequence_lengths=sequence_lengths,
            threads=threads,
            rounds=rounds,
            warmup=warmup,
            memory=memory,
        )
        latency.save(partial / "latency")
        report = DeployReport(Path(output_dir), _moved(pruning, partial, Path(output_dir)), exports, latency)
        (partial / f"{DEPLOY_REPORT_NAME}.json").write_text(
            json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8"
        )
        (partial / f"{DEPLOY_REPORT_NAME}.md").write_text(report.to_markdown(), encoding="utf-8")
    return report


def _moved(pruning: PruneReport, old: Path, new: Path) -> PruneReport:
    """A report whose paths lie below ``new`` in place of ``old``."""
    figures = {name: new / path.relative_to(old) for name, path in pruning.figures.items()}
    return dataclasses.replace(pruning, output=new / "pruned", figures=figures)
