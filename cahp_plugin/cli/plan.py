"""``cahp plan``: the whole curve of a model, size against predicted loss; nothing is pruned."""

from __future__ import annotations

import argparse

from cahp_plugin.cli import prune
from cahp_plugin.cli.common import (
    DATA_HELP,
    add_data_sets,
    add_output_options,
    add_planning_options,
    add_task_options,
    chosen,
    load_data,
    planning_settings,
    print_result,
)
from cahp_plugin.config import CAHPConfig, RecoverySettings

HELP = "measure what every size of a model loses, for any budget; nothing is pruned"
DESCRIPTION = (
    "Measures once what each size of each layer loses at the model's outputs. `cahp prune --plan FOLDER` then meets "
    "any budget without measuring again. Labels are not needed. Stopped, the same command goes on where it was."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options, all but the model."""
    add_data_sets(parser, DATA_HELP, {"train": "training set, from which the examples are drawn"}, required=["train"])
    add_task_options(parser, metric=False)
    parser.add_argument("--output", "-o", required=True, help="folder for the plan")
    parser.add_argument("--overwrite", action="store_true", help="replace a plan that is there")
    group = add_planning_options(parser)
    for settings, name in ((RecoverySettings, "calibration_examples"), (RecoverySettings, "batch_size")):
        field = settings.__dataclass_fields__[name]
        text = f"{field.metadata['help']} (default: {field.default})"
        group.add_argument(f"--{name.replace('_', '-')}", type=int, default=field.default, help=text)
    group.add_argument("--multiple-of", type=int, default=16, help="feed-forward widths are multiples of it (16)")
    group.add_argument("--seed", type=int, default=CAHPConfig().seed, help="seed of the draw (default: 0)")
    parser.add_argument("--no-figures", dest="figures", action="store_false", help="draw no picture of the curve")
    add_output_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand."""
    from cahp_plugin.workflow import load_model
    from cahp_plugin.workflow.plan import plan_model

    model, processor = load_model(arguments.model, **chosen(arguments, "task", "device"))
    plan = plan_model(
        model,
        processor,
        load_data(arguments, "train"),
        planning=planning_settings(arguments),
        recovery=RecoverySettings(**chosen(arguments, "calibration_examples", "batch_size")),
        config=CAHPConfig(seed=arguments.seed),
        output_dir=arguments.output,
        **chosen(arguments, "multiple_of", "overwrite", "figures", *(name for name in prune.DATA if name != "metric")),
    )
    print_result(arguments, plan)
