"""A picture of measured times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cahp_plugin.latency.measurement import Measurement
from cahp_plugin.report import style
from cahp_plugin.report.canvas import new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3


@styled
def plot_latency(measurements: Sequence[Measurement], title: str) -> Figure:
    """Median time of each target, a panel a shape, with the middle half of the times and the theoretical limit.

    Args:
        measurements: The targets of a shape stand together, the reference first.
        title: Stands above the panels.
    """
    shapes = list(dict.fromkeys((entry.batch_size, entry.sequence_length) for entry in measurements))
    targets = list(dict.fromkeys(entry.target for entry in measurements))
    columns = min(_COLUMNS, len(shapes))
    rows = -(-len(shapes) // columns)
    figure, grid = new_figure(
        1.6 + 3.4 * columns, 0.9 + rows * (1.0 + 0.42 * len(targets)), rows=rows, columns=columns
    )
    panels = np.atleast_1d(grid).ravel()
    for index, (axes, shape) in enumerate(zip(panels, shapes, strict=False)):
        entries = [entry for entry in measurements if (entry.batch_size, entry.sequence_length) == shape]
        places = np.arange(len(entries))
        medians = [entry.p50_ms for entry in entries]
        colours = [style.DROPPED if place == 0 else style.KEPT for place in places]
        axes.barh(places, medians, color=colours, height=0.62)
        axes.errorbar(
            medians, places, xerr=[entry.iqr_ms / 2 for entry in entries], fmt="none", ecolor=style.INK, elinewidth=1
        )
        for place, entry in zip(places, entries, strict=True):
            end = entry.p50_ms + entry.iqr_ms / 2
            # Less work is less time only where the same library does it in the same numbers.
            if place and (entry.backend, entry.precision) == (entries[0].backend, entries[0].precision):
                limit = entry.theory * entries[0].p50_ms
                axes.plot([limit], [place], "|", ms=17, mew=2, color=style.ACCENT)
                end = max(end, limit)
            ratio = f" ({entry.ratio:.2f}x)" if place else ""
            axes.annotate(
                f"{entry.p50_ms:.1f}{ratio}",
                (end, place),
                xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5,
            )  # fmt: skip
        axes.set_xlim(0, 1.42 * max(medians))
        axes.set_yticks(places, targets if index % columns == 0 else [""] * len(entries))
        axes.invert_yaxis()
        axes.set_title(f"batch {shape[0]}, length {shape[1]}", fontsize=10.5)
        if index >= len(shapes) - columns:
            axes.set_xlabel("milliseconds a call (median)")
    for axes in panels[len(shapes) :]:
        axes.set_axis_off()
    figure.suptitle(
        f"{title}; orange: what the multiply-accumulates allow in {measurements[0].backend} "
        f"{measurements[0].precision}",
        x=0.01,
        ha="left",
        fontsize=9.5,
        color=style.MUTED,
    )
    return figure
