"""``cahp compare``: CAHP beside other ways of choosing heads."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator
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
from cahp_plugin.errors import CAHPError, ConfigError
from cahp_plugin.selectors import default_selectors, selectors


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "compare",
        help="compare ways of choosing heads",
        description="Runs every method at every number of heads, with every recovery and seed. Resumable: each run\n"
        "is a line of runs.jsonl, and the same command goes on where it was stopped.",
        epilog="methods:\n" + "\n".join(f"  {name:<20}{entry.about}" for name, entry in selectors().items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    group = parser.add_argument_group("data", "files, folders or ids as `cahp prune` takes")
    group.add_argument("--train", required=True, help="training set: selects, calibrates, fine-tunes")
    group.add_argument("--test", required=True, help="test set: evaluates")
    group.add_argument("--eval", help="validation set: also recorded for each run, to choose among them by")
    group.add_argument("--train-split", help="split of the training set, where it has several")
    group.add_argument("--test-split", help="split of the test set, where it has several")
    group.add_argument("--eval-split", help="split of the validation set, where it has several")
    add_column_options(group)
    parser.add_argument("--output", "-o", help="folder of the runs; needed without --check")
    parser.add_argument(
        "--check",
        metavar="FOLDER",
        help="run again (into --output, or a folder that is thrown away) and hold the accuracies against the results "
        "in FOLDER; exit code 1 where one is outside of their interval",
    )
    parser.add_argument(
        "--methods",
        type=lambda text: text.split(","),
        default=default_selectors(),
        metavar="NAME,NAME",
        help=f"names from the list below (default: {','.join(default_selectors())})",
    )
    parser.add_argument(
        "--heads", type=count_or_share, nargs="+", default=[0.5, 0.25], help="counts or shares (default: 0.5 0.25)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (default: 0 1 2)")
    parser.add_argument(
        "--recover",
        nargs="+",
        default=["none", "least-squares"],
        help="none, bias, least-squares, finetune, least-squares+finetune (default: none least-squares)",
    )
    parser.add_argument(
        "--gate-epochs", type=float, default=1.0, help="passes over the training set for voita and dsp (default: 1)"
    )
    parser.add_argument(
        "--knee", action="store_true", help="also let the knee choose from noise in place of the model's separation"
    )
    add_finetuning_options(parser.add_argument_group("recovery"), epochs=3, learning_rate=2e-5)
    add_method_options(parser, without=("num_heads", "seed"))
    add_output_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand.

    Raises:
        ConfigError: There is no place for the runs.
        CAHPError: Results are outside of the intervals of those that they are checked against.
    """
    config = method_config(arguments)
    check_recovery_options(arguments)
    if arguments.output is None and arguments.check is None:
        raise ConfigError("`--output` is missing: it names the folder of the runs. Only `--check` goes without.")
    if (
        arguments.output
        and arguments.check
        and os.path.realpath(arguments.output) == os.path.realpath(arguments.check)
    ):
        raise ConfigError("`--check` and `--output` name one folder: its results would be held against themselves.")
    with console(arguments), _output(arguments) as output:
        comparison = _compare(arguments, config, output)
        print_result(arguments, comparison)
    if comparison.check is not None and comparison.check.outside:
        outside = "; ".join(
            f"{row.method} at {row.num_heads} heads ({row.recover}): {100 * row.found:.1f} %, allowed "
            f"{100 * row.interval[0]:.1f} to {100 * row.interval[1]:.1f}"
            for row in comparison.check.outside
        )
        raise CAHPError(f"Not as in {arguments.check}: {outside}.")


@contextlib.contextmanager
def _output(arguments: argparse.Namespace) -> Iterator[str]:
    if arguments.output is not None:
        yield arguments.output
    else:
        with tempfile.TemporaryDirectory(prefix="cahp-check-") as folder:
            yield folder


def _compare(arguments: argparse.Namespace, config: CAHPConfig, output: str) -> Any:
    from cahp_plugin.data import load_examples
    from cahp_plugin.workflow import compare_methods, load_classifier

    train = load_examples(arguments.train, arguments.train_split)
    test = load_examples(arguments.test, arguments.test_split)
    validation = None if arguments.eval is None else load_examples(arguments.eval, arguments.eval_split)
    model, tokenizer = load_classifier(arguments.model)
    return compare_methods(
        model,
        tokenizer,
        train,
        test,
        validation=validation,
        output_dir=output,
        methods=arguments.methods,
        heads=arguments.heads,
        seeds=arguments.seeds,
        recoveries=arguments.recover,
        config=config,
        recovery=recovery_settings(arguments),
        gate_epochs=arguments.gate_epochs,
        knee=arguments.knee,
        check=arguments.check,
        text_columns=arguments.text_columns,
        label_column=arguments.label_column,
        max_length=arguments.max_length,
    )
