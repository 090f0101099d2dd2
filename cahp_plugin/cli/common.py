"""Options and output that the subcommands share."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from cahp_plugin.config import CAHPConfig, Clustering, Conditioning, MSSVariant, Representative, TSNEInit
from cahp_plugin.errors import ConfigError
from cahp_plugin.processes import processes


def count_or_share(text: str) -> int | float:
    """Reads a number of heads: a whole number is a count, any other a share."""
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def _optional_int(text: str) -> int | None:
    return None if text.lower() in ("none", "auto") else int(text)


#: Setting -> (type of the option, its choices, help). The defaults and the checks are CAHPConfig's own.
_SETTINGS: dict[str, tuple[Any, tuple[str, ...] | None, str]] = {
    "polynomial_degree": (int, None, "the method's dial, 1 to 10: a higher degree keeps fewer heads (paper: 2 to 6)"),
    "conditioning": (
        str,
        get_args(Conditioning),
        "what heads are compared by: how they tell labelled classes apart (the paper), or predicted ones, or their "
        "attention itself",
    ),
    "max_queries": (_optional_int, None, "queries of an example that conditioning 'none' compares the heads at"),
    "num_heads": (count_or_share, None, "heads to keep, a count or a share in (0, 1), in place of the knee's choice"),
    "min_heads_per_layer": (int, None, "heads that each layer keeps at least; 0 lets whole layers go"),
    "seed": (int, None, "seed of the t-SNE embedding and of the fine-tuning"),
    "clustering": (str, get_args(Clustering), "how the heads are clustered (paper: kmedoids)"),
    "representative": (str, get_args(Representative), "head that stands for its cluster (paper: salience)"),
    "mss": (str, get_args(MSSVariant), "form of the Mean Simplified Silhouette"),
    "signature_size": (_optional_int, None, "side of the resized attention maps (default: from the token lengths)"),
    "signature_percentile": (float, None, "percentile of the token lengths that gives the side"),
    "salience_share": (float, None, "share of the training set that the salience is measured on"),
    "perplexity": (float, None, "perplexity of t-SNE"),
    "tsne_iterations": (int, None, "iterations of t-SNE"),
    "tsne_init": (str, get_args(TSNEInit), "start of t-SNE; from pca the selection depends less on the seed"),
    "knee_sensitivity": (float, None, "Kneedle's S"),
    "variance_floor": (float, None, "lower bound of each cell's variance"),
    "num_neighbors": (int, None, "neighbours of a head in the graph of heads"),
}


def add_method_options(parser: argparse.ArgumentParser, *, without: Sequence[str] = ()) -> None:
    """Adds one option for each setting of :class:`CAHPConfig`, but for those in ``without``."""
    group = parser.add_argument_group("method", "settings of the method; the paper's are the default")
    defaults = CAHPConfig()
    for field in dataclasses.fields(CAHPConfig):
        if field.name in without:
            continue
        kind, choices, text = _SETTINGS[field.name]
        default = getattr(defaults, field.name)
        shown = "" if default is None else f" (default: {default})"
        group.add_argument(
            f"--{field.name.replace('_', '-')}", type=kind, choices=choices, default=default, help=text + shown
        )


def method_config(arguments: argparse.Namespace) -> CAHPConfig:
    """Builds the settings from the options of :func:`add_method_options`."""
    names = [field.name for field in dataclasses.fields(CAHPConfig)]
    return CAHPConfig(**{name: getattr(arguments, name) for name in names if hasattr(arguments, name)})


def add_column_options(group: Any) -> None:
    """Adds the options that say how examples become tokens."""
    group.add_argument("--text-columns", nargs="+", metavar="COLUMN", help="one or two text columns")
    group.add_argument("--label-column", metavar="COLUMN", help="column of the labels")
    group.add_argument("--max-length", type=int, help="tokens that examples are truncated to")


def add_recovery_options(parser: argparse.ArgumentParser, *, epochs: float, learning_rate: float) -> None:
    """Adds the options of the fine-tuning after pruning."""
    group = parser.add_argument_group("recovery", "what happens to the weights after pruning")
    group.add_argument(
        "--recover",
        choices=("none", "bias", "least-squares", "finetune", "least-squares+finetune"),
        default="finetune",
        help="finetune (the paper, the default); least-squares and bias repair the output projections in closed form, "
        "in seconds and without labels",
    )
    add_finetuning_options(group, epochs=epochs, learning_rate=learning_rate)


def add_finetuning_options(group: Any, *, epochs: float, learning_rate: float) -> None:
    """Adds the settings of the recoveries."""
    group.add_argument(
        "--recover-examples", type=int, default=384, help="examples that a closed form is fitted on (default: 384)"
    )
    group.add_argument(
        "--epochs", type=float, default=epochs, help=f"epochs; 0 leaves it one-shot (default: {epochs:g})"
    )
    group.add_argument(
        "--learning-rate", type=float, default=learning_rate, help=f"peak learning rate (default: {learning_rate:g})"
    )
    group.add_argument("--batch-size", type=int, default=32, help="examples a batch (default: 32)")
    group.add_argument(
        "--training-arguments",
        type=json.loads,
        default={},
        metavar="JSON",
        help="more arguments of transformers.TrainingArguments, e.g. '{\"bf16\": true}'",
    )


def add_pruning_options(parser: argparse.ArgumentParser, *, epochs: float, learning_rate: float) -> None:
    """Adds what every command that prunes takes: method, recovery and output."""
    parser.add_argument("--overwrite", action="store_true", help="replace the output folder if it is not empty")
    parser.add_argument("--no-figures", dest="figures", action="store_false", help="draw no pictures")
    add_method_options(parser)
    add_recovery_options(parser, epochs=epochs, learning_rate=learning_rate)
    add_output_options(parser)


def pruning_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``prune_classifier`` that :func:`add_pruning_options` and ``--output`` give."""
    return {
        "output_dir": arguments.output,
        "recovery": recovery_settings(arguments, arguments.recover),
        "overwrite": arguments.overwrite,
        "figures": arguments.figures,
    }


