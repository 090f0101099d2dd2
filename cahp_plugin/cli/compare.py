"""``cahp compare``: CAHP beside other ways of choosing heads."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from typing import Any

from cahp_plugin.cli.common import (
    add_data_sets,
    add_settings,
    add_task_options,
    chosen,
    count_or_share,
    load_data,
    method_config,
    print_result,
    recovery_settings,
)
from cahp_plugin.cli.prune import DATA
from cahp_plugin.errors import CAHPError, ConfigError
from cahp_plugin.planners import PLANNERS
from cahp_plugin.selectors import default_selectors, selectors

HELP = "compare ways of choosing heads, or planners under a budget"
DESCRIPTION = (
    "Runs every method at every number of heads, or with --macs every planner at every share of the work,\n"
    "with every recovery and seed. Resumable: each run\n"
    "is a line of runs.jsonl, and the same command goes on where it was stopped."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options, all but the model."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "methods:\n" + "\n".join(f"  {name:<20}{entry.about}" for name, entry in selectors().items())
    parser.epilog += "\n\nplanners:\n" + "\n".join(f"  {name:<20}{entry.about}" for name, entry in PLANNERS.items())
    sets = {
        "train": "training set: selects, calibrates, fine-tunes",
        "test": "test set: evaluates",
        "eval": "validation set: also recorded for each run, to choose among them by",
    }
    add_data_sets(parser, "files, folders or ids as `cahp prune` takes", sets, required=("train", "test"))
    add_task_options(parser)
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
        metavar="NAME,NAME",
        help=f"names from the list below (default: {','.join(default_selectors())})",
    )
    parser.add_argument("--heads", type=count_or_share, nargs="+", help="counts or shares (default: 0.5 0.25)")
    parser.add_argument(
        "--macs",
        type=float,
        nargs="+",
        metavar="SHARE",
        help="compare planners: shares of the transformer layers' multiply-accumulates that may stay",
    )
    parser.add_argument(
        "--planners",
        type=lambda text: text.split(","),
        metavar="NAME,NAME",
        help="names from the list below (default: all)",
    )
    parser.add_argument(
        "--sequence-length", type=int, default=128, help="tokens an example, for the work (default: 128)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (default: 0 1 2)")
    parser.add_argument(
        "--recover",
        nargs="+",
        help="none, bias, least-squares, finetune, distill, least-squares+finetune, least-squares+distill; of "
        "planners also own, each planner's own repair (default: none least-squares; of planners least-squares own)",
    )
    parser.add_argument(
        "--gate-epochs", type=float, default=1.0, help="passes over the training set for voita and dsp (default: 1)"
    )
    parser.add_argument(
        "--knee", action="store_true", help="also let the knee choose from noise in place of the model's separation"
    )
    add_settings(parser, without=("num_heads", "seed", "method"))


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand.

    Raises:
        ConfigError: There is no place for the runs.
        CAHPError: Results are outside of the intervals of those that they are checked against.
    """
    from cahp_plugin.workflow import compare_methods, load_model

    config, recovery = method_config(arguments), recovery_settings(arguments)
    if arguments.output is None and arguments.check is None:
        raise ConfigError("`--output` is missing: it names the folder of the runs. Only `--check` goes without.")
    given = [os.path.realpath(folder) for folder in (arguments.output, arguments.check) if folder]
    if len(given) > len(set(given)):
        raise ConfigError("`--check` and `--output` name one folder: its results would be held against themselves.")
    train, test, validation = (load_data(arguments, name) for name in ("train", "test", "eval"))
    model = load_model(arguments.model, **chosen(arguments, "task", "device"))
    options = chosen(arguments, "methods", "heads", "planners", "macs", "sequence_length", "seeds", *DATA)
    options |= chosen(arguments, "gate_epochs", "knee", "check")
    options |= {"validation": validation, "recoveries": arguments.recover, "config": config, "recovery": recovery}
    place: Any = contextlib.nullcontext(arguments.output)
    if arguments.output is None:
        place = tempfile.TemporaryDirectory(prefix="cahp-check-")
    with place as output:
        comparison = compare_methods(*model, train, test, output_dir=output, **options)
        print_result(arguments, comparison)
    if comparison.check is not None and comparison.check.outside:
        outside = "; ".join(map(str, comparison.check.outside))
        raise CAHPError(f"Not as in {arguments.check}: {outside}.")
