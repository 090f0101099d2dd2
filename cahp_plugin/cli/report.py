"""``cahp report``: one HTML page from the folders that other commands wrote."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "one HTML page with pictures, tables and commands from result folders"
DESCRIPTION = (
    "Writes one self-contained HTML page (no scripts, nothing is loaded) about the folders that prune, compare, "
    "benchmark, export and deploy write."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="folder of a pruned checkpoint or of results")
    parser.add_argument("--output", "-o", default="report.html", help="file to write (default: report.html)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand."""
    from cahp_plugin.report import read_folder, write_page
    from cahp_plugin.report.page import check_output_file

    check_output_file(Path(arguments.output), overwrite=arguments.overwrite)
    contents = [read_folder(Path(folder)) for folder in dict.fromkeys(arguments.folders)]
    print(write_page(contents, arguments.output, overwrite=arguments.overwrite))
