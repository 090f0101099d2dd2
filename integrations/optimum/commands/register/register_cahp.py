"""``optimum-cli cahp``: the subcommands of ``cahp`` behind Optimum's front end."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

from cahp_plugin.cli import benchmark, deploy, export, plan, prune, run_command


def _command(name: str, module: Any, *, model: bool) -> CommandInfo:
    """A subcommand of ``cahp``; ``model`` says whether its model is one that is pruned."""

    class Command(BaseOptimumCLICommand):
        """One subcommand."""

        @staticmethod
        def parse_args(parser: ArgumentParser) -> None:
            """Adds the options."""
            if model:
                parser.add_argument("-m", "--model", required=True, help=prune.MODEL_HELP)
            module.add_arguments(parser)

        def run(self) -> None:
            """Runs it; leaves with its exit status."""
            status = run_command(module.run, self.args, f"optimum-cli cahp {name}")
            if status:
                sys.exit(status)

    return CommandInfo(name, module.HELP, Command)


class CAHPCommand(BaseOptimumCLICommand):
    """``optimum-cli cahp``."""

    COMMAND = CommandInfo(name="cahp", help="Prune models (CAHP, budgets), export them, measure latency.")
    SUBCOMMANDS = (
        _command("prune", prune, model=True),
        _command("plan", plan, model=True),
        _command("deploy", deploy, model=True),
        _command("export", export, model=False),
        _command("benchmark", benchmark, model=False),
    )


REGISTER_COMMANDS = [CAHPCommand]
