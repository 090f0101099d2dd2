"""``cahp export``: a checkpoint in, a folder for onnxruntime and Optimum out."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from cahp_plugin.cli.common import add_data_sets, add_output_options, add_task_options, chosen, load_data, print_result

HELP = "export to ONNX, compare with torch, optimize, quantize"
DESCRIPTION = (
    "Exports a checkpoint to ONNX and compares the graph with torch at several shapes; an exported folder can be "
    "optimized and quantized in a second step. Models that generate are exported without a key-value cache; an "
    "encoder-decoder as encoder_model.onnx and decoder_model.onnx."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("-m", "--model", required=True, help="checkpoint, pruned or not, or a folder with a graph")
    parser.add_argument("-o", "--output", required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the output folder if it is not empty")
    add_task_options(parser, device=False)
    parser.add_argument(
        "--quantize", choices=("dynamic", "static", "fp16"), help="int8 (dynamic needs no data), or fp16 for GPUs"
    )
    add_graph_options(parser)
    parser.add_argument("--opset", type=int, default=18, help="version of ONNX's operators (default: 18)")
    parser.add_argument(
        "--backend",
        choices=("auto", "optimum", "torch"),
        default="auto",
        help="exporter (default: Optimum's where it is installed and runs)",
    )
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="largest difference from torch allowed (default: 1e-4)"
    )
    sets = {
        "eval": "data that what the graphs achieve, and their agreement, are measured on",
        "calibration": "data for static quantization; labels are not needed",
    }
    group = add_data_sets(parser, "files, folders or ids as `cahp prune` takes", sets)
    group.add_argument("--int8-examples", type=int, default=256, help="how many are used (default: 256)")
    add_output_options(parser)


def add_graph_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--preset`` and ``--optimize``."""
    parser.add_argument(
        "--preset",
        choices=("avx2", "avx512_vnni", "arm64"),
        help="processors that an int8 graph is for: avx2 is right on every one (default); avx512_vnni and arm64 are "
        "finer there, and wrong on x86 without VNNI",
    )
    parser.add_argument(
        "--optimize",
        choices=("O1", "O2"),
        help="graph optimization; O2 fuses attention, a few per cent faster on CPUs",
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand."""
    from cahp_plugin.errors import ConfigError
    from cahp_plugin.export import export_pruned
    from cahp_plugin.prune import check_output_directory

    inputs = (arguments.model, arguments.eval, arguments.calibration)
    check_output_directory(arguments.output, overwrite=arguments.overwrite, inputs=inputs)
    if arguments.int8_examples < 1:
        raise ConfigError("`--int8-examples` must be at least 1.")
    evaluation, calibration = _batches(arguments) if arguments.eval or arguments.calibration else (None, None)
    options = chosen(
        arguments, "task", "metric", "quantize", "preset", "optimize", "backend", "opset", "tolerance", "overwrite"
    )
    options |= {"calibration": calibration, "evaluation": evaluation}
    print_result(arguments, export_pruned(arguments.model, arguments.output, **options))


def _batches(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Examples to evaluate on and batches to calibrate with, each ``None`` where it is not given."""
    from cahp_plugin.export.tasks import task_of
    from cahp_plugin.prune.checkpoint import load_config, untrained_model
    from cahp_plugin.tasks import Options, encode_sets

    shape = untrained_model(load_config(arguments.model))  # its classes and positions are all that is needed
    task = task_of(shape, arguments.task)
    processor = task.load_processor(arguments.model)
    options = Options(arguments.text_columns, arguments.label_column, arguments.max_length)

    def examples(name: str, count: int | None = None) -> Any:
        data = load_data(arguments, name)
        if data is None:
            return None
        own = dataclasses.replace(options, labelled=name == "eval")
        if count is not None:
            data = data.shuffle(seed=0).select(range(min(count, len(data))))
        return encode_sets({name: data}, shape, processor, task, own)[name]

    calibration = examples("calibration", arguments.int8_examples)
    return examples("eval"), None if calibration is None else calibration.batches()
