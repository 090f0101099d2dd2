"""Colours and sizes of the pictures: safe for colour-blind readers, and in print."""

from __future__ import annotations

KEPT = "#0072b2"
DROPPED = "#c8ccd2"
ABSENT = "#ffffff"
ACCENT = "#d55e00"
INK = "#1f2328"
MUTED = "#6b7280"
GRID = "#e5e7eb"
#: Sequential map of the layers, dark at the input and light at the output.
LAYERS = "viridis"
DPI = 150
RC = {
    "font.size": 10,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "grid.color": GRID,
    "legend.frameon": False,
}
