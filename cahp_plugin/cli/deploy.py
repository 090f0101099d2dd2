"""``cahp deploy``: from a fine-tuned checkpoint to a pruned int8 graph, measured at every step."""

from __future__ import annotations

import argparse
from typing import Any

from cahp_plugin.cli import benchmark, export, prune
from cahp_plugin.cli.common import add_pruning_options, chosen, pruning_options, run_pruning


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "deploy",
        help="prune, recover, export, quantize and measure, in one go",
        description="Prunes and recovers a classifier, exports it and the dense model to ONNX, quantizes both to "
        "int8, and compares size, accuracy and latency.",
    )
    parser.add_argument("model", metavar="MODEL", help=prune.MODEL_HELP)
    prune.add_data_options(parser, required=True)
    parser.add_argument("--output", "-o", required=True, help="folder for everything")
    add_pruning_options(parser, epochs=3, learning_rate=2e-5)
    export.add_preset_option(parser)
    group = parser.add_argument_group("latency")
    group.add_argument(
        "--sequence-length", type=int, nargs="+", default=[32, 128, 512], help="tokens (default: 32 128 512)"
    )
    benchmark.add_measurement_options(group)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand."""
    run_pruning(arguments, _deploy)


def _deploy(arguments: argparse.Namespace, config: Any) -> Any:
    from cahp_plugin.workflow import deploy_classifier

    model, tokenizer, train, evaluation = prune.load_inputs(arguments)
    return deploy_classifier(
        model,
        tokenizer,
        train,
        evaluation,
        config,
        sequence_lengths=arguments.sequence_length,
        **chosen(arguments, "preset", "threads", "rounds", "warmup", "memory", *prune.COLUMNS),
        **pruning_options(arguments),
    )
