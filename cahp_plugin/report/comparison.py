"""Pictures of a comparison: the metric against heads, differences from the reference, and where the heads stay."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cahp_plugin.compare.rows import DENSE, Row
from cahp_plugin.compare.structure import HeadPlaces
from cahp_plugin.compare.summary import Comparison
from cahp_plugin.report import style
from cahp_plugin.report.chart import Chart, add_legend, new_figure, short, styled
from cahp_plugin.report.compared import RANDOM, by_divergence, dense_of, methods_of, named, recoveries_of, sizes_of
from cahp_plugin.report.selection import add_cells


def look_of(method: str, place: int) -> dict[str, Any]:
    """Colour and shape of a way of choosing heads, by its place among all; the colours and the shapes go round."""
    colour = style.MUTED if method == RANDOM else style.SERIES[place % len(style.SERIES)]
    return {"color": colour, "marker": style.MARKERS[place % len(style.MARKERS)], "mec": style.CARD, "mew": 0.8}


@styled
def scores(rows: Sequence[Row], recoveries: Sequence[str]) -> Chart:
    """The metric against heads kept, or the work left: a panel for each recovery, a line for each way of choosing.

    Bars are the standard deviation over seeds. The reference is the thick line, the model before pruning the dashed
    one. What is no share and spans more than a factor of 10, as perplexities may, is drawn on a logarithmic scale.

    Args:
        rows: All rows of the comparison; they give the scales, which are the same for every picture of it.
        recoveries: Those to draw.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    methods, counts, dense = methods_of(rows), sizes_of(rows), dense_of(rows)
    score, scale = rows[0].score, rows[0].score.scale
    figure, panels = new_figure(350 + 7 * len(methods), columns=len(recoveries))
    ends = _finite(scale * (row.mean + sign * (row.deviation or 0)) for row in rows for sign in (-1, 1))
    pad = max(0.08 * (max(ends) - min(ends)), 0.5 if score.percent else 0.01 * max(map(abs, ends))) or 1
    steep = not score.percent and min(ends) > 0 and max(ends) > 10 * min(ends)
    # A little apart, so that bars do not hide each other; the lines' order is that of the legend.
    shift = 0.05 * max(counts[0] - counts[-1], 4) / len(methods)
    handles: dict[str, Any] = {}
    for axes, recovery in zip(panels, recoveries, strict=True):
        for position, (name, place) in enumerate(methods.items()):
            line = [row for row in rows if (row.method, row.recover) == (name, recovery)]
            if not line:
                continue
            own = name == rows[0].reference
            handles[name] = axes.errorbar(
                [row.size + (position - (len(methods) - 1) / 2) * shift for row in line],
                [scale * row.mean for row in line],
                [scale * (row.deviation or 0.0) for row in line],
                lw=2.6 if own else 1.1, ms=9 if own else 7, elinewidth=1.2, zorder=5 if own else 3,
                **look_of(name, place),
            ).lines[0]  # fmt: skip
        if dense is not None:
            handles["dense" if dense.planned else f"dense, {dense.at}"] = axes.axhline(
                scale * dense.mean, color=style.INK, lw=1, ls="--"
            )
        if steep:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_ylim(min(ends) / 1.2, max(ends) * 1.2)
        else:
            axes.set_ylim(min(ends) - pad, max(ends) + pad)
        axes.set_xlabel(f"{'% of ' if rows[0].planned else ''}{_work(rows)}")
        axes.set_xticks(_apart(counts))
        axes.set_title(score.axis if len(panels) == 1 else f"{named(recovery)}: {score.axis}")
        axes.grid(axis="y")
    add_legend(figure, list(handles.values()), [short(name, 32) for name in handles])
    words = " and ".join(named(recovery) for recovery in recoveries)
    title = words.capitalize() if len(panels) == 1 else f"{score.heading} against {_work(rows)}"
    told = f"{score.heading} against {_work(rows)} after {words}; the numbers are in the table of all methods."
    return Chart(score.name if score.name in ("accuracy", "divergence") else "scores", title, told, figure)


def _work(rows: Sequence[Row]) -> str:
    return "the work left" if rows[0].planned else "heads kept"


def _finite(ends: Iterable[float]) -> list[float]:
    """Numbers that an axis can end at; a metric may be infinite, or none at all."""
    return [end for end in ends if math.isfinite(end)] or [0.0]


def _apart(counts: Sequence[float]) -> list[float]:
    """Sizes, from the highest down, whose names do not cover each other on an axis."""
    shown = [counts[0]]
    for count in counts[1:]:
        if shown[-1] - count > 0.08 * (counts[0] - counts[-1]):
            shown.append(count)
    return shown


