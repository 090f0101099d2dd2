"""``cahp deploy``: from a fine-tuned checkpoint to a pruned int8 graph, measured at every step."""

from __future__ import annotations

import argparse

from cahp_plugin.cli import benchmark, export, prune
from cahp_plugin.cli.common import add_pruning_options, chosen, print_result, pruning_options

HELP = "prune, recover, export, quantize and measure, in one go"
DESCRIPTION = (
    "Prunes and recovers a model, exports it and the dense model to ONNX, quantizes both to int8, and compares "
    "size, quality and latency."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options, all but the model."""
    prune.add_data_options(parser, required=True)
    parser.add_argument("--output", "-o", required=True, help="folder for everything")
    add_pruning_options(parser, method=None, without=("sequence_length", "threads"))
    export.add_graph_options(parser)
    parser.add_argument(
        "--quantize", choices=["dynamic"], default="dynamic", help="how the int8 graphs are made (default: dynamic)"
    )
    group = parser.add_argument_group("latency")
    group.add_argument(
        "--sequence-length", type=int, nargs="+", help="tokens (default: 32 128 512, as far as the model takes them)"
    )
    benchmark.add_measurement_options(group)


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand."""
    from cahp_plugin.workflow import deploy_model

    # A budget of time means the graphs that go out: int8 against int8, at the first of the lengths.
    first = (arguments.sequence_length or [128])[0]
    options = pruning_options(arguments, sequence_length=first, threads=arguments.threads)
    options |= {"sequence_lengths": arguments.sequence_length}
    options |= chosen(arguments, *prune.DATA, *prune.CERTIFY)
    options |= chosen(arguments, "preset", "optimize", "threads", "rounds", "warmup", "memory")
    print_result(arguments, deploy_model(*prune.load_inputs(arguments, options), **options))
