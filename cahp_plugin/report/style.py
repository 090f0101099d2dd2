"""Colours and sizes of the pictures: safe for colour-blind readers, in print, and on a light or dark ground."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parent
#: Name of a variable of the page's style sheet -> its colour on a light ground, in which pictures are drawn.
PALETTE = dict(re.findall(r"--([\w-]+):(#\w{6})", (FOLDER / "page.css").read_text(encoding="utf-8").partition("}")[0]))
KEPT, DROPPED, BAR, ACCENT = (PALETTE[name] for name in ("kept", "dropped", "bar", "accent"))
INK, MUTED, LINE, CARD = (PALETTE[name] for name in ("ink", "muted", "line", "card"))
#: Colours of the ways of choosing heads; those that are compared by default are the furthest apart.
SERIES = tuple(colour for name, colour in PALETTE.items() if name.startswith("series"))
#: Shapes, of another number than the colours: taken in turns, the same two meet after 156 ways.
MARKERS = ("o", "s", "D", "^", "v", "P", "*", "h", "X", "<", ">", "p", "d")
#: Part of ``viridis`` that can be told from a light and from a dark ground; dark at the input, light at the output.
LAYERS = (0.2, 0.8)
#: The strongest shade that a number in ink can still be read on.
DEPTH = 0.5
#: Width of a picture in points, which are CSS pixels where a page shows it as wide.
WIDTH = 400
DPI = 150
