"""Pictures of a selection. Each takes a selection and returns a ``matplotlib`` figure that no display knows of."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cahp_plugin.errors import ConfigError
from cahp_plugin.report import style
from cahp_plugin.report.canvas import new_figure, styled
from cahp_plugin.selectors.cahp.selection import HeadSelection

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    folder = Path(output_dir)
    paths: dict[str, Path] = {}
    figures: dict[str, Callable[[HeadSelection], Figure]] = {
        "mss_curve": plot_curve,
        "graph_space": plot_graph_space,
        "kept_heads": plot_kept_heads,
        "heads_per_layer": plot_heads_per_layer,
    }
    for name, draw in figures.items():
        figure = draw(selection)
        known = figure.canvas.get_supported_filetypes()
        unknown = [ending for ending in formats if ending not in known]
        if unknown or not formats:
            raise ConfigError(f"`formats` holds {unknown}; known are {', '.join(sorted(known))}.")
        folder.mkdir(parents=True, exist_ok=True)
        for ending in formats:
            path = folder / f"{name}.{ending}"
            partial = folder / f".{name}.{os.getpid()}.{ending}"
            try:
                figure.savefig(partial, dpi=style.DPI)
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
            paths.setdefault(name, path)
    return paths


@styled
def plot_curve(selection: HeadSelection) -> Figure:
    """Mean Simplified Silhouette against the number of clusters, with the fitted polynomial and the chosen number."""
    figure, axes = new_figure(7.2, 4.2)
    curve = selection.curve
    if not len(curve.k):
        axes.text(0.5, 0.5, "No curve: " + selection.note, ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        axes.set_title("No silhouette curve")
        return figure
    axes.plot(curve.k, curve.mss, ".", ms=5, color=style.MUTED, label="measured")
    if len(curve.smoothed):
        degree = min(selection.config.polynomial_degree, len(curve.k) - 1)
        axes.plot(curve.k, curve.smoothed, color=style.KEPT, lw=1.8, label=f"polynomial of degree {degree}")
    chosen = selection.num_clusters
    if chosen in curve.k:
        height = float(curve.mss[list(curve.k).index(chosen)])
        axes.axvline(chosen, color=style.ACCENT, lw=1, ls="--")
        axes.plot([chosen], [height], "o", ms=8, mfc="none", mec=style.ACCENT, mew=2)
        where = "knee" if selection.knee is not None else "taken"
        left = chosen > 0.7 * curve.k[-1]
        axes.annotate(
            f"{where}: k = {chosen}",
            (chosen, height),
            xytext=(-10 if left else 10, -22),
            textcoords="offset points",
            color=style.ACCENT,
            ha="right" if left else "left",
        )
    axes.set_title(
        f"Knee at k = {selection.knee}" if selection.knee is not None else f"No knee used; {chosen} clusters taken"
    )
    axes.set_xlabel("number of clusters k")
    axes.set_ylabel("Mean Simplified Silhouette")
    axes.grid(axis="y")
    axes.legend(loc="lower right")
    return figure


@styled
def plot_graph_space(selection: HeadSelection) -> Figure:
    """Graph space: heads coloured by layer; kept heads ringed; a line from each head to its cluster's kept head."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_figure(7.2, 5.6)
    xy = selection.coordinates
    layers = np.array([layer for layer, _ in selection.heads])
    kept = np.array([head in selection.kept.heads[layer] for layer, head in selection.heads])
    for label in range(selection.num_clusters):
        members = np.flatnonzero(selection.clusters == label)
        anchors = members[kept[members]]
        if len(anchors):
            for row in members:
                nearest = anchors[np.argmin(np.linalg.norm(xy[anchors] - xy[row], axis=1))]
                axes.plot(*xy[[row, nearest]].T, color=style.DROPPED, lw=0.8, zorder=1)
    size = float(np.clip(3000 / max(len(xy), 1), 10, 42))
    bounds = {"vmin": 0, "vmax": max(int(layers.max(initial=0)), 1), "cmap": style.LAYERS}
    axes.scatter(*xy[~kept].T, c=layers[~kept], s=size, alpha=0.75, zorder=2, **bounds)
    points = axes.scatter(
        *xy[kept].T,
        c=layers[kept],
        s=2.4 * size,
        edgecolors=style.ACCENT,
        linewidths=max(1.0, size / 23),
        zorder=3,
        **bounds,
    )
    bar = figure.colorbar(points, ax=axes, label="layer", pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(
        f"{selection.num_heads} of {selection.num_present} heads kept (ringed), from {selection.num_clusters} clusters"
    )
    axes.set_xlabel("t-SNE 1 (no unit)")
    axes.set_ylabel("t-SNE 2 (no unit)")
    return figure


@styled
def plot_kept_heads(selection: HeadSelection) -> Figure:
    """Map of layers and heads: kept, removed now or before; the shade of a kept or removed head is its salience."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Patch, Rectangle

    layers, heads = selection.salience.shape
    figure, axes = new_figure(2.2 + 0.36 * heads, 1.9 + 0.36 * layers)
    shades = {
        True: LinearSegmentedColormap.from_list("kept", ["#9ecae8", style.KEPT, "#00395a"]),
        False: LinearSegmentedColormap.from_list("dropped", ["#f1f2f4", style.DROPPED, "#8a9099"]),
    }
    for layer in range(layers):
        for head in range(heads):
            salience = selection.salience[layer, head]
            if np.isnan(salience):
                look: dict[str, Any] = {"facecolor": style.ABSENT, "edgecolor": style.GRID, "hatch": "////"}
            else:
                look = {"facecolor": shades[head in selection.kept.heads[layer]](salience), "edgecolor": "white"}
            axes.add_patch(Rectangle((head - 0.5, layer - 0.5), 1, 1, lw=1.2, **look))
    axes.set_xlim(-0.5, heads - 0.5)
    axes.set_ylim(layers - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.set_xticks(range(heads))
    axes.set_yticks(range(layers))
    axes.tick_params(length=0, labelsize=9 if heads <= 16 else 7)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_title(f"{selection.num_heads} of {selection.num_present} heads kept")
    legend = [
        Patch(facecolor=style.KEPT, label="kept"),
        Patch(facecolor=style.DROPPED, label="removed"),
    ]
    if np.isnan(selection.salience).any():
        legend.append(Patch(facecolor=style.ABSENT, edgecolor=style.DROPPED, hatch="////", label="removed before"))
    axes.legend(handles=legend, loc="upper left", bbox_to_anchor=(1.01, 1), title="darker: more salient")
    return figure


@styled
def plot_heads_per_layer(selection: HeadSelection) -> Figure:
    """Heads kept in each layer, before the heads that the layer had."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_figure(max(5.6, 2.4 + 0.42 * len(selection.kept.heads)), 3.8)
    layers = sorted(selection.kept.heads)
    before = [len(selection.present[layer]) for layer in layers]
    after = [len(selection.kept.heads[layer]) for layer in layers]
    axes.bar(layers, before, color=style.DROPPED, width=0.72, label="before")
    bars = axes.bar(layers, after, color=style.KEPT, width=0.72, label="kept")
    axes.bar_label(bars, padding=2, fontsize=9)
    axes.set_xticks(layers)
    axes.set_ylim(0, max([*before, 1]) * 1.12)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer")
    axes.set_ylabel("attention heads")
    axes.set_title(f"Heads kept per layer: {min(after)} to {max(after)}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure
