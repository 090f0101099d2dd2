"""Which columns hold the text and the label."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from cahp_plugin.errors import DataError

#: Usual names of the text columns, tried in this order.
TEXT_COLUMNS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text",),
    ("sentence",),
    ("content",),
    ("review",),
)
LABEL_COLUMNS = ("label", "labels", "class", "target")


@dataclasses.dataclass(frozen=True)
class Columns:
    """Columns of a data set.

    Attributes:
        text: One text column, or two for pairs.
        label: Column of the labels.
    """

    text: tuple[str, ...]
    label: str


def find_columns(dataset: Any, text_columns: Sequence[str] | None = None, label_column: str | None = None) -> Columns:
    """Finds the text and label columns of a data set by their usual names, or checks the named ones.

    Args:
        dataset: A ``datasets.Dataset``.
        text_columns: One or two names.
        label_column: A name.

    Raises:
        DataError: A named column is missing, or none has a usual name; the message lists the columns there are.
    """
    names = list(dataset.column_names)
    there = f"the columns are {', '.join(names) or 'none'}"
    if text_columns is not None:
        if not 1 <= len(text_columns) <= 2:
            raise DataError(f"One or two text columns are expected, got {len(text_columns)}: {list(text_columns)}.")
        text = tuple(text_columns)
    else:
        text = next((usual for usual in TEXT_COLUMNS if set(usual) <= set(names)), ())
        if not text:
            raise DataError(f"No text column with a usual name was found; {there}. Name it with `text_columns`.")
    if label_column is not None:
        label = label_column
    else:
        label = next((usual for usual in LABEL_COLUMNS if usual in names), "")
        if not label:
            raise DataError(f"No label column with a usual name was found; {there}. Name it with `label_column`.")
    missing = [name for name in (*text, label) if name not in names]
    if missing:
        raise DataError(f"Missing column {', '.join(missing)}; {there}.")
    return Columns(text, label)
