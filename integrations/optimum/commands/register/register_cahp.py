"""``optimum-cli cahp``: the subcommands of ``cahp`` behind Optimum's front end."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from types import ModuleType

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

from cahp_plugin.cli import benchmark, export, prune, run_command


class _Command(BaseOptimumCLICommand):
    module: ModuleType

    def run(self) -> None:
        """Runs the subcommand; leaves with its exit status."""
        status = run_command(self.module.run, self.args, f"optimum-cli cahp {self.COMMAND.name}")
        if status:
            sys.exit(status)


class PruneCommand(_Command):
    """``optimum-cli cahp prune``."""

    module = prune

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Adds the options."""
        parser.add_argument("-m", "--model", required=True, help=prune.MODEL_HELP)
        prune.add_arguments(parser)


class ExportCommand(_Command):
    """``optimum-cli cahp export``."""

    module = export
    parse_args = staticmethod(export.add_arguments)


class BenchmarkCommand(_Command):
    """``optimum-cli cahp benchmark``."""

    module = benchmark
    parse_args = staticmethod(benchmark.add_arguments)


class CAHPCommand(BaseOptimumCLICommand):
    """``optimum-cli cahp``."""

    COMMAND = CommandInfo(name="cahp", help="Prune attention heads (CAHP), export pruned models, measure latency.")
    SUBCOMMANDS = (
        CommandInfo("prune", "Prune a fine-tuned model and save it.", PruneCommand),
        CommandInfo("export", "Export to ONNX, compare with torch, optimize, quantize.", ExportCommand),
        CommandInfo("benchmark", "Measure latency, side by side, in torch and onnxruntime.", BenchmarkCommand),
    )


REGISTER_COMMANDS = [CAHPCommand]
