"""Small tables, as aligned text or Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_NUMBER = re.compile(r"^[-+]?[\d,]*\.?\d+(e[-+]?\d+)?( ?%| [a-zA-Z]+)?$|^$|^-$")


def numeric_columns(rows: Sequence[Mapping[str, str]]) -> list[bool]:
    """Whether each column of :func:`format_table`'s rows holds nothing but numbers, in the order of the columns."""
    return [all(_NUMBER.match(str(row.get(name, ""))) for row in rows) for name in rows[0]] if rows else []


def format_table(rows: Sequence[Mapping[str, str]], *, markdown: bool = False) -> str:
    """Lays rows out as a table; columns of numbers are right-aligned.

    Args:
        rows: Column name -> cell; the first row's keys are the columns, in order. A cell that a row lacks is empty.
        markdown: Whether the table is GitHub Markdown.

    Returns:
        The table without a final line break; empty for no rows.
    """
    if not rows:
        return ""
    names = list(rows[0])
    cells = [[str(row.get(name, "")) for name in names] for row in rows]
    numeric = numeric_columns(rows)
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(names)]

    def lay(line: Sequence[str]) -> list[str]:
        return [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]

    pairs = zip(widths, numeric, strict=True)
    ruler = ["-" * (width - 1) + ":" if markdown and right else "-" * width for width, right in pairs]
    lines = (lay(names), ruler, *map(lay, cells))
    return "\n".join(f"| {' | '.join(line)} |" if markdown else "  ".join(line).rstrip() for line in lines)
