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
from cahp_plugin.latency import measure_latency
from cahp_plugin.prune import check_output_directory, replaced_folder
from cahp_plugin.recover import RecoverySettings
from cahp_plugin.report import save_latency
from cahp_plugin.results import DEPLOY_NAME, DeployReport, PruneReport
from cahp_plugin.workflow.prune import prune_classifier, read_from


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
        save_latency(latency, partial / "latency")
        report = DeployReport(Path(output_dir), _moved(pruning, partial, Path(output_dir)), exports, latency)
        (partial / DEPLOY_NAME).write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
        (partial / DEPLOY_NAME).with_suffix(".md").write_text(report.to_markdown(), encoding="utf-8")
    return report


def _moved(pruning: PruneReport, old: Path, new: Path) -> PruneReport:
    """A report whose paths lie below ``new`` in place of ``old``."""
    figures = {name: new / path.relative_to(old) for name, path in pruning.figures.items()}
    return dataclasses.replace(pruning, output=new / "pruned", figures=figures)
