"""Pictures of a budget: what sizes of the model lose, and what is left of each layer."""

from __future__ import annotations

from cahp_plugin.plan.outcome import Outcome
from cahp_plugin.plan.plan import Plan
from cahp_plugin.report import style
from cahp_plugin.report.chart import Chart, add_legend, new_figure, styled
from cahp_plugin.report.selection import layers_left
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


def units_left(outcome: Outcome) -> Chart:
    """What is left of each layer's heads and neurons, side by side."""
    kinds = [kind for kind in KINDS if any(layer.kind == kind for layer in outcome.layers)]
    words = " and ".join("{:,} of {:,} {}".format(*outcome.count(kind), kind) for kind in kinds)
    left: dict[str, dict[int, tuple[int, int]]] = {
        kind: {layer.index: (layer.after, layer.before) for layer in outcome.layers if layer.kind == kind}
        for kind in kinds
    }
    return layers_left("units_left", f"{words} stay", left)


def plan_charts(result: Outcome | Plan) -> list[Chart]:
    """All pictures of a plan, or of a budget."""
    return [loss_against_size(result), *([] if isinstance(result, Plan) else [units_left(result)])]
