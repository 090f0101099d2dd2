"""The whole way to deployment in one call: prune, recover, export, quantize, and measure after each step."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cahp_plugin.config import CAHPConfig, PlanSettings
from cahp_plugin.cost.budget import Budget
from cahp_plugin.data import as_dataset
from cahp_plugin.export import ExportReport, export_pruned
from cahp_plugin.export.optimize import Optimization
from cahp_plugin.export.quantize import Preset
from cahp_plugin.export.runner import open_graphs
from cahp_plugin.latency import measure_latency
from cahp_plugin.plan.certificate import CONFIDENCE
from cahp_plugin.plan.plan import Plan
from cahp_plugin.prune import check_output_directory, replaced_folder
from cahp_plugin.prune.certificate import CERTIFICATE_KEY, write_certificate
from cahp_plugin.recover import RecoverySettings
from cahp_plugin.report import save_latency
from cahp_plugin.results import DEPLOY_NAME, DeployReport, PruneReport
from cahp_plugin.selectors.base import resolved
from cahp_plugin.tasks import Options, task_of, with_targets
from cahp_plugin.units.positions import max_positions
from cahp_plugin.workflow.certify import Certifier, check_certify
from cahp_plugin.workflow.prune import prune_model, read_from, write_report
from cahp_plugin.workflow.sets import encode_job

_LENGTHS = (32, 128, 512)


def deploy_model(
    model: Any,
    processor: Any,
    train: Any,
    evaluation: Any = None,
    config: CAHPConfig | None = None,
    *,
    budget: Budget | None = None,
    certify: Any = None,
    confidence: float = CONFIDENCE,
    group_column: str | None = None,
    plan: Plan | str | os.PathLike[str] | None = None,
    planning: PlanSettings | None = None,
    task: str | None = None,
    metric: str | None = None,
    output_dir: str | os.PathLike[str],
    recovery: RecoverySettings | None = None,
    preset: Preset | None = None,
    optimize: Optimization | None = None,
    sequence_lengths: Sequence[int] | None = None,
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
    """Prunes and recovers a model, exports it and the dense model, quantizes both to int8, and compares all.

    The folder appears only when everything went well.

    Args:
        model: The model; pruned in place.
        processor: Its tokenizer, or its processor of images or speech.
        train: Training set, as for :func:`cahp_plugin.prune_model`.
        evaluation: Evaluation set; without it, a tenth of the training set is held out.
        config: As for :func:`cahp_plugin.prune_model`.
        budget: What the pruned model may cost, or may lose; a budget of time is met by the int8 graphs, pruned
            against dense.
        certify: As for :func:`cahp_plugin.prune_model`; what is certified is the int8 graph.
        confidence: As for :func:`cahp_plugin.prune_model`.
        group_column: As for :func:`cahp_plugin.prune_model`.
        plan: As for :func:`cahp_plugin.prune_model`.
        planning: As for :func:`cahp_plugin.prune_model`.
        task: As for :func:`cahp_plugin.prune_model`.
        metric: As for :func:`cahp_plugin.prune_model`.
        output_dir: Folder to write.
        recovery: As for :func:`cahp_plugin.prune_model`.
        preset: Processors that the int8 graphs are for; see :func:`cahp_plugin.export.export_pruned`.
        optimize: How all graphs are optimized, as there.
        sequence_lengths: Lengths that latency is measured at, in tokens; the model needs positions for all. Without
            it 32, 128 and 512 as far as it has, and the one length of images and speech.
        threads: Threads inside an operator.
        rounds: Timed calls of each graph at each length.
        warmup: Calls before them.
        memory: Whether each graph's peak memory is measured, in a process of its own.
        text_columns: As for :func:`cahp_plugin.prune_model`.
        label_column: As for :func:`cahp_plugin.prune_model`.
        max_length: As for :func:`cahp_plugin.prune_model`.
        overwrite: Whether a non-empty folder is replaced.
        figures: Whether pictures of the selection are drawn.

    Returns:
        What was made and measured.

    Raises:
        CAHPError: As ``prune_model``, ``export_pruned`` and ``measure_latency``.
    """
    check_certify(budget, certify, confidence, group_column)
    inputs = read_from(model, processor, train, evaluation, certify)
    check_output_directory(output_dir, overwrite=overwrite, inputs=inputs)
    plan = plan if plan is None or isinstance(plan, Plan) else Plan.load(plan)
    does, device = task_of(model, task), model.device
    config = CAHPConfig() if config is None else config
    recovery = recovery or RecoverySettings("finetune" if budget is None else "least-squares")
    options = Options(text_columns, label_column, max_length)
    data = None if certify is None else as_dataset(certify)
    sets = encode_job(
        train, evaluation, model, processor, does, options, recovery, config, budget=budget is not None, certify=data
    )
    int8: dict[str, Any] = {"quantize": "dynamic", "preset": preset}
    certifier = None
    if data is not None and budget is not None:
        certifier = Certifier(
            model, data, sets, budget=budget, task=does, metric=metric, confidence=confidence,
            group_column=group_column, seed=config.seed, batch_size=recovery.batch_size,
            follows=[resolved(config, does), recovery, planning or PlanSettings(), plan and plan.layers],
            graphs=int8 | {"optimize": optimize}, processor=processor,
        )  # fmt: skip
        vars(model.config).pop(CERTIFICATE_KEY, None)  # of the model as it came
    examples = sets.evaluation and with_targets(model, sets.evaluation)
    if sequence_lengths is None and does.main_input == "input_ids":
        longest = max_positions(model) or max(_LENGTHS)
        sequence_lengths = [length for length in _LENGTHS if length <= longest] or [longest]
    exports: dict[str, ExportReport] = {}
    with replaced_folder(output_dir, overwrite=overwrite) as partial:

        def export(source: Any, name: str, **settings: Any) -> None:
            report = export_pruned(
                source, partial / name, evaluation=examples, metric=metric, tokenizer=processor, **settings
            )
            exports[name] = dataclasses.replace(report, output=Path(output_dir) / name)

        # First what can fail soon: the dense model's export, and lengths that it has no positions for.
        export(model.cpu(), "dense", optimize=optimize)
        export(partial / "dense", "dense-int8", **int8)
        measure_latency([partial / "dense"], sequence_lengths=sequence_lengths, rounds=2, warmup=0, memory=False)
        pruning = prune_model(
            model.to(device),
            processor,
            dataclasses.replace(sets, evaluation=examples),
            config=config,
            budget=budget,
            certify=certifier,
            plan=plan,
            planning=planning,
            graphs=int8 | {"optimize": optimize},
            task=task,
            metric=metric,
            output_dir=partial / "pruned",
            recovery=recovery,
            figures=figures,
        )
        export(partial / "pruned", "pruned-onnx", optimize=optimize)
        export(partial / "pruned-onnx", "pruned-int8", **int8)
        if certifier is not None and pruning.plan is not None:
            found = certifier.certificate(open_graphs(partial / "pruned-int8"), pruning.plan.macs.layers)
            for name in ("pruned-int8", "pruned-onnx", "pruned"):  # the first tells the others its hash
                found = write_certificate(partial / name, found, name=f"{Path(output_dir).absolute().name}/{name}")
            pruning = dataclasses.replace(pruning, certificate=found)
            write_report(pruning, partial / "pruned", Path(output_dir) / "pruned", page=figures)
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