def recovery_settings(arguments: argparse.Namespace, method: str = "finetune") -> Any:
    """The settings that :func:`add_finetuning_options` gives."""
    from cahp_plugin.recover import RecoverySettings

    return RecoverySettings(
        method=method,  # type: ignore[arg-type]  # argparse has checked it
        num_examples=arguments.recover_examples,
        epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        batch_size=arguments.batch_size,
        training_arguments=arguments.training_arguments,
    )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--quiet`` and ``--json``."""
    parser.add_argument("--quiet", action="store_true", help="no progress bars, no messages below warnings")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output")


def check_recovery_options(arguments: argparse.Namespace) -> None:
    """Checks the numbers of :func:`add_recovery_options`.

    Raises:
        ConfigError: One is out of its range.
    """
    for name, low, open_low in (
        ("epochs", 0, False),
        ("learning_rate", 0, True),
        ("batch_size", 1, False),
        ("recover_examples", 2, False),
    ):
        value = getattr(arguments, name)
        if not value >= low or (open_low and value == low):
            raise ConfigError(f"`--{name.replace('_', '-')}` must be {'above' if open_low else 'at least'} {low}.")
    if not isinstance(arguments.training_arguments, dict):
        raise ConfigError("`--training-arguments` must be a JSON object.")


@contextlib.contextmanager
def console(arguments: argparse.Namespace) -> Iterator[None]:
    """Sends the library's messages to standard error while a command runs, and sets how much is said."""
    # Fast tokenizers warn at every fork without this.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    from transformers.utils import logging as transformers_logging

    own = logging.getLogger("cahp_plugin")
    before = own.level, own.propagate, transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    own.addHandler(handler)
    quiet = arguments.quiet or not processes().main
    own.setLevel(logging.WARNING if quiet else logging.INFO)
    own.propagate = False
    transformers_logging.set_verbosity_error()
    if quiet:
        datasets.disable_progress_bars()
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        own.removeHandler(handler)
        own.setLevel(before[0])
        own.propagate = before[1]
        transformers_logging.set_verbosity(before[2])
        if bars[0]:
            transformers_logging.enable_progress_bar()
        if not bars[1]:
            datasets.enable_progress_bars()


def print_result(arguments: argparse.Namespace, result: Any) -> None:
    """Prints a result with ``to_dict`` as JSON or as text; of several processes one does."""
    if processes().main:
        print(json.dumps(result.to_dict()) if arguments.json else result)