@styled
def difference(rows: Sequence[Row], recovery: str) -> Chart:
    """Each way's difference from the reference with its interval, after one recovery.

    Args:
        rows: All rows of the comparison that have a difference; they give the scale.
        recovery: That to draw.
    """
    methods = methods_of(rows)
    mine = [row for row in rows if row.recover == recovery]
    score, scale = rows[0].score, rows[0].score.scale
    counts = sizes_of(mine)
    figure, (axes,) = new_figure(62 + 18 * (len(mine) + 2 * len(counts)))
    axes.axvline(0, color=style.KEPT, lw=2)
    names: dict[float, str] = {}
    heads: list[float] = []
    line = 0.0
    for count in counts:
        entries = [row for row in mine if row.size == count]
        names[line] = entries[0].at
        heads.append(line)
        entries = sorted(entries, key=lambda row: -row.gain(row.difference))
        for row in entries:
            line += 1
            names[line] = short(row.method)
            middle, (low, high) = scale * (row.difference or 0.0), (scale * end for end in row.interval or (0, 0))
            look = look_of(row.method, methods[row.method])
            if row.side == 0:  # hollow
                look |= {"mfc": style.CARD, "mec": look["color"], "mew": 1.6}
            # A bootstrap's interval need not hold the number itself; no bar has a length below 0.
            ends = [[max(0.0, middle - low)], [max(0.0, high - middle)]]
            axes.errorbar([middle], [line], xerr=ends, ms=8, elinewidth=2, **look)
        line += 1.6
    axes.set_ylim(line - 1, -0.8)
    axes.set_yticks(list(names), list(names.values()))
    for place, label in zip(names, axes.get_yticklabels(), strict=True):
        label.set(color=style.INK, weight="bold" if place in heads else "normal")
    shown = _finite(scale * end for row in rows for end in row.interval or ())
    pad = 0.05 * (max(*shown, 0) - min(*shown, 0)) or 1
    axes.set_xlim(min(*shown, 0) - pad, max(*shown, 0) + pad)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:+g}".replace("-", "\u2212") if value else "0")
    axes.set_xlabel(f"{'percentage points' if score.percent else short(score.title, 30)} against {rows[0].reference}")
    axes.grid(axis="x")
    told = f"Difference from {rows[0].reference} after {named(recovery)}; the numbers are in the table of all methods."
    return Chart("difference", named(recovery).capitalize(), told, figure)


@styled
def layers(places: Sequence[HeadPlaces], methods: Mapping[str, int]) -> Chart:
    """Heads kept in each layer by each way of choosing heads at one number of them, mean over seeds.

    Args:
        places: Where each way keeps that number of heads.
        methods: Ways in the order of the rows.
    """
    places = sorted(places, key=lambda place: methods[place.method])
    count, width = places[0].num_heads, len(places[0].per_layer)
    figure, (axes,) = new_figure(50 + 24 * len(places))
    values = [value for place in places for value in place.per_layer]
    most = max([1.0, *values])
    shades = [(style.KEPT, style.DEPTH * (0.06 + 0.94 * value / most)) for value in values]
    add_cells(axes, shades, range(width), [short(place.method) for place in places])
    if width <= 12:
        for index, value in enumerate(values):
            label = f"{value:.1f}".removesuffix(".0")
            axes.text(index % width, index // width, label, ha="center", va="center", fontsize=11 if width < 9 else 10)
    axes.set_xlabel("layer")
    told = "; ".join(f"{p.method}: {', '.join(f'{value:.1f}' for value in p.per_layer)}" for p in places)
    return Chart("layers", f"{count} heads kept", f"Heads kept in each layer, mean over seeds. {told}.", figure)


def score_charts(rows: Sequence[Row]) -> list[Chart]:
    """A picture of the metric, and of the divergence where it was measured, for each recovery."""
    return [scores(own, [recovery]) for own in _sides(rows) for recovery in recoveries_of(own)]


def difference_charts(rows: Sequence[Row]) -> list[Chart]:
    """A picture of the differences from the reference for each recovery; none where it was not run."""
    found = []
    for own in _sides(rows):
        told = [row for row in own if row.interval is not None and row.method != DENSE]
        found += [difference(told, recovery) for recovery in recoveries_of(told)]
    return found


def _sides(rows: Sequence[Row]) -> list[Sequence[Row]]:
    """The rows by their metric, and by the divergence of those that have one."""
    far = by_divergence([row for row in rows if row.method != DENSE])
    return [rows, far] if far else [rows]


def layer_charts(places: Sequence[HeadPlaces], rows: Sequence[Row]) -> list[Chart]:
    """A picture of the heads in each layer for each number of heads."""
    methods = methods_of(rows)
    return [layers([one for one in places if one.num_heads == count], methods) for count in sizes_of(rows)]


def save_scores(comparison: Comparison, folder: str | os.PathLike[str]) -> Path:
    """Draws a comparison's metric, a panel a recovery, as ``accuracy.png``, or ``scores.png`` for another metric.

    Divergences, where they were measured, are drawn as ``divergence.png``.
    """
    *_, place = [scores(own, recoveries_of(own)).save(Path(folder)) for own in reversed(_sides(comparison.rows()))]
    return place
