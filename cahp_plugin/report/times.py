"""A picture of measured times, with what the multiply-accumulates allow."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from cahp_plugin.latency import LatencyReport, Measurement
from cahp_plugin.prune import replaced_folder
from cahp_plugin.report import style
from cahp_plugin.report.chart import Chart, add_legend, new_figure, short, styled

Shape = tuple[int, int]


def shapes_of(measurements: Sequence[Measurement]) -> list[Shape]:
    """Shapes that were measured: batch size and length."""
    return list(dict.fromkeys((entry.batch_size, entry.sequence_length) for entry in measurements))


@styled
def latency(measurements: Sequence[Measurement], shapes: Sequence[Shape]) -> Chart:
    """Median time of each target, a panel a shape, with the middle half of the times and the theoretical limit.

    The limit stands only where the same library computes in the same numbers as the reference does: less work is less
    time there.

    Args:
        measurements: The targets of a shape stand together, the reference first.
        shapes: Those to draw.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    columns = min(3, len(shapes))
    groups = [[entry for entry in measurements if (entry.batch_size, entry.sequence_length) == one] for one in shapes]
    figure, panels = new_figure(100 + 40 * max(map(len, groups)), columns=columns, rows=-(-len(shapes) // columns))
    for axes, (batch, length), entries in zip(panels, shapes, groups, strict=False):
        reference, *_ = entries
        longest = max(entry.p50_ms + entry.iqr_ms / 2 for entry in entries)
        for place, entry in enumerate(entries):
            end = entry.p50_ms + entry.iqr_ms / 2
            axes.barh(place, entry.p50_ms, height=0.34, color=style.KEPT if place else style.BAR)
            axes.errorbar(entry.p50_ms, place, xerr=entry.iqr_ms / 2, fmt="none", ecolor=style.INK, elinewidth=1.4)
            ratio = f" ({entry.ratio:.2f}\u00d7)" if place else ""
            if place and (entry.backend, entry.precision) == (reference.backend, reference.precision):
                limit = entry.theory * reference.p50_ms
                axes.plot([limit], [place], "|", ms=18, mew=3, color=style.ACCENT)
                end = max(end, limit)
            axes.annotate(
                f"{entry.p50_ms:.1f} ms{ratio}", (min(end, 1.06 * longest), place), xytext=(7, 0),
                textcoords="offset points", va="center", weight="bold", fontsize=11,
            )  # fmt: skip
            name = short(f"{entry.target} \u2013 {entry.num_heads} heads, {entry.precision}", 48)
            axes.text(0, place - 0.27, name, va="bottom", fontsize=11).set_in_layout(False)
        axes.set_ylim(len(entries) - 0.6, -0.75)
        axes.set_xlim(0, 1.45 * longest)
        axes.set_yticks([])
        axes.grid(axis="x")
        axes.set_xlabel("milliseconds a call (median)")
        axes.set_title("" if len(shapes) == 1 else f"{length} tokens, batch of {batch}")
    for axes in panels[len(shapes) :]:
        axes.set_axis_off()
    signs = [
        Patch(color=style.BAR, label="reference"),
        Patch(color=style.KEPT, label="median"),
        Line2D([], [], color=style.INK, lw=1.4, label="middle half"),
        Line2D([], [], color=style.ACCENT, ls="", marker="|", ms=12, mew=3, label="theory"),
    ]
    add_legend(figure, signs)
    where = "{1} tokens, batch of {0}".format(*shapes[0]) if len(shapes) == 1 else f"{len(shapes)} shapes"
    told = f"Median milliseconds a call at {where}; the numbers are in the table of all times."
    return Chart("latency", where, told, figure)


def latency_charts(measurements: Sequence[Measurement]) -> list[Chart]:
    """A picture of the times at each shape."""
    return [latency(measurements, [shape]) for shape in shapes_of(measurements)]


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
