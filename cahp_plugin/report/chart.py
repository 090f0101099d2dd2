"""A picture with its words: drawn once, saved as a file or put into a page."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from cahp_plugin.report import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
#: What XML and HTML can't carry at all; a terminal's escape codes in a name, say.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def styled(draw: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Makes a function draw in the library's style, without a change to the user's."""

    @functools.wraps(draw)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        import matplotlib.style

        with matplotlib.style.context(style.FOLDER / "cahp.mplstyle", after_reset=True), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # a name in another script: a page has the fonts for it
            return draw(*args, **kwargs)

    return wrapped


@dataclasses.dataclass(frozen=True)
class Chart:
    """A picture and what has to be said with it.

    Attributes:
        name: Short name; of a file, and in a page's ids.
        title: Heading; what the picture says, not what it is.
        description: The picture in words, for those who can't see it.
        figure: The picture, without its title.
        caption: What has to be known to read it.
    """

    name: str
    title: str
    description: str
    figure: Figure
    caption: str = ""

    @styled
    def save(self, folder: Path) -> Path:
        """Writes the picture with its title as a PNG into a folder, made where it is missing; returns the path."""
        folder.mkdir(parents=True, exist_ok=True)
        width, height = self.figure.get_size_inches()
        self.figure.set_size_inches(width, height + 0.4)
        self.figure.suptitle(self.title, x=0.01, ha="left")
        place, partial = folder / f"{self.name}.png", folder / f".{self.name}.{os.getpid()}.png"
        try:
            self.figure.savefig(partial, dpi=style.DPI)
            os.replace(partial, place)
        finally:
            partial.unlink(missing_ok=True)
        self.figure.suptitle("")
        self.figure.set_size_inches(width, height)
        return place

    @styled
    def svg(self, identity: str) -> str:
        """The picture as an element of a page: it takes the page's font and colours.

        Args:
            identity: Unique in the page; all ids begin with it.
        """
        from markupsafe import Markup

        file = io.StringIO()
        self.figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        text = file.getvalue()
        box = " ".join(f"{72 * side:g}" for side in (0, 0, *self.figure.get_size_inches()))
        inner = text[text.index("</defs>") + len("</defs>") : text.rindex("</svg>")]
        for pattern, instead in (
            (r"<defs>\s*<clipPath.*?</defs>", ""),  # nothing is drawn outside of its axes
            (r' clip-path="[^"]*"', ""),
            (r"font-family: [^;\"]*;? ?", ""),
            (r'<g id="[^"]*"', "<g"),  # nothing refers to groups
            (r'<path id="', f'<path id="{identity}-'),
            (r'xlink:href="#', f'href="#{identity}-'),
        ):
            inner = re.sub(pattern, instead, inner, flags=re.DOTALL)
        for name, colour in style.PALETTE.items():
            inner = inner.replace(f": {colour}", f": var(--{name})")
        return Markup(
            '<svg class="chart" viewBox="{box}" role="img" aria-labelledby="{id}-title {id}-desc">'
            '<title id="{id}-title">{title}</title><desc id="{id}-desc">{description}</desc>{inner}</svg>'
        ).format(box=box, id=identity, title=self.title, description=self.description, inner=Markup(inner))


def save_charts(charts: Sequence[Chart], folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Writes pictures into a folder, made where it is missing: name of each -> its path."""
    return {chart.name: chart.save(Path(folder)) for chart in charts}


def new_figure(height: float, *, columns: int = 1, rows: int = 1) -> tuple[Figure, list[Any]]:
    """A figure on the Agg canvas, outside of pyplot: no display is needed and nothing is kept alive.

    Args:
        height: Points, of a row.
        columns: Axes side by side, each of the width of a picture in a page.
        rows: Rows of axes.

    Returns:
        The figure and its axes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(style.WIDTH * columns / 72, height * rows / 72), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def add_legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str] | None = None) -> None:
    """Puts a legend below the plots, where it covers no data, in as many columns as fit."""
    names = [handle.get_label() for handle in handles] if labels is None else list(labels)
    columns = int(72 * figure.get_size_inches()[0] // (7 * max(map(len, names), default=1) + 44))
    figure.legend(handles, names, loc="outside lower left", ncols=max(1, min(len(names), columns)), borderpad=0.6)


def short(name: str, most: int = 19) -> str:
    """A name as a picture can show it."""
    name = CONTROL.sub("\ufffd", " ".join(name.split()))
    return name if len(name) <= most else name[: most - 1] + "\u2026"
