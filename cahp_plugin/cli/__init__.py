"""The command ``cahp``. Each subcommand's heavy imports wait until it runs."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cahp_plugin._version import __version__
from cahp_plugin.cli import benchmark, compare, demo, deploy, export, inspect, plan, prune, report
from cahp_plugin.cli.common import console
from cahp_plugin.errors import CAHPError

__all__ = ["build_parser", "main", "run_command"]


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of ``cahp`` and its subcommands."""
    parser = argparse.ArgumentParser(
        prog="cahp", description="Complementary Attention Head Pruning for Hugging Face transformers."
    )
    parser.add_argument("--version", action="version", version=f"cahp-plugin {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (prune, plan, inspect, export, benchmark, deploy, compare, report, demo):
        name = module.__name__.rpartition(".")[2]
        command = commands.add_parser(name, help=module.HELP, description=module.DESCRIPTION)
        if module in (prune, plan, deploy, compare):
            command.add_argument("model", metavar="MODEL", help=prune.MODEL_HELP)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``cahp``.

    Returns:
        0; 1 after an error of the library, whose message goes to standard error; 130 after Ctrl-C.
    """
    arguments = build_parser().parse_args(argv)
    return run_command(arguments.run, arguments, f"cahp {arguments.command}")


def run_command(run: Callable[[argparse.Namespace], None], arguments: argparse.Namespace, name: str) -> int:
    """Runs a subcommand and turns the library's errors into messages on standard error.

    Returns:
        As :func:`main`.
    """
    try:
        with _stopped_by_sigterm(), console(quiet=getattr(arguments, "quiet", False)):
            run(arguments)
    except CAHPError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted; nothing half-written is left.", file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Makes SIGTERM an exception, so that nothing half-written is left: launchers stop the others of a lost one."""

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
