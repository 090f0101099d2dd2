"""The whole page: one file, which needs nothing else and asks nobody for anything."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cahp_plugin._version import __version__
from cahp_plugin.compare.rows import DENSE, Row
from cahp_plugin.errors import CheckpointError
from cahp_plugin.export import ExportReport
from cahp_plugin.files import write_text
from cahp_plugin.prune import Stage
from cahp_plugin.report import style
from cahp_plugin.report.chart import CONTROL
from cahp_plugin.report.commands import commands
from cahp_plugin.report.compared import best_of, dense_of, methods_of, named, place_of, sizes_of
from cahp_plugin.report.comparison import difference_charts, layer_charts, score_charts
from cahp_plugin.report.contents import Contents, read_folder
from cahp_plugin.report.plan import plan_charts
from cahp_plugin.report.selection import selection_charts
from cahp_plugin.report.times import latency_charts
from cahp_plugin.results import PAGE_NAME
from cahp_plugin.table import numeric_columns
from cahp_plugin.tasks.metrics import Score, score_cells

if TYPE_CHECKING:
    from jinja2 import Environment


def write_folder_page(folder: Path, *, name: str | None = None) -> Path:
    """Writes ``report.html`` about a folder into it.

    Args:
        folder: The folder.
        name: Its name for the page; that which it has without it.

    Raises:
        CheckpointError: There is nothing to report, a file is damaged, or the page can't be written.
    """
    contents = read_folder(folder)
    return write_page([dataclasses.replace(contents, name=name or contents.name)], folder / PAGE_NAME, overwrite=True)


def write_page(contents: Sequence[Contents], path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Writes a page about the contents of folders.

    Args:
        contents: What the folders hold, in the order of the page.
        path: File to write; it appears whole or not at all.
        overwrite: Whether a file that is there is replaced.

    Returns:
        The path.

    Raises:
        CheckpointError: The file is there and ``overwrite`` is false, or it can't be written.
    """
    output = Path(path)
    check_output_file(output, overwrite=overwrite)
    text = build_page(contents)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, text)
    except OSError as error:
        raise CheckpointError(f"{output} could not be written: {error}.") from error
    return output


def check_output_file(path: Path, *, overwrite: bool = False) -> None:
    """Checks that a file may be written, before work is put into what goes there.

    Raises:
        CheckpointError: It is a folder, or is there and ``overwrite`` is false or it is no HTML page.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; expected a file name such as {PAGE_NAME}.")
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path} exists. Pass `overwrite=True` (`--overwrite`) or another name.")
    if path.exists() and path.suffix.lower() not in (".html", ".htm"):
        raise CheckpointError(f"{path} is there and is no HTML page: it is not replaced. Give a name with .html.")


def build_page(contents: Sequence[Contents]) -> str:
    """The page as text."""
    text = environment().get_template("page.html.jinja").render(folders=contents, version=__version__)
    return CONTROL.sub("\ufffd", text)


@functools.cache
def environment() -> Environment:
    """Where the page's templates are found, with what they call; text is escaped on its way in."""
    from jinja2 import Environment, FileSystemLoader

    found = Environment(loader=FileSystemLoader(style.FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    helpers = (
        score_charts, best_of, changes, commands, sizes_of, dense_of, difference_charts, graphs, latency_charts,
        layer_charts, method_tables, methods_of, named, numeric_columns, percent, plan_charts,
        selection_charts, settings, shown,
    )  # fmt: skip
    found.globals.update({helper.__name__: helper for helper in helpers})
    return found


def percent(share: float) -> str:
    """A share in [0, 1] in %, in one piece."""
    return f"{100 * share:.1f}\u00a0%"


def shown(score: Score) -> str:
    """A score's number, short and in one piece."""
    return percent(score.value) if score.percent else score.shown()


def changes(stages: Sequence[Stage]) -> list[tuple[Score, Score]]:
    """Scores of the first stage, each with that of the last."""
    before = {score.name: score for score in stages[0].scores}
    return [(before[score.name], score) for score in stages[-1].scores if score.name in before]


def method_tables(rows: Sequence[Row]) -> dict[str, list[dict[str, str]]]:
    """Rows of a comparison as tables, one a recovery."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in sorted(rows, key=lambda row: place_of(row.recover)):
        if row.method != DENSE:
            cells = row.cells()
            found.setdefault(f"All methods, {named(cells.pop('recovery'))}", []).append(cells)
    return found


def graphs(exports: Mapping[str, ExportReport]) -> list[dict[str, str]]:
    """Exported graphs as rows of a table: what each is, its size, and how it does."""
    rows = []
    evaluations = [export.quantized or export.fp32 for export in exports.values()]
    scores = score_cells([() if found is None else found.scores for found in evaluations])
    neurons = len({export.num_neurons for export in exports.values()}) > 1
    for (name, export), found, told in zip(exports.items(), evaluations, scores, strict=True):
        kind = export.quantize
        difference = export.difference or max((entry.max_abs for entry in export.parity), default=None)
        cells = {
            "graph": name,
            "precision": "fp32" if kind is None else kind if kind == "fp16" else f"int8 {kind}",
            "heads": f"{export.num_heads}",
            **({"neurons": "-" if export.num_neurons is None else f"{export.num_neurons:,}"} if neurons else {}),
            "MiB": f"{export.mib:.1f}",
            **told,
            "examples": "-" if found is None else f"{found.num_examples:,}",
            "same as fp32": "-" if export.agreement is None else f"{100 * export.agreement:.2f} %",
            "largest difference": "-" if difference is None else f"{difference:.1e}",
        }
        rows.append(cells)
    return rows


def settings(contents: Contents) -> dict[str, list[dict[str, str]]]:
    """Tables of settings and versions, by name; of what is not known, an empty one."""
    pruning, latency = contents.pruning, contents.latency
    setup = contents.comparison.setup if contents.comparison else {}
    machine = dict(latency.environment) if latency else {}
    versions = (pruning.versions if pruning else {}) | setup.get("versions", {}) | machine.pop("versions", {})
    for export in contents.exports.values():
        versions |= export.versions
    task = pruning.task if pruning else None
    model = {"task": task, "architecture": contents.architecture, "pruned from": contents.model.get("_name_or_path")}
    groups: dict[str, Mapping[str, Any]] = {
        "Method": contents.config.to_dict() if contents.config else {},
        "Budget": {**pruning.plan.budget, **pruning.plan.planning} if pruning and pruning.plan else {},
        "Recovery": dataclasses.asdict(pruning.recovery) if pruning and pruning.recovery else {},
        "Model": {name: value for name, value in model.items() if value},
        "Method, compared": setup.get("config", {}),
        "Recovery, compared": setup.get("recovery", {}),
        "Fingerprints": {name: setup[name] for name in ("model", "train", "test") if name in setup},
        "Measurement": latency.settings if latency else {},
        "Machine": machine,
        "Versions": versions,
    }
    return {group: [_setting(*entry) for entry in values.items()] for group, values in groups.items()}


def _setting(name: str, value: Any) -> dict[str, str]:
    return {"name": name, "value": value if isinstance(value, str) else json.dumps(value, default=str)}
