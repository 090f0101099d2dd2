"""A pruned checkpoint in, a folder that onnxruntime and Optimum load out."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch
from transformers.utils import logging

from cahp_plugin._compat import package_versions
from cahp_plugin.errors import ConfigError, DataError
from cahp_plugin.export.companions import save_companions
from cahp_plugin.export.graph import check_graph
from cahp_plugin.export.optimize import Optimization, optimize_graph
from cahp_plugin.export.parity import Parity, compare, require_parity
from cahp_plugin.export.quantize import PRESETS, Preset, Quantization, quantize_graph, warn_of_saturation
from cahp_plugin.export.runner import GraphRunner
from cahp_plugin.export.session import (
    EXPORT_REPORT_NAME,
    graph_inputs,
    open_sessions,
    recorded_preset,
)
from cahp_plugin.export.source import Source, open_source
from cahp_plugin.export.tasks import task_named
from cahp_plugin.export.to_onnx import OPSETS, choose_backend, exporter_of, write_graphs
from cahp_plugin.export.tools import onnx_module, onnxruntime
from cahp_plugin.files import from_plain, plain, write_text
from cahp_plugin.prune import check_output_directory, replaced_folder
from cahp_plugin.table import format_table
from cahp_plugin.tasks import TASKS, Evaluation, Examples, evaluate
from cahp_plugin.tasks.evaluation import agreeing, mean_divergence, with_targets

OPSET = 18
_ENDINGS = {None: "", "dynamic": "_quantized", "static": "_quantized", "fp16": "_fp16"}
_FP16_TOLERANCE = 2e-2

Batches = Iterable[Mapping[str, torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What :func:`export_pruned` wrote and what it measured.

    Attributes:
        output: The folder.
        files: Names of the graphs in it: one, or the encoder's and the decoder's.
        task: Optimum's name of the task.
        backend: Which exporter ran: ``"optimum"``, ``"torch"``; ``None`` for a graph that was there already.
        opset: Version of ONNX's operators; ``None`` for a graph that was there already.
        quantize: How it was quantized, or ``None``.
        preset: The int8 preset; ``None`` without int8.
        optimize: Level of optimization, or ``None``.
        num_heads: Attention heads in the graph.
        mib: Size of the written graphs, MiB.
        fp32_mib: Size of the fp32 graphs, MiB.
        parity: The fp32 graph (optimized, where asked for) against the model, or the optimized graph against the graph
            that was there; empty where that one was not optimized, for it would be compared with itself.
        difference: Largest absolute difference of an output between the quantized graph and the model (or the graph
            that was there, before it was optimized) on the same inputs; ``None`` without quantization.
        tolerance: Bound that ``parity`` was held to.
        fused: Operator -> number of fused nodes.
        fp32: How the fp32 graph does on the evaluation set, or ``None`` without one.
        quantized: How the quantized graph does, or ``None``.
        agreement: Share of evaluation examples that both graphs predict the same for (of tokens, where these are
            predicted), or ``None``.
        divergence: Mean distance of the quantized graph's outputs from the fp32 graph's on them, as the task has it
            (nat where it is of classes), or ``None``.
        seconds: Wall-clock seconds of the whole.
        versions: Versions of the packages that decide the result.
        num_neurons: Feed-forward neurons in the graph; ``None`` where an older report does not say.
    """

    output: Path
    files: tuple[str, ...]
    task: str
    backend: str | None
    opset: int | None
    quantize: str | None
    preset: str | None
    optimize: str | None
    num_heads: int
    mib: float
    fp32_mib: float
    parity: tuple[Parity, ...]
    difference: float | None
    tolerance: float
    fused: dict[str, int]
    fp32: Evaluation | None
    quantized: Evaluation | None
    agreement: float | None
    divergence: float | None
    seconds: float
    versions: dict[str, str]
    num_neurons: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain JSON values."""
        return dict(plain(vars(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ExportReport:
        """Builds a report from what :meth:`to_dict` returned, without the predictions.

        Raises:
            KeyError: A part is missing.
            TypeError: A part is of another type.
        """
        # An older report names one file.
        told = {"output": "", "files": [values.get("file")], "divergence": None} | dict(values)
        for name in ("fp32", "quantized"):
            told[name] = values[name] and Evaluation.from_dict(values[name])
        return from_plain(cls, told)

    def save(self, folder: Path) -> None:
        """Writes the report into the exported folder; where that lies is left out, for it may be moved."""
        entries = {name: value for name, value in self.to_dict().items() if name != "output"}
        write_text(folder / EXPORT_REPORT_NAME, json.dumps(entries, indent=2) + "\n")

    def __str__(self) -> str:
        by = f"by the {self.backend} exporter, opset {self.opset}" if self.opset else "from the graph that was there"
        units = f"{self.num_heads} heads" + (f", {self.num_neurons:,} neurons" if self.num_neurons else "")
        lines = [f"{self.output / ' + '.join(self.files)}: {self.task}, {units}, {self.mib:.1f} MiB, {by}."]
        if self.fused:
            lines.append("Fused: " + ", ".join(f"{count} {name}" for name, count in self.fused.items()) + ".")
        against = "the torch model" if self.backend else "the graph that was there"
        if self.parity:
            worst = max(entry.max_abs for entry in self.parity)
            shapes = {(entry.batch_size, entry.sequence_length, entry.padded) for entry in self.parity}
            padding = " with and without padding" if any(entry.padded for entry in self.parity) else ""
            lines.append(
                f"{'Optimized' if self.optimize else 'fp32'} graph against {against}: {worst:.1e} at most over "
                f"{len(shapes)} shapes{padding} (tolerance {self.tolerance:.0e})."
            )
        if self.quantize is not None:
            preset = f", preset {self.preset}" if self.preset else ""
            lines.append(
                f"Quantized ({self.quantize}{preset}): {self.fp32_mib:.1f} -> {self.mib:.1f} MiB. Quantized graph "
                f"against {against}: {self.difference:.2g} at most."
            )
        elif not self.parity:
            lines.append("A copy of the graph that was there: nothing to compare.")
        rows = [
            {"graph": name, **{score.title: str(score.shown()) for score in evaluation.scores},
             "loss": f"{evaluation.loss:.3f}", "n": f"{evaluation.num_examples}"}
            for name, evaluation in (("fp32", self.fp32), (str(self.quantize), self.quantized))
            if evaluation is not None
        ]  # fmt: skip
        if rows:
            lines += ["", format_table(rows)]
        if self.agreement is not None:
            lines.append(f"Same prediction as fp32 for {100 * self.agreement:.2f} %.")
        if self.divergence is not None:
            lines.append(f"Divergence from fp32 ({TASKS[self.task].compared}): {self.divergence:.2g}.")
        elif self.quantize is not None:
            lines.append("What it costs was not measured: no evaluation data was given.")
        return "\n".join(lines)


def export_pruned(
    source: Any,
    output: str | os.PathLike[str],
    *,
    task: str | None = None,
    quantize: Quantization | None = None,
    preset: Preset | None = None,
    optimize: Optimization | None = None,
    calibration: Batches | None = None,
    evaluation: Examples | None = None,
    metric: str | None = None,
    tokenizer: Any = None,
    backend: str = "auto",
    opset: int = OPSET,
    tolerance: float = 1e-4,
    overwrite: bool = False,
) -> ExportReport:
    """Exports a model to ONNX, compares the graph with the model, and optimizes and quantizes it where asked to.

    The folder appears only when all of that went well, and holds one graph (an encoder-decoder's two,
    ``encoder_model.onnx`` and ``decoder_model.onnx``), the config (with ``cahp_config``), the tokenizer, what images
    or speech are prepared with, and ``cahp_export.json``: ``ORTModelFor...from_pretrained`` and ``pipeline`` load it.
    Models that generate are exported without a key-value cache: load them with ``use_cache=False``.

    Args:
        source: A model, a folder or Hub id of one, or a folder with exported graphs to optimize or quantize.
        output: Folder to write.
        task: Optimum's name of the task; the one that the model's class does without it.
        quantize: ``"dynamic"`` or ``"static"`` int8, or ``"fp16"`` (for GPUs).
        preset: Processors that an int8 graph is for: ``"avx2"``, the default, is right on every one; ``"avx512_vnni"``
            (x86 with VNNI) and ``"arm64"`` use the eighth bit of the weights, which is wrong on other x86 ones.
        optimize: ``"O1"`` or ``"O2"``, which fuses attention: a few per cent faster on CPUs.
        calibration: Batches that give the ranges of the activations, for ``"static"``.
        evaluation: Examples that the graphs' scores and their agreement are measured on, from
            :func:`cahp_plugin.tasks.encode`.
        metric: A metric besides the task's, as for :func:`cahp_plugin.prune_model`.
        tokenizer: Saved beside the graph; taken from the source folder without it.
        backend: ``"auto"`` (Optimum's exporter where it runs and knows the model), ``"optimum"`` or ``"torch"``.
        opset: Version of ONNX's operators, 14 to 20.
        tolerance: Largest difference allowed between an output of the fp32 graph and of the model, for outputs up to
            1, and relative to the largest output above.
        overwrite: Whether a non-empty folder is replaced.

    Returns:
        What was written and measured.

    Raises:
        ConfigError: A setting is unknown, out of range or not for this model.
        ExportError: The model can't be exported, or the graph differs from it by more than the tolerance.
        CheckpointError: The source is no model, or the output folder is not empty or holds the source.
        DataError: ```"static"`` without calibration data, or an evaluation set for another task.
        MissingDependencyError: onnx or onnxruntime is not installed.
    """
    start = time.perf_counter()
    _check(quantize, preset, optimize, calibration, opset, tolerance)
    if quantize in ("dynamic", "static"):
        preset = preset or PRESETS[0]
    choose_backend(backend)
    if task is not None:
        task_named(task)
    onnx_module()
    onnxruntime()
    origin = source if isinstance(source, (str, os.PathLike)) else getattr(source, "name_or_path", None)
    check_output_directory(output, overwrite=overwrite, inputs=[origin])
    original = open_source(source, task)
    recorded = recorded_preset(original.folder) if original.graphs and original.folder else None
    if recorded is not None and quantize is not None:
        raise ConfigError(
            f"{original.folder} is int8 already (preset {recorded}). Quantize the fp32 graph or checkpoint."
        )
    _check_fit(original, quantize, evaluation)
    exporter = None if original.graphs else exporter_of(original, backend)

    bar = logging.tqdm(total=3 + (optimize is not None) + (quantize is not None), desc="Exporting", unit="step")
    with bar, replaced_folder(output, overwrite=overwrite) as partial, TemporaryDirectory(dir=partial) as inner:
        scratch = Path(inner)
        graphs = dict(original.graphs)
        if exporter is not None:
            graphs = {part.name: scratch / f"{part.name}.onnx" for part in original.parts}
            example = write_graphs(original, scratch, backend=exporter, opset=opset)
            for part in original.parts:
                check_graph(graphs[part.name], example, part.inputs)
        bar.update()
        fused: Counter[str] = Counter()
        if optimize is not None:
            for name, plain in graphs.items():
                graphs[name] = scratch / f"{name}.optimized.onnx"
                gpu = {"skip_norms": quantize == "fp16"}
                fused.update(optimize_graph(plain, graphs[name], optimize, head_dims=original.head_dims, **gpu))
            bar.update()
        sessions = original.sessions
        parity: tuple[Parity, ...] = ()
        if exporter is not None or optimize is not None:  # else they are the graphs that were there
            sessions = open_sessions(graphs)
            parity = compare(original, sessions)
            what = f"The graph optimized by {optimize}" if optimize else "The graph"
            require_parity(parity, tolerance, what, original.called)
        bar.update()
        final, quantized, difference = graphs, None, None
        if quantize is not None:
            final = {name: scratch / f"{name}.quantized.onnx" for name in graphs}
            for name, graph in graphs.items():
                names = [entry.name for entry in sessions[name].get_inputs()]
                arrays = (graph_inputs(names, batch) for batch in calibration or ())
                quantize_graph(graph, final[name], quantize, preset=preset or PRESETS[0], calibration=arrays)
            warn_of_saturation(preset, "The graph")
            quantized = open_sessions(final)
            drift = compare(original, quantized)
            if quantize == "fp16":
                require_parity(drift, _FP16_TOLERANCE, "The fp16 graph", original.called)
            difference = max(entry.max_abs for entry in drift)
            bar.update()
        fp32, measured, agreement, divergence = None, None, None, None
        if evaluation is not None:
            run = GraphRunner(sessions, original.config)
            evaluation = with_targets(run, evaluation)
            fp32 = evaluate(run, evaluation, metric=metric)
            if quantized is not None:
                smaller = GraphRunner(quantized, original.config)
                measured = evaluate(smaller, evaluation, metric=metric)
                agreement = agreeing(fp32.predictions, measured.predictions)
                divergence = mean_divergence(smaller, run, evaluation)
        written = {name: f"{name}{_ENDINGS[quantize]}.onnx" for name in graphs}
        report = ExportReport(
            output=Path(output),
            files=tuple(written.values()),
            task=original.task.name,
            backend=exporter,
            opset=opset if exporter is not None else None,
            quantize=quantize,
            preset=preset or recorded,
            optimize=optimize,
            num_heads=original.num_heads,
            mib=_mib(final),
            fp32_mib=_mib(graphs),
            parity=parity,
            difference=difference,
            tolerance=tolerance,
            fused=dict(fused),
            fp32=fp32,
            quantized=measured,
            agreement=agreement,
            divergence=divergence,
            seconds=time.perf_counter() - start,
            versions=package_versions("onnx", "onnxruntime", "optimum-onnx"),
            num_neurons=original.num_neurons,
        )
        for name, path in final.items():
            shutil.copyfile(path, partial / written[name])
        save_companions(original, partial, tokenizer)
        report.save(partial)
        bar.update()
    return report


def _check(
    quantize: str | None, preset: str | None, optimize: str | None, calibration: Any, opset: int, tolerance: float
) -> None:
    for name, value, allowed in (
        ("quantize", quantize, get_args(Quantization)),
        ("preset", preset, PRESETS),
        ("optimize", optimize, get_args(Optimization)),
    ):
        if value is not None and value not in allowed:
            raise ConfigError(f"`{name}` must be one of {', '.join(allowed)}; got {value!r}.")
    if preset is not None and quantize not in ("dynamic", "static"):
        raise ConfigError(f"`preset` is of int8 arithmetic, and `quantize` is {quantize!r}. Leave it out.")
    if opset not in OPSETS:
        raise ConfigError(f"`opset` must be {OPSETS[0]} to {OPSETS[-1]}; got {opset}.")
    if not 0 < tolerance < 1:
        raise ConfigError(f"`tolerance` must be in (0, 1); got {tolerance}.")
    if quantize == "static" and calibration is None:
        raise DataError(
            "Static quantization needs calibration data (`calibration=`, `--calibration`): a few hundred examples "
            "like those the model will see. `quantize='dynamic'` needs none, and is as fast."
        )


def _check_fit(original: Source, quantize: str | None, evaluation: Any) -> None:
    """What can be said about the settings only when the model is known, before any work."""
    if evaluation is not None and evaluation.task.name != original.task.name:
        raise DataError(f"The evaluation set is one for {evaluation.task.name}; this model does {original.task.name}.")
    if quantize == "static" and len(original.parts) > 1:
        raise ConfigError(
            f"Static quantization takes one graph; {original.task.name} is exported as "
            f"{' and '.join(part.name for part in original.parts)}, whose calibration would need texts for the "
            "decoder too. `quantize='dynamic'` needs no data, and is as fast."
        )


def _mib(graphs: Mapping[str, Path]) -> float:
    return sum(path.stat().st_size for path in graphs.values()) / 2**20
