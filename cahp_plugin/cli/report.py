"""``cahp report``: one HTML page from the folders that other commands wrote."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cahp_plugin.errors import CheckpointError


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "report",
        help="one HTML page with pictures, tables and commands from result folders",
        description="Writes one self-contained HTML page (no scripts, nothing is loaded) about the folders that "
        "prune, compare, benchmark, export and deploy write.",
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="folder of a pruned checkpoint or of results")
    parser.add_argument("--output", "-o", default="report.html", help="file to write (default: report.html)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand."""
    from cahp_plugin.report.html import write_page
    from cahp_plugin.report.html.page import check_output_file

    check_output_file(Path(arguments.output), overwrite=arguments.overwrite)
    contents = [read_folder(Path(folder)) for folder in dict.fromkeys(arguments.folders)]
    print(write_page(contents, arguments.output, overwrite=arguments.overwrite))


def read_folder(folder: Path) -> Any:
    """Reads whatever a folder holds.

    Raises:
        CheckpointError: Nothing in it can be shown, or a file is damaged.
    """
    import dataclasses

    from cahp_plugin.compare.page import read_comparison
    from cahp_plugin.report.html import read_contents

    contents = read_contents(folder)
    contents = dataclasses.replace(contents, compared=read_comparison(folder))
    if not contents:
        raise CheckpointError(
            f"{folder} holds nothing to report. Looked for a pruned checkpoint (config.json with `cahp_config`, "
            "selection.json, cahp_report.json), a comparison with finished runs (runs.jsonl), latency.json, "
            "cahp_export.json and cahp_deploy.json."
        )
    return contents
