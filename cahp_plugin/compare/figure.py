"""The runs of a comparison as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cahp_plugin.compare.rows import REFERENCE, Row
from cahp_plugin.compare.summary import Comparison
from cahp_plugin.report import style
from cahp_plugin.report.canvas import new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's colours without CAHP's own blue, and a marker for each turn through them.
_COLOURS = ("#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_MARKERS = ("o", "s", "^")


@styled
def plot_accuracy(comparison: Comparison) -> Figure:
    """Accuracy against the number of heads kept: a panel for each recovery, a line for each way of choosing heads.

    Bars are the standard deviation over seeds; random choice is a band of it. CAHP is the thick line, the model before
    pruning the dashed one.

    Args:
        comparison: The runs.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    rows = comparison.rows()
    dense = next((row for row in rows if row.method == "dense"), None)
    shown = [row for row in rows if row.method != "dense"]
    recoveries = sorted({row.recover for row in shown}, key=lambda name: (name != "none", name))
    methods = list(dict.fromkeys(row.method for row in shown))
    others = [name for name in methods if name not in (REFERENCE, "random")]
    counts = sorted({row.num_heads for row in shown})
    figure, panels = new_figure(1.8 + 4.2 * len(recoveries), 4.6, columns=len(recoveries))
    panels = [panels] if len(recoveries) == 1 else list(panels)
    for axes, recovery in zip(panels, recoveries, strict=True):
        for name in methods:
            line = sorted((r for r in shown if (r.method, r.recover) == (name, recovery)), key=lambda r: r.num_heads)
            if not line:
                continue
            # A little apart, so that bars do not hide each other; the lines' order is that of the legend.
            shift = (methods.index(name) / max(1, len(methods) - 1) - 0.5) * 0.02 * (counts[-1] - counts[0])
            x, y, spread = [r.num_heads + shift for r in line], [100 * r.mean for r in line], _spread(line)
            if name == "random":
                low, high = ([a + sign * b for a, b in zip(y, spread, strict=True)] for sign in (-1, 1))
                axes.fill_between(x, low, high, color=style.DROPPED, alpha=0.5, lw=0)
                axes.plot(x, y, color=style.MUTED, lw=1.2, marker=".", label=name)
                continue
            place = others.index(name) if name in others else 0
            look = (
                {"color": style.KEPT, "lw": 2.6, "marker": "D", "ms": 6, "zorder": 5}
                if name == REFERENCE
                else {
                    "color": _COLOURS[place % len(_COLOURS)],
                    "marker": _MARKERS[place // len(_COLOURS) % len(_MARKERS)],
                    "lw": 1.1,
                    "ms": 4,
                }
            )
            axes.errorbar(x, y, yerr=spread, elinewidth=0.8, capsize=2, label=name, **look)
        if dense is not None:
            axes.axhline(100 * dense.mean, color=style.INK, lw=1, ls="--", label=f"dense, {dense.num_heads} heads")
        axes.set(title="one-shot" if recovery == "none" else recovery, xlabel="heads kept", xticks=counts)
        axes.grid(axis="y")
    panels[0].set_ylabel("accuracy, %")
    labels: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            labels.setdefault(label, handle)
    order = sorted(labels, key=lambda name: (name != REFERENCE, name.startswith("dense"), name == "random"))
    figure.legend([labels[name] for name in order], order, loc="outside right upper", fontsize=9)
    return figure


def _spread(rows: list[Row]) -> list[float]:
    return [100 * (row.deviation or 0.0) for row in rows]
