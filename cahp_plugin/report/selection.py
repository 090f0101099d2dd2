"""Pictures of a selection: which heads stay, in which layers, why so many, and where they lie in graph space."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cahp_plugin.report import style
from cahp_plugin.report.chart import Chart, add_legend, new_figure, save_charts, styled
from cahp_plugin.selectors.cahp.selection import HeadSelection

_COLOURS = {"heads": style.KEPT, "neurons": style.BAR}


@styled
def kept_heads(selection: HeadSelection) -> Chart:
    """Map of layers and heads: kept, removed now or before; the shade of a kept or removed head is its salience."""
    from matplotlib.patches import Patch

    layers, width = list(selection.kept.heads), selection.salience.shape[1]
    side = min((style.WIDTH - 50) / width, 30)
    figure, (axes,) = new_figure(80 + side * len(layers))
    looks = {"kept": style.KEPT, "removed": style.DROPPED, "removed before": style.LINE}
    present, counts, colours = selection.present, dict.fromkeys(looks, 0), []
    for layer, head in itertools.product(layers, range(width)):
        state = "kept" if head in selection.kept.heads[layer] else "removed"
        state = state if head in present[layer] else "removed before"
        counts[state] += 1
        salience = float(np.nan_to_num(selection.salience[layer, head]))
        colours.append((looks[state], 0.0 if state == "removed before" else 0.5 + 0.5 * np.sqrt(salience)))
    names = [layer if side > 12 or layer % 3 == 0 else "" for layer in layers]
    add_cells(axes, colours, range(width), names, [style.CARD if shade else style.LINE for _, shade in colours])
    axes.set_aspect("equal")
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    handles = {
        f"{name}, {counts[name]}": Patch(fc=colour, ec=colour) for name, colour in looks.items() if counts[name]
    }
    add_legend(figure, list(handles.values()), list(handles))
    told = "; ".join(
        f"layer {layer} keeps {', '.join(map(str, heads)) or 'none'}" for layer, heads in selection.kept.heads.items()
    )
    share = 100 * selection.num_heads / max(selection.num_present, 1)
    shades = " The stronger its colour, the more salient: the more the loss depends on it."
    return Chart(
        "kept_heads",
        f"{selection.num_heads} of {selection.num_present} heads stay ({share:.0f} %)",
        f"Map of layers and heads. {told}.",
        figure,
        "Each square is a head, with its index before any pruning." + (shades if selection.num_clusters else ""),
    )


def add_cells(axes: Any, colours: Any, columns: Sequence[Any], rows: Sequence[Any], edges: Any = style.CARD) -> None:
    """Draws squares of side 1, row by row from the top, and names the rows and, where there is room, the columns."""
    from matplotlib.collections import PolyCollection

    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    squares = [np.add(corners, (x, y)) for y in range(len(rows)) for x in range(len(columns))]
    axes.add_collection(PolyCollection(squares, facecolors=colours, edgecolors=edges, linewidths=1))
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    step = -(-len(columns) // 16)
    axes.set_xticks(range(0, len(columns), step), columns[::step])
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0, pad=3)
    axes.spines[:].set_visible(False)


@styled
def layers_left(name: str, title: str, left: Mapping[str, Mapping[int, tuple[int, int]]]) -> Chart:
    """What is left of each layer, as a share of what it had.

    Args:
        name: Name of the picture.
        title: Its title.
        left: Kind of the units -> layer -> how many are left, and how many were there.
    """
    indices = sorted({layer for own in left.values() for layer in own})
    figure, (axes,) = new_figure(80 + (16 + 9 * len(left)) * len(indices))
    handles, told = [], []
    offsets = np.linspace(-0.2, 0.2, len(left)) if len(left) > 1 else [0.0]
    for offset, (kind, own) in zip(offsets, left.items(), strict=True):
        places = [indices.index(layer) + offset for layer in own]
        shares = [after / before if before else 0.0 for after, before in own.values()]
        axes.barh(places, [1.0] * len(own), height=0.36, color=style.LINE)
        handles.append(axes.barh(places, shares, height=0.36, color=_COLOURS[kind], label=kind))
        for place, share, (after, _) in zip(places, shares, own.values(), strict=True):
            axes.annotate(
                f"{after:,}", (share, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=11
            )
        words = (f"layer {layer}: {after:,} of {before:,}" for layer, (after, before) in own.items())
        told.append(f"{kind}: {'; '.join(words)}")
    axes.set_xlim(0, 1.12)
    axes.set_ylim(len(indices) - 0.5, -0.5)
    axes.set_yticks(range(len(indices)), indices)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %" if value <= 1 else "")
    axes.set_ylabel("layer")
    axes.set_xlabel("share of the layer's units that is left")
    add_legend(figure, handles)
    return Chart(name, title, f"Bars. {'. '.join(told)}.", figure,
                 "The number at a bar is what is left. Layer 0 is next to the input.")  # fmt: skip


def heads_per_layer(selection: HeadSelection) -> Chart:
    """Heads kept in each layer, of those that it had."""
    left = {layer: (len(heads), len(selection.present[layer])) for layer, heads in selection.kept.heads.items()}
    after = [kept for kept, _ in left.values()]
    least, most = min(after), max(after)
    title = f"Every layer keeps {most}" if least == most else f"Layers keep {least} to {most} heads"
    return layers_left("heads_per_layer", title, {"heads": left})


@styled
def mss_curve(selection: HeadSelection) -> Chart:
    """Mean Simplified Silhouette against the number of clusters, with the fitted polynomial and the chosen number."""
    figure, (axes,) = new_figure(290)
    k, mss = selection.curve.k, selection.curve.mss
    chosen = selection.num_clusters
    title = f"The curve bends at k = {chosen}" if selection.knee is not None else f"{chosen} clusters taken, no knee"
    if not len(k):
        axes.text(0.5, 0.5, "no silhouette curve", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return Chart("mss_curve", title, selection.note, figure, selection.note)
    handles = axes.plot(k, mss, ".", ms=5, color=style.MUTED, label="measured")
    if len(selection.curve.smoothed):
        degree = min(selection.config.polynomial_degree, len(k) - 1)
        label = f"polynomial of degree {degree}"
        handles += axes.plot(k, selection.curve.smoothed, color=style.KEPT, lw=2, label=label)
    if chosen in k:
        axes.axvline(chosen, color=style.ACCENT, lw=1, ls="--")
        axes.plot([chosen], mss[k == chosen], "o", ms=11, mfc="none", mec=style.ACCENT, mew=2.2)
        late = chosen > 0.6 * k[-1]
        axes.annotate(
            f"{'knee' if selection.knee is not None else 'taken'}: k = {chosen}",
            (chosen, 0.04), xycoords=("data", "axes fraction"), xytext=(-8 if late else 8, 0),
            textcoords="offset points", color=style.ACCENT, weight="bold", ha="right" if late else "left",
        )  # fmt: skip
    axes.grid(axis="y")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("number of clusters k")
    axes.set_title("Mean Simplified Silhouette (no unit)")
    add_legend(figure, handles)
    return Chart(
        "mss_curve",
        title,
        f"Mean Simplified Silhouette for {k[0]} to {k[-1]} clusters, from {mss[0]:.3f} to {mss[-1]:.3f}. "
        + selection.note,
        figure,
        selection.note,
    )


@styled
def graph_space(selection: HeadSelection) -> Chart:
    """Heads in the plane of t-SNE, coloured by layer; kept heads ringed and joined to the heads they stand for."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import BoundaryNorm, ListedColormap

    figure, (axes,) = new_figure(350)
    xy = selection.coordinates
    count = selection.salience.shape[0]
    shades = colormaps["viridis"](np.linspace(*style.LAYERS, count))
    layers = np.array([layer for layer, _ in selection.heads], dtype=int)
    kept = np.array([head in selection.kept.heads[layer] for layer, head in selection.heads], dtype=bool)
    lines = []
    for label in range(selection.num_clusters):
        members = np.flatnonzero(selection.clusters == label)
        anchors = members[kept[members]]
        for row in members[~kept[members]] if len(anchors) else ():
            lines.append(xy[[row, anchors[np.argmin(np.linalg.norm(xy[anchors] - xy[row], axis=1))]]])
    axes.add_collection(LineCollection(lines, colors=style.MUTED, alpha=0.55, linewidths=1))
    size = float(np.clip(10000 / max(len(xy), 1), 20, 80))
    removed = axes.scatter(*xy[~kept].T, c=shades[layers[~kept]], s=size, edgecolors=style.CARD, linewidths=0.6,
                           label="removed")  # fmt: skip
    ring = min(2.0, size / 20)
    ringed = axes.scatter(*xy[kept].T, c=shades[layers[kept]], s=1.8 * size, edgecolors=style.ACCENT, linewidths=ring,
                          label="kept (ringed)")  # fmt: skip
    axes.set_aspect("equal", adjustable="datalim")  # distances are what the method looks at
    axes.grid()
    axes.set_xlabel("t-SNE 1 (no unit)")
    axes.set_title("t-SNE 2 (no unit)")
    add_legend(figure, [ringed, removed])
    steps = BoundaryNorm(np.arange(count + 1) - 0.5, count) if count > 1 else None
    bar = figure.colorbar(ScalarMappable(steps, ListedColormap(shades)), ax=axes, fraction=0.04, pad=0.02)
    bar.set_ticks(range(0, count, -(-count // 8)))
    bar.outline.set_visible(False)
    bar.ax.set_title("layer", loc="center")
    clusters = selection.num_clusters
    by_maps = selection.config.conditioning == "none"
    alike = "whose attention is alike" if by_maps else "that separate the classes alike"
    return Chart(
        "graph_space",
        f"The kept heads come from {clusters} cluster{'s' if clusters != 1 else ''}",
        f"Graph space: {len(xy)} heads, of which {int(kept.sum())} are kept, as points in a plane, coloured by layer. "
        "The table of kept heads is in the map of heads.",
        figure,
        f"Heads {alike} lie close together. Lines lead from removed heads to the nearest head kept in their cluster.",
    )


def selection_charts(selection: HeadSelection) -> list[Chart]:
    """All pictures that can be drawn: of a selection of which no more is known than its heads, two."""
    charts = [kept_heads(selection), heads_per_layer(selection)]
    charts += [mss_curve(selection)] if len(selection.curve.k) else []
    return charts + ([graph_space(selection)] if len(selection.coordinates) else [])


def save_figures(selection: HeadSelection, output_dir: str | os.PathLike[str]) -> dict[str, Path]:
    """Draws all pictures of a selection into a folder, made where it is missing: name of each -> its path."""
    draws = (mss_curve, graph_space, kept_heads, heads_per_layer)
    return save_charts([draw(selection) for draw in draws], output_dir)
