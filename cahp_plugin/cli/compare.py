"""``cahp compare``: CAHP beside other ways of choosing heads."""

from __future__ import annotations

import argparse
from typing import Any

from cahp_plugin.cli.common import (
    add_column_options,
    add_finetuning_options,
    add_method_options,
    add_output_options,
    check_recovery_options,
    console,
    count_or_share,
    method_config,
    print_result,
    recovery_settings,
)
from cahp_plugin.cli.prune import MODEL_HELP
from cahp_plugin.config import CAHPConfig


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "compare",
        help="compare ways of choosing heads",
        description="Runs every method at every number of heads, with every recovery and seed. Resumable: each run is "
        "a line of runs.jsonl, and the same command goes on where it was stopped.",
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    group = parser.add_argument_group("data", "files, folders or ids as `cahp prune` takes")
    group.add_argument("--train", required=True, help="training set: selects, calibrates, fine-tunes")
    group.add_argument("--test", required=True, help="test set: evaluates")
    group.add_argument("--train-split", help="split of the training set, where it has several")
    group.add_argument("--test-split", help="split of the test set, where it has several")
    add_column_options(group)
    parser.add_argument("--output", "-o", required=True, help="folder of the runs")
    parser.add_argument(
        "--methods",
        type=lambda text: text.split(","),
        default=["cahp", "salience-layernorm", "obs", "random"],
        metavar="NAME,NAME",
        help="cahp, medoid, salience, salience-layernorm, magnitude, obs, random "
        "(default: cahp,salience-layernorm,obs,random)",
    )
    parser.add_argument(
        "--heads", type=count_or_share, nargs="+", default=[0.5, 0.25], help="counts or shares (default: 0.5 0.25)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (default: 0 1 2)")
    parser.add_argument(
        "--recover", nargs="+", default=["none", "least-squares"], help="recoveries (default: none least-squares)"
    )
    add_finetuning_options(parser.add_argument_group("recovery"), epochs=3, learning_rate=2e-5)
    add_method_options(parser, without=("num_heads", "seed"))
    add_output_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand."""
    config = method_config(arguments)
    check_recovery_options(arguments)
    with console(arguments):
        print_result(arguments, _compare(arguments, config))


def _compare(arguments: argparse.Namespace, config: CAHPConfig) -> Any:
    from cahp_plugin.compare import compare_methods
    from cahp_plugin.data import load_examples
    from cahp_plugin.workflow import load_classifier

    train = load_examples(arguments.train, arguments.train_split)
    test = load_examples(arguments.test, arguments.test_split)
    model, tokenizer = load_classifier(arguments.model)
    return compare_methods(
        model,
        tokenizer,
        train,
        test,
        output_dir=arguments.output,
        methods=arguments.methods,
        heads=arguments.heads,
        seeds=arguments.seeds,
        recoveries=arguments.recover,
        config=config,
        recovery=recovery_settings(arguments),
        text_columns=arguments.text_columns,
        label_column=arguments.label_column,
        max_length=arguments.max_length,
    )
