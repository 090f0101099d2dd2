"""``cahp prune``: a fine-tuned checkpoint in, a smaller checkpoint out."""

from __future__ import annotations

import argparse
from typing import Any

from cahp_plugin.cli.common import (
    DATA_HELP,
    add_data_sets,
    add_pruning_options,
    add_task_options,
    chosen,
    load_data,
    print_result,
    pruning_options,
)

HELP = "prune a fine-tuned model and save it"
DESCRIPTION = (
    "Makes a model smaller under a budget, heads and neurons, repaired without training; or, without a budget, "
    "removes the attention heads that add nothing and fine-tunes, as the paper does. Saves, reloads and compares."
)
#: Options of :func:`add_data_options` that ``prune_model`` takes under their own names.
DATA = ("task", "metric", "text_columns", "label_column", "max_length")
CERTIFY = ("confidence", "group_column")
MODEL_HELP = "folder or Hub id of a fine-tuned model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options, all but the model."""
    add_data_options(parser, required=True)
    parser.add_argument("--output", "-o", required=True, help="folder for the pruned model")
    add_pruning_options(parser, method=None)


def add_data_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Adds the options that name the data, and those of a certificate."""
    sets = {
        "train": "training set: selects what goes and recovers the model; with a budget it needs no labels",
        "eval": "evaluation set (default: a tenth of the training set, held out; with a budget it may be left out)",
        "certify": "with --max-drop: labelled examples that nothing else has touched. The smallest model is taken of "
        "which they certify that no more is lost",
    }
    group = add_data_sets(parser, DATA_HELP, sets, required=["train"] if required else ())
    group.add_argument(
        "--confidence", type=float, default=0.95, metavar="P", help="of the certificate (default: 0.95)"
    )
    group.add_argument(
        "--group-column",
        metavar="COLUMN",
        help="column of --certify whose values are the same for rows that belong together, which count as one",
    )
    add_task_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand."""
    from cahp_plugin.workflow import prune_model

    options = pruning_options(arguments) | chosen(arguments, *DATA, *CERTIFY)
    print_result(arguments, prune_model(*load_inputs(arguments, options), **options))


def load_inputs(arguments: argparse.Namespace, options: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Loads the model, its processor, the training and the evaluation set, once the output folder may be written.

    Args:
        arguments: The options of the command line.
        options: Those of the function that is called; the data to certify on are added.
    """
    from cahp_plugin.prune import check_output_directory
    from cahp_plugin.workflow import load_model
    from cahp_plugin.workflow.certify import check_certify

    check_certify(options["budget"], arguments.certify, arguments.confidence, arguments.group_column)
    inputs = (arguments.model, arguments.train, arguments.eval, arguments.certify)
    check_output_directory(arguments.output, overwrite=arguments.overwrite, inputs=inputs)
    train, evaluation, options["certify"] = (load_data(arguments, name) for name in ("train", "eval", "certify"))
    return *load_model(arguments.model, **chosen(arguments, "task", "device")), train, evaluation
