"""Options and output that the subcommands share."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cahp_plugin.config import CAHPConfig, PlanSettings, RecoverySettings
from cahp_plugin.cost.budget import TARGETS, Budget
from cahp_plugin.errors import ConfigError
from cahp_plugin.processes import processes

#: What a data set may be.
DATA_HELP = (
    "a .jsonl, .json, .csv, .tsv, .parquet or .txt file, a folder of images or recordings, a folder saved by "
    "`datasets`, or a Hub data set id"
)


def count_or_share(text: str) -> int | float:
    """Reads a number of heads: a whole number is a count, any other a share."""
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def _optional_int(text: str) -> int | None:
    return None if text.lower() in ("none", "auto") else int(text)


#: Settings that are no plain number or word -> how the command line reads them.
_READERS: dict[Any, Any] = {
    int | None: _optional_int,
    int | float | None: count_or_share,
    Mapping[str, Any]: json.loads,
    float | None: float,
}
#: Settings of the recovery that the command line calls otherwise.
_RECOVERY_NAMES = {"method": "recover"}


def _add_fields(group: Any, settings: type[Any], without: Sequence[str], defaults: Mapping[str, Any]) -> None:
    """Adds an option for each field of a dataclass of settings, with the help text, the type and the choices there."""
    kinds = get_type_hints(settings)
    for field in dataclasses.fields(settings):
        if field.name in without:
            continue
        kind, name, text = kinds[field.name], _RECOVERY_NAMES.get(field.name, field.name), field.metadata["help"]
        default = defaults.get(field.name, field.default)
        if default is dataclasses.MISSING:
            default = {}
        options: dict[str, Any] = {"type": _READERS.get(kind, kind)}
        if get_origin(kind) is Literal:
            options = {"choices": get_args(kind)}
        elif kind == Mapping[str, Any]:
            options["metavar"] = "JSON"
        elif kind == tuple[str, ...]:
            options = {"nargs": "+", "metavar": "PATTERN"}
        shown = f" (default: {default})" if default not in (None, {}, ()) else ""
        group.add_argument(f"--{name.replace('_', '-')}", default=default, help=text + shown, **options)


def add_settings(parser: argparse.ArgumentParser, *, without: Sequence[str] = (), **defaults: Any) -> None:
    """Adds one option for each setting of method and recovery, but for those in ``without``, and those of output."""
    group = parser.add_argument_group("method", "settings of the method; the paper's are the default")
    _add_fields(group, CAHPConfig, without, defaults)
    group = parser.add_argument_group("recovery", "what happens to the weights after pruning")
    _add_fields(group, RecoverySettings, without, defaults)
    add_output_options(parser)


def method_config(arguments: argparse.Namespace) -> CAHPConfig:
    """Builds the settings from the options of :func:`add_settings`."""
    names = [field.name for field in dataclasses.fields(CAHPConfig)]
    return CAHPConfig(**chosen(arguments, *(name for name in names if hasattr(arguments, name))))


def chosen(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Options that a function takes as keyword arguments under their own names."""
    return {name: getattr(arguments, name) for name in names}


def add_data_sets(parser: Any, about: str, sets: Mapping[str, str], *, required: Sequence[str] = ()) -> Any:
    """Adds the options that name data sets, with a help text each, and that say how their examples become tokens."""
    group = parser.add_argument_group("data", about)
    for name, text in sets.items():
        group.add_argument(f"--{name}", required=name in required, help=text)
        group.add_argument(f"--{name}-split", help="its split, where it has several")
    group.add_argument(
        "--text-columns", nargs="+", metavar="COLUMN", help="columns of the input (default: by their usual names)"
    )
    group.add_argument("--label-column", metavar="COLUMN", help="column of what is to be predicted")
    group.add_argument("--max-length", type=int, help="tokens of an example at most; longer texts are cut or chunked")
    return group


def add_task_options(parser: argparse.ArgumentParser, *, device: bool = True, metric: bool = True) -> None:
    """Adds what says which task a model does, which number is reported, and where it runs."""
    parser.add_argument("--task", metavar="NAME", help="the model's task (default: what its class and config tell)")
    if metric:
        parser.add_argument(
            "--metric",
            metavar="NAME",
            help="a number to report besides the task's own: one that the task has, or module:function(predictions, "
            "references) -> float",
        )
    if device:
        parser.add_argument("--device", help="where the model runs, such as cuda (default: cpu)")


def load_data(arguments: argparse.Namespace, name: str) -> Any:
    """Loads a data set of :func:`add_data_sets`; ``None`` where none is named."""
    from cahp_plugin.data import load_examples

    source = getattr(arguments, name)
    return None if source is None else load_examples(source, getattr(arguments, f"{name}_split"))


def add_planning_options(parser: argparse.ArgumentParser) -> Any:
    """Adds what says how a plan for budgets is made."""
    group = parser.add_argument_group("plan", "how the losses of all sizes are measured, for budgets")
    _add_fields(group, PlanSettings, (), {})
    return group


