"""A comparison read back from its folder, and shown as a page."""

from __future__ import annotations

import json
from pathlib import Path

from cahp_plugin.compare.runs import RUNS_NAME, SETUP_NAME, Run
from cahp_plugin.compare.summary import Comparison
from cahp_plugin.errors import CheckpointError
from cahp_plugin.report.html import Compared, Contents, write_page
from cahp_plugin.report.html.data import checked, read_json
from cahp_plugin.report.html.page import PAGE_NAME
from cahp_plugin.selectors import selectors


def read_comparison(folder: Path) -> Compared | None:
    """Reads all runs of a comparison.

    Args:
        folder: Folder that ``cahp compare`` wrote. A last line that a kill cut short is left out.

    Returns:
        The runs and what they say; ``None`` where the folder holds no finished run.

    Raises:
        CheckpointError: A file is damaged; the message names it and the line.
    """
    path = folder / RUNS_NAME
    setup = read_json(folder / SETUP_NAME) or {}
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} can't be read: {error}.") from error
    whole = text.rpartition("\n")[0]
    runs = tuple(_run(path, number, line) for number, line in enumerate(whole.splitlines(), start=1))
    if all(run.method == "dense" for run in runs):
        return None
    return Compared(runs, tuple(Comparison(folder, runs).rows()), setup, tuple(selectors()))


def _run(path: Path, number: int, line: str) -> Run:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise CheckpointError(f"{path}, line {number} is damaged: {error}.") from error

    def build() -> Run:
        run = Run(**values)
        if len(bytes.fromhex(run.correct)) != -(-run.num_examples // 8) or not run.kept:
            raise ValueError("bits and examples differ in number, or no layer is named")
        return run

    return checked(Path(f"{path}, line {number}"), build)


def write_comparison_page(folder: Path) -> Path:
    """Writes ``report.html`` about all runs of a comparison into its folder."""
    contents = Contents(folder.resolve().name, compared=read_comparison(folder))
    return write_page([contents], folder / PAGE_NAME, overwrite=True)
