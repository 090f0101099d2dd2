"""Pictures of a budget: what sizes of the model lose, and what is left of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cahp_plugin.plan.outcome import Outcome
from cahp_plugin.plan.plan import Plan
from cahp_plugin.report import style
from cahp_plugin.report.chart import Chart, add_legend, new_figure, styled
from cahp_plugin.units.kept import KINDS


@styled
def loss_against_size(result: Outcome | Plan) -> Chart:
    """Predicted loss against the work that is left; under a budget, with measured losses and the chosen point."""
    figure, (axes,) = new_figure(290)
    if isinstance(result, Plan):
        points, sizes = [(point["macs"], point["loss"]) for point in result.curve()], []
        half = [f"{100 * share:.0f} % of the work: {loss:.3g} predicted" for share, loss in points if share <= 0.5]
        title, chosen, measured = (half or ["loss against size"])[0], "", ""
    else:
        points = [(point.macs, point.loss) for point in result.curve]
        others = [(point.macs, point.loss) for point in result.measured]
        sizes = [
            (others, ".", {"ms": 7, "color": style.MUTED, "label": "measured, repaired"}),
            ([(result.macs.layers, result.divergence)], "o",
             {"ms": 11, "mfc": "none", "mec": style.ACCENT, "mew": 2.2, "label": "chosen, measured"}),
        ]  # fmt: skip
        title = f"{100 * result.macs.layers:.0f} % of the work, divergence {result.divergence:.3g}"
        measured = " Measured: whole models, repaired, on held-out examples."
        chosen = f" Chosen: {100 * result.macs.layers:.1f} %, measured {result.divergence:.3g}."
    curve = [point for point in points if point[1] > 0]
    handles = []
    for drawn, mark, look in ((curve, "-", {"color": style.KEPT, "lw": 2, "label": "predicted"}), *sizes):
        if above := [point for point in drawn if point[1] > 0]:
            handles += axes.plot(*zip(*above, strict=True), mark, **look)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.invert_xaxis()
    axes.grid(axis="y")
    axes.set_xlabel("work of the layers that is left")
    axes.set_title("divergence from the dense model")
    add_legend(figure, handles)
    told = ", ".join(f"{100 * share:.0f} %: {loss:.3g}" for share, loss in curve)
    return Chart(
        "loss_against_size",
        title,
        f"Predicted divergence by share of the layers' multiply-accumulates: {told}.{chosen}",
        figure,
        f"Compared: {result.compared}. Predicted: the sum of what the layers lose one by one.{measured}",
    )


@styled
def units_left(outcome: Outcome) -> Chart:
    """What is left of each layer's heads and neurons, side by side."""
    kinds = [kind for kind in KINDS if any(layer.kind == kind for layer in outcome.layers)]
    most = max(sum(layer.kind == kind for layer in outcome.layers) for kind in kinds)
    figure, panels = new_figure(80 + 22 * most, columns=1)
    (axes,) = panels
    colours = {"heads": style.KEPT, "neurons": style.BAR}
    handles, told = [], []
    for offset, kind in zip(np.linspace(-0.2, 0.2, len(kinds)) if len(kinds) > 1 else [0.0], kinds, strict=True):
        own = [layer for layer in outcome.layers if layer.kind == kind]
        places = np.arange(len(own)) + offset
        shares = [layer.after / layer.before if layer.before else 0.0 for layer in own]
        axes.barh(places, [1.0] * len(own), height=0.36, color=style.LINE)
        handles.append(axes.barh(places, shares, height=0.36, color=colours[kind], label=kind))
        for place, share, layer in zip(places, shares, own, strict=True):
            axes.annotate(
                f"{layer.after:,}", (share, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9
            )
        told.append(
            f"{kind}: " + "; ".join(f"layer {layer.index}: {layer.after:,} of {layer.before:,}" for layer in own)
        )
    axes.set_xlim(0, 1.12)
    axes.set_ylim(most - 0.5, -0.5)
    axes.set_yticks(range(most))
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %" if value <= 1 else "")
    axes.set_ylabel("layer")
    axes.set_xlabel("share of the layer's units that is left")
    add_legend(figure, handles)
    words = " and ".join(f"{outcome.count(kind)[0]:,} of {outcome.count(kind)[1]:,} {kind}" for kind in kinds)
    return Chart("units_left", f"{words} stay", f"Bars. {'. '.join(told)}.", figure,
                 "The number at a bar is what is left. Layer 0 is next to the input.")  # fmt: skip


def plan_charts(result: Outcome | Plan) -> list[Chart]:
    """All pictures of a plan, or of a budget."""
    return [loss_against_size(result), *([] if isinstance(result, Plan) else [units_left(result)])]


def save_plan_figures(
    result: Outcome | Plan, output_dir: Path, *, formats: Sequence[str] = ("png",)
) -> dict[str, Path]:
    """Draws all pictures of a plan, or of a budget, into a folder.

    Args:
        result: The plan, or what the budget led to.
        output_dir: Folder, made where it is missing.
        formats: File endings that matplotlib knows.

    Returns:
        Name of each picture -> its path, in the first format.
    """
    return {chart.name: chart.save(output_dir, formats) for chart in plan_charts(result)}
