"""``cahp benchmark``: how long models take, side by side."""

from __future__ import annotations

import argparse
from typing import Any

from cahp_plugin.cli.common import add_output_options, chosen, print_result

HELP = "measure latency, side by side, in torch and onnxruntime"
DESCRIPTION = (
    "Times checkpoints (in torch) and exported folders (in onnxruntime) in one interleaved run; ratios are to the "
    "first."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("targets", nargs="+", metavar="TARGET", help="checkpoint, Hub id or exported folder")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1], help="examples a call (default: 1)")
    parser.add_argument(
        "--sequence-length", type=int, nargs="+", help="tokens (default: 128; images, speech: their own)"
    )
    parser.add_argument("--output", "-o", help="folder for latency.json, .csv, .md and .png")
    parser.add_argument("--overwrite", action="store_true", help="replace the output folder if it is not empty")
    add_measurement_options(parser)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run (default: cpu)")
    parser.add_argument(
        "--attn-implementation", help="attention of the checkpoints in torch (default: transformers' own choice)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of inputs and order (default: 0)")
    add_output_options(parser)


def add_measurement_options(parser: Any) -> None:
    """Adds the options that every command that measures latency has."""
    parser.add_argument("--threads", type=int, default=1, help="threads inside an operator (default: 1)")
    parser.add_argument("--rounds", type=int, default=50, help="timed calls of each target (default: 50)")
    parser.add_argument("--warmup", type=int, default=10, help="calls before them (default: 10)")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave the peak memory out")


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand."""
    from cahp_plugin.latency import measure_latency
    from cahp_plugin.prune import check_output_directory
    from cahp_plugin.report import save_latency

    if arguments.output:
        check_output_directory(arguments.output, overwrite=arguments.overwrite, inputs=arguments.targets)
    report = measure_latency(
        arguments.targets,
        batch_sizes=arguments.batch_size,
        sequence_lengths=arguments.sequence_length,
        **chosen(arguments, "device", "threads", "rounds", "warmup", "seed", "attn_implementation", "memory"),
    )
    if arguments.output:
        save_latency(report, arguments.output, overwrite=arguments.overwrite)
    print_result(arguments, report)
