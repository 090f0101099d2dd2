"""Markup that can't be broken by what is put into it: every string is escaped on its way in."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from cahp_plugin.report.table import numeric_columns

#: What XML and HTML can't carry at all; a terminal's escape codes in a file name, say.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_VOID = frozenset({"meta", "br", "hr"})


class Html(str):
    """Text that is markup already. Joined with a plain string it is a plain string, and is escaped again."""


Child: TypeAlias = "str | Sequence[Child] | None"


def tag(name: str, *children: Child, **attributes: str | float | bool | None) -> Html:
    """Builds an element.

    Args:
        name: Name of the element.
        children: Strings, escaped unless they are :class:`Html`; sequences of such; ``None`` is left out.
        attributes: An underscore at the end is dropped (``class_``) and one inside becomes a hyphen
            (``stroke_width``); ``None`` and ``False`` leave the attribute out. Numbers are rounded to 0.01.
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None and value is not False:
            words.append(f'{key.rstrip("_").replace("_", "-")}="{_attribute(value)}"')
    start = f"<{' '.join(words)}>"
    return Html(start if name in _VOID else f"{start}{join(children)}</{name}>")


def join(children: Child) -> Html:
    """The children of an element, one after the other."""
    if children is None:
        return Html()
    if isinstance(children, str):
        return children if isinstance(children, Html) else Html(html.escape(_CONTROL.sub("\ufffd", children)))
    return Html("".join(join(child) for child in children))


def _attribute(value: str | float | bool) -> str:
    if isinstance(value, bool):
        return "true"
    if isinstance(value, (int, float)):
        return f"{round(float(value), 2) + 0.0:g}" if abs(value) < 1e5 else f"{value:.0f}"
    return html.escape(_CONTROL.sub("\ufffd", value), quote=True)


def table(caption: str, rows: Sequence[Mapping[str, str]], *, heading: bool = True) -> Html:
    """Lays rows out as a table in a box of its own that scrolls where it is too wide; numbers are right-aligned.

    Args:
        caption: What the table shows.
        rows: As for :func:`cahp_plugin.report.format_table`; the first column names the row.
        heading: Whether the caption stands above as well, outside of the box, where it does not scroll away.
    """
    if not rows:
        return Html()
    names = list(rows[0])
    numeric = numeric_columns(rows)
    kinds = ["number" if right else None for right in numeric]
    head = tag("tr", [tag("th", name, scope="col", class_=kind) for name, kind in zip(names, kinds, strict=True)])
    body = []
    for row in rows:
        first, *others = ((row.get(name, ""), kind) for name, kind in zip(names, kinds, strict=True))
        cells = [tag("td", text, class_=kind) for text, kind in others]
        body.append(tag("tr", tag("th", first[0], scope="row", class_=first[1]), cells))
    inner = tag(
        "table",
        tag("caption", caption, class_="aloud"),
        tag("thead", head),
        tag("tbody", body),
    )
    # A box that scrolls must be reachable by keyboard.
    box = tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)
    return join([tag("h3", caption) if heading else None, box])
