"""The frame of a chart: scales, ticks, labels, and the figure around it. Lengths are SVG units, about a CSS pixel."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from cahp_plugin.report.html.markup import Child, Html, tag

WIDTH = 400.0


def ticks(low: float, high: float, *, most: int = 6, whole: bool = False) -> list[float]:
    """Round numbers inside a range: steps of 1, 2 or 5 times a power of ten.

    Args:
        low: Start of the range.
        high: End of the range.
        most: How many at most.
        whole: Whether only whole numbers will do.
    """
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    while True:
        for factor in (1, 2, 5):
            size = step * factor
            if whole and size < 1:
                continue
            first, last = math.ceil(low / size - 1e-9), math.floor(high / size + 1e-9)
            if last - first < most:
                return [round(index * size, 10) + 0.0 for index in range(first, last + 1)]
        step *= 10


def short(value: float) -> str:
    """A tick's number without trailing zeros."""
    return f"{value:.10g}".replace("-", "\u2212")


@dataclasses.dataclass(frozen=True)
class Axes:
    """A plot area with linear scales.

    Attributes:
        x: Range of the data.
        y: Range of the data, upwards.
        height: Height of the chart.
        left: Margin for the tick labels of y.
        right: Margin.
        top: Margin; holds the label of y.
        bottom: Margin; holds ticks and the label of x.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    height: float = 270
    left: float = 38
    right: float = 12
    top: float = 30
    bottom: float = 42

    def at_x(self, value: float) -> float:
        """Where a value of x lies."""
        low, high = self.x
        return self.left + (value - low) / ((high - low) or 1) * (WIDTH - self.left - self.right)

    def at_y(self, value: float) -> float:
        """Where a value of y lies."""
        low, high = self.y
        return self.height - self.bottom - (value - low) / ((high - low) or 1) * (self.height - self.top - self.bottom)

    def frame(
        self,
        x_label: str,
        y_label: str,
        *,
        x_ticks: Sequence[float],
        y_ticks: Sequence[float],
        x_format: Callable[[float], str] = short,
        y_format: Callable[[float], str] = short,
        x_grid: bool = False,
    ) -> list[Html]:
        """Grid, ticks and labels; the label of y stands above its axis, where it reads from left to right."""
        floor, end = self.height - self.bottom, WIDTH - self.right
        marks = []
        for value in y_ticks:
            y = self.at_y(value)
            marks.append(tag("line", x1=self.left, x2=end, y1=y, y2=y, class_="grid"))
            marks.append(text(self.left - 6, y + 4, y_format(value), anchor="end", class_="soft"))
        for value in x_ticks:
            x = self.at_x(value)
            if x_grid:
                marks.append(tag("line", x1=x, x2=x, y1=self.top, y2=floor, class_="grid"))
            marks.append(tag("line", x1=x, x2=x, y1=floor, y2=floor + 4, class_="axis"))
            marks.append(text(x, floor + 17, x_format(value), anchor="middle", class_="soft"))
        marks.append(tag("line", x1=self.left, x2=end, y1=floor, y2=floor, class_="axis"))
        marks.append(text(2, 13, y_label, class_="soft") if y_label else Html())
        marks.append(text((self.left + end) / 2, self.height - 6, x_label, anchor="middle", class_="soft"))
        return marks


def text(x: float, y: float, words: str, *, anchor: str | None = None, class_: str | None = None) -> Html:
    """A line of text whose base line is at ``y``."""
    return tag("text", words, x=x, y=y, text_anchor=anchor, class_=class_)


def points(pairs: Sequence[tuple[float, float]]) -> str:
    """The ``points`` of a polyline."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)


@dataclasses.dataclass(frozen=True)
class Chart:
    """A picture with its title and its description in words.

    Attributes:
        name: Short name; with a number of its own it makes the ids.
        title: Heading; what the picture says, not what it is.
        description: The picture in words, for those who can't see it.
        height: SVG units.
        marks: What is drawn.
        legend: Swatch and name of each kind of mark.
        caption: What has to be known to read it.
    """

    name: str
    title: str
    description: str
    height: float
    marks: Sequence[Child]
    legend: Sequence[tuple[Html, str]] = ()
    caption: str = ""

    def figure(self, identity: str) -> Html:
        """The picture as a ``figure``; ``identity`` is unique in the page."""
        title, description = f"{identity}-title", f"{identity}-desc"
        picture = tag(
            "svg",
            tag("title", self.title, id=title),
            tag("desc", self.description, id=description),
            self.marks,
            viewBox=f"0 0 {WIDTH:g} {self.height:g}",
            role="img",
            aria_labelledby=f"{title} {description}",
            class_="chart",
        )
        caption = tag("figcaption", self.caption) if self.caption else None
        return tag("figure", tag("h3", self.title), legend(self.legend), picture, caption, class_="card")


def legend(entries: Sequence[tuple[Html, str]]) -> Html:
    """A list of swatches with names, outside the picture: it covers no data and wraps on a narrow screen."""
    if not entries:
        return Html()
    return tag("ul", [tag("li", sign, tag("span", name)) for sign, name in entries], class_="legend")


def swatch(*marks: Html, width: float = 16) -> Html:
    """A small picture of a mark, 16 high, that a screen reader passes over."""
    return tag("svg", marks, width=width, height=16, viewBox=f"0 0 {width:g} 16", aria_hidden="true")


#: A shape for each of the colours, about (0, 0), as SVG paths of the size of a circle of radius 5.
_SHAPES = (
    "M-4.6 0a4.6 4.6 0 1 0 9.2 0a4.6 4.6 0 1 0 -9.2 0z",
    "M-4.2 -4.2h8.4v8.4h-8.4z",
    "M0 -5.6L5.6 0L0 5.6L-5.6 0z",
    "M0 -5.4L5.2 4L-5.2 4z",
    "M0 5.4L5.2 -4L-5.2 -4z",
    "M-1.6 -5.2h3.2v3.6h3.6v3.2h-3.6v3.6h-3.2v-3.6h-3.6v-3.2h3.6z",
    "M0 -5.8L1.5 -1.9L5.6 -1.8L2.4 .7L3.5 4.7L0 2.4L-3.5 4.7L-2.4 .7L-5.6 -1.8L-1.5 -1.9z",
    "M-2.9 -5.1h5.8L5.8 0L2.9 5.1h-5.8L-5.8 0z",
    "M-5.2 -2.7L-2.7 -5.2L0 -2.5L2.7 -5.2L5.2 -2.7L2.5 0L5.2 2.7L2.7 5.2L0 2.5L-2.7 5.2L-5.2 2.7L-2.5 0z",
    "M-5.4 0L4 -5.2L4 5.2z",
    "M5.4 0L-4 -5.2L-4 5.2z",
    "M-5 -4.6L0 -1.4L5 -4.6V4.6L0 1.4L-5 4.6z",
    "M-5.4 -2.4h10.8v4.8h-10.8z",
)


def marker(index: int, x: float, y: float, *, hollow: bool = False, note: str = "") -> Html:
    """The shape and colour of the way of choosing heads with this number, with words for those who point at it."""
    colour = f"var(--series-{index % len(_SHAPES)})"
    return tag(
        "path",
        tag("title", note) if note else None,
        d=_SHAPES[index % len(_SHAPES)],
        transform=f"translate({x:.2f} {y:.2f})",
        fill="var(--card)" if hollow else colour,
        stroke=colour if hollow else "var(--card)",
        stroke_width=1.6 if hollow else 0.8,
    )
