"""The runs of a comparison as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cahp_plugin.compare.rows import REFERENCE
from cahp_plugin.compare.summary import Comparison
from cahp_plugin.report import style
from cahp_plugin.report.canvas import new_figure, styled
from cahp_plugin.report.html import Compared
from cahp_plugin.report.html.charts_comparison import RANDOM, counts_of, dense_of, methods_of, recoveries_of
from cahp_plugin.report.html.style import SERIES
from cahp_plugin.selectors import selectors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Markers by turns: two ways of choosing with neighbouring colours differ in print as well.
_MARKERS = ("o", "s", "^", "v")


@styled
def plot_accuracy(comparison: Comparison) -> Figure:
    """Accuracy against the number of heads kept: a panel for each recovery, a line for each way of choosing heads.

    Bars are the standard deviation over seeds; random choice is a band of it. CAHP is the thick line, the model before
    pruning the dashed one.

    Args:
        comparison: The runs.
    """
    compared = Compared(comparison.runs, tuple(comparison.rows()), {}, tuple(selectors()))
    dense, recoveries, counts = dense_of(compared), recoveries_of(compared), counts_of(compared)
    numbers = methods_of(compared)
    methods = list(numbers)
    looks: dict[str, dict[str, Any]] = {
        name: {"color": SERIES[number][0], "marker": _MARKERS[number % len(_MARKERS)], "lw": 1.1, "ms": 4}
        for name, number in numbers.items()
    }
    looks[REFERENCE] = {"color": style.KEPT, "lw": 2.6, "marker": "D", "ms": 6, "zorder": 5}
    figure, panels = new_figure(1.8 + 4.2 * len(recoveries), 4.6, columns=len(recoveries))
    panels = [panels] if len(recoveries) == 1 else list(panels)
    for axes, recovery in zip(panels, recoveries, strict=True):
        for name in methods:
            line = [row for row in reversed(compared.rows) if (row.method, row.recover) == (name, recovery)]
            if not line:
                continue
            # A little apart, so that bars do not hide each other; the lines' order is that of the legend.
            shift = (methods.index(name) / max(1, len(methods) - 1) - 0.5) * 0.02 * (counts[0] - counts[-1])
            x, y = [row.num_heads + shift for row in line], [100 * row.mean for row in line]
            spread = [100 * (row.deviation or 0.0) for row in line]
            if name == RANDOM:
                low, high = ([a + sign * b for a, b in zip(y, spread, strict=True)] for sign in (-1, 1))
                axes.fill_between(x, low, high, color=style.DROPPED, alpha=0.5, lw=0)
                axes.plot(x, y, color=style.MUTED, lw=1.2, marker=".", label=name)
                continue
            axes.errorbar(x, y, yerr=spread, elinewidth=0.8, capsize=2, label=name, **looks[name])
        if dense is not None:
            axes.axhline(100 * dense.mean, color=style.INK, lw=1, ls="--", label=f"dense, {dense.num_heads} heads")
        axes.set(title="one-shot" if recovery == "none" else recovery, xlabel="heads kept", xticks=counts)
        axes.grid(axis="y")
    panels[0].set_ylabel("accuracy, %")
    labels: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            labels.setdefault(label, handle)
    order = sorted(labels, key=lambda name: methods.index(name) if name in methods else len(methods))  # dense: last
    figure.legend([labels[name] for name in order], order, loc="outside right upper", fontsize=9)
    return figure
