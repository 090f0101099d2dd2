"""Pictures as files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from cahp_plugin.compare import Comparison
from cahp_plugin.latency import LatencyReport
from cahp_plugin.prune import replaced_folder
from cahp_plugin.report.compared import recoveries_of
from cahp_plugin.report.comparison import accuracy
from cahp_plugin.report.selection import graph_space, heads_per_layer, kept_heads, mss_curve
from cahp_plugin.report.times import latency, shapes_of
from cahp_plugin.selectors.cahp.selection import HeadSelection


def save_figures(
    selection: HeadSelection, output_dir: str | os.PathLike[str], *, formats: Sequence[str] = ("png",)
) -> dict[str, Path]:
    """Draws all pictures of a selection into a folder.

    Args:
        selection: The selection.
        output_dir: Folder, made where it is missing.
        formats: File endings that matplotlib knows: ``"png"``, ``"svg"``, ``"pdf"``.

    Returns:
        Name of each picture -> its path, in the first format.

    Raises:
        ConfigError: A format is unknown to matplotlib.
    """
    charts = [draw(selection) for draw in (mss_curve, graph_space, kept_heads, heads_per_layer)]
    return {chart.name: chart.save(Path(output_dir), formats) for chart in charts}


def save_accuracy(comparison: Comparison, folder: str | os.PathLike[str]) -> Path:
    """Draws a comparison's accuracies, a panel a recovery, as ``accuracy.png``."""
    rows = comparison.rows()
    return accuracy(rows, recoveries_of(rows)).save(Path(folder))


def save_latency(report: LatencyReport, folder: str | os.PathLike[str], *, overwrite: bool = False) -> dict[str, Path]:
    """Writes ``latency.json``, ``.csv``, ``.md`` and ``.png``.

    Args:
        report: What was measured.
        folder: Folder to write; it appears whole or not at all.
        overwrite: Whether a non-empty folder is replaced.

    Returns:
        File ending -> path.

    Raises:
        CheckpointError: The folder is not empty, or the disk refuses.
    """
    chart = latency(report.measurements, shapes_of(report.measurements))
    with replaced_folder(folder, overwrite=overwrite) as partial:
        report.write(partial)
        dataclasses.replace(chart, title=report.title()).save(partial)
    return {ending: Path(folder) / f"latency.{ending}" for ending in ("json", "csv", "md", "png")}
