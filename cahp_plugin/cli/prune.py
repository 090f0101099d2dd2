"""``cahp prune``: a fine-tuned checkpoint in, a smaller checkpoint out."""

from __future__ import annotations

import argparse
from typing import Any

from cahp_plugin.cli.common import add_data_sets, add_pruning_options, chosen, load_data, print_result, pruning_options

HELP = "prune a fine-tuned classifier and save it"
DESCRIPTION = "Removes the attention heads that add nothing, fine-tunes, saves, reloads and compares."
COLUMNS = ("text_columns", "label_column", "max_length")  # of :func:`add_data_options`
MODEL_HELP = "folder or Hub id of a fine-tuned sequence classifier"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options, all but the model."""
    add_data_options(parser, required=True)
    parser.add_argument("--output", "-o", required=True, help="folder for the pruned model")
    add_pruning_options(parser, epochs=3, learning_rate=2e-5)


def add_data_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Adds the options that name the data."""
    about = "a .jsonl, .json, .csv, .tsv or .parquet file, a folder saved by `datasets`, or a Hub data set id"
    sets = {"train": "training set: selects the heads and recovers the model", "eval": "evaluation set"}
    add_data_sets(parser, about, sets, required=list(sets) if required else ())


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand."""
    from cahp_plugin.workflow import prune_classifier

    options = pruning_options(arguments) | chosen(arguments, *COLUMNS)
    print_result(arguments, prune_classifier(*load_inputs(arguments), **options))


def load_inputs(arguments: argparse.Namespace) -> tuple[Any, Any, Any, Any]:
    """Loads the model, its tokenizer, the training and the evaluation set, once the output folder may be written."""
    from cahp_plugin.prune import check_output_directory
    from cahp_plugin.workflow import load_classifier

    inputs = (arguments.model, arguments.train, arguments.eval)
    check_output_directory(arguments.output, overwrite=arguments.overwrite, inputs=inputs)
    train, evaluation = load_data(arguments, "train"), load_data(arguments, "eval")
    return *load_classifier(arguments.model), train, evaluation
