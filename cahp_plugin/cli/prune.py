"""``cahp prune``: a fine-tuned checkpoint in, a smaller checkpoint out."""

from __future__ import annotations

import argparse
from typing import Any

from cahp_plugin.cli.common import add_column_options, add_pruning_options, chosen, pruning_options, run_pruning
from cahp_plugin.config import CAHPConfig

COLUMNS = ("text_columns", "label_column", "max_length")  # of :func:`add_data_options`
MODEL_HELP = "folder or Hub id of a fine-tuned sequence classifier"


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "prune",
        help="prune a fine-tuned classifier and save it",
        description="Removes the attention heads that add nothing, fine-tunes, saves, reloads and compares.",
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_arguments(parser)
    parser.set_defaults(run=run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options, all but the model."""
    add_data_options(parser, required=True)
    parser.add_argument("--output", "-o", required=True, help="folder for the pruned model")
    add_pruning_options(parser, epochs=3, learning_rate=2e-5)


def add_data_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Adds the options that name the data."""
    group = parser.add_argument_group(
        "data", "a .jsonl, .json, .csv, .tsv or .parquet file, a folder saved by `datasets`, or a Hub data set id"
    )
    group.add_argument("--train", required=required, help="training set: selects the heads and recovers the model")
    group.add_argument("--eval", required=required, help="evaluation set")
    group.add_argument("--train-split", help="split of the training set, where it has several")
    group.add_argument("--eval-split", help="split of the evaluation set, where it has several")
    add_column_options(group)


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand."""
    run_pruning(arguments, _prune)


def _prune(arguments: argparse.Namespace, config: CAHPConfig) -> Any:
    from cahp_plugin.workflow import prune_classifier

    model, tokenizer, train, evaluation = load_inputs(arguments)
    options = chosen(arguments, *COLUMNS) | pruning_options(arguments)
    return prune_classifier(model, tokenizer, train, evaluation, config, **options)


def load_inputs(arguments: argparse.Namespace) -> tuple[Any, Any, Any, Any]:
    """Loads the model, its tokenizer, the training and the evaluation set, once the output folder may be written."""
    from cahp_plugin.data import load_examples
    from cahp_plugin.prune import check_output_directory
    from cahp_plugin.workflow import load_classifier

    inputs = (arguments.model, arguments.train, arguments.eval)
    check_output_directory(arguments.output, overwrite=arguments.overwrite, inputs=inputs)
    train = load_examples(arguments.train, arguments.train_split)
    evaluation = load_examples(arguments.eval, arguments.eval_split)
    return *load_classifier(arguments.model), train, evaluation