def add_budget_options(parser: argparse.ArgumentParser, without: Sequence[str] = ()) -> None:
    """Adds the options that set a budget, but for those in ``without``, and that say how its plan is made."""
    group = parser.add_argument_group(
        "budget",
        f"what the pruned model may cost or lose: one of {', '.join(map(_flag, TARGETS))}. Heads and neurons go by "
        "what they are worth at the outputs, and the rest is repaired by least squares: labels are not needed. "
        "Without a budget, the paper's method",
    )
    _add_fields(group, Budget, without, {})
    group.add_argument("--plan", metavar="FOLDER", help="a folder of `cahp plan` for this model and training set")
    add_planning_options(parser)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def budget_of(arguments: argparse.Namespace, **given: Any) -> Budget | None:
    """Builds the budget from the options of :func:`add_budget_options`; ``None`` where none is set.

    Raises:
        ConfigError: There are two, or options of a budget without one.
    """
    fields = [field for field in dataclasses.fields(Budget) if hasattr(arguments, field.name)]
    values = chosen(arguments, *(field.name for field in fields)) | given
    if any(values[name] is not None for name in TARGETS):
        return Budget(**values)
    alone = [field.name for field in fields if values[field.name] != field.default and field.name not in given]
    alone += ["plan"] if arguments.plan is not None else []
    if alone:
        told = " and ".join(map(_flag, alone))
        raise ConfigError(f"Only a budget takes {told}: name one of {', '.join(map(_flag, TARGETS))}.")
    return None


def planning_settings(arguments: argparse.Namespace) -> PlanSettings:
    """Builds the settings from the options of :func:`add_planning_options`."""
    return PlanSettings(**chosen(arguments, *(field.name for field in dataclasses.fields(PlanSettings))))


def add_pruning_options(parser: argparse.ArgumentParser, *, without: Sequence[str] = (), **defaults: Any) -> None:
    """Adds what every command that prunes takes: budget, method, recovery and output.

    Args:
        parser: The parser.
        without: Options of the budget that the command has for itself.
        **defaults: Defaults of settings that are not the library's.
    """
    add_budget_options(parser, without)
    parser.add_argument("--overwrite", action="store_true", help="replace the output folder if it is not empty")
    parser.add_argument("--no-figures", dest="figures", action="store_false", help="draw no pictures")
    add_settings(parser, **defaults)


def pruning_options(arguments: argparse.Namespace, **given: Any) -> dict[str, Any]:
    """The keyword arguments of ``prune_model`` that :func:`add_pruning_options` and ``--output`` give.

    Args:
        arguments: The options.
        **given: Parts of the budget that come from other options.
    """
    budget = budget_of(arguments, **given)
    recover = arguments.recover or ("finetune" if budget is None else "least-squares")
    settings: dict[str, Any] = {"config": method_config(arguments), "recovery": recovery_settings(arguments, recover)}
    settings |= {"budget": budget, "plan": arguments.plan, "planning": planning_settings(arguments)}
    return settings | {"output_dir": arguments.output, **chosen(arguments, "overwrite", "figures")}


def recovery_settings(arguments: argparse.Namespace, method: str = "finetune") -> RecoverySettings:
    """Builds the settings from the options of :func:`add_settings`.

    Raises:
        ConfigError: One is out of its range.
    """
    if not isinstance(arguments.training_arguments, dict):
        raise ConfigError("`--training-arguments` must be a JSON object.")
    names = [field.name for field in dataclasses.fields(RecoverySettings) if field.name != "method"]
    values = {name: getattr(arguments, _RECOVERY_NAMES.get(name, name)) for name in names}
    return RecoverySettings(method, **values)  # type: ignore[arg-type]  # checked there


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--quiet`` and ``--json``."""
    parser.add_argument("--quiet", action="store_true", help="no progress bars, no messages below warnings")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output")


@contextlib.contextmanager
def console(*, quiet: bool) -> Iterator[None]:
    """Sends the library's messages to standard error while a command runs, and sets how much is said."""
    # Fast tokenizers warn at every fork without this.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    from transformers.utils import logging as transformers_logging

    own = logging.getLogger("cahp_plugin")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    quiet = quiet or not processes().main
    with contextlib.ExitStack() as before:
        before.callback(own.removeHandler, handler)
        before.callback(own.setLevel, own.level)
        before.callback(setattr, own, "propagate", own.propagate)
        before.callback(transformers_logging.set_verbosity, transformers_logging.get_verbosity())
        own.addHandler(handler)
        own.setLevel(logging.WARNING if quiet else logging.INFO)
        own.propagate = False
        transformers_logging.set_verbosity_error()
        if quiet and transformers_logging.is_progress_bar_enabled():
            before.callback(transformers_logging.enable_progress_bar)
            transformers_logging.disable_progress_bar()
        if quiet and not datasets.are_progress_bars_disabled():
            before.callback(datasets.enable_progress_bars)
            datasets.disable_progress_bars()
        yield


def print_result(arguments: argparse.Namespace, result: Any) -> None:
    """Prints a result with ``to_dict`` as JSON or as text; of several processes one does."""
    if processes().main:
        print(json.dumps(result.to_dict()) if arguments.json else result)
