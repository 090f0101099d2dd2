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
    text = find_text_columns(dataset, text_columns)
    label = label_column or next((usual for usual in LABEL_COLUMNS if usual in dataset.column_names), "")
    if not label:
        told = f"No label column with a usual name was found; {_there(dataset)}."
        raise DataError(f"{told} Name it with `label_column`.")
    _check_present(dataset, [label])
    return Columns(text, label)


def find_text_columns(dataset: Any, text_columns: Sequence[str] | None = None) -> tuple[str, ...]:
    """Finds the text columns of a data set, labelled or not, as :func:`find_columns` does.

    Raises:
        DataError: A named column is missing, or none has a usual name; the message lists the columns there are.
    """
    if text_columns is None:
        text_columns = next((usual for usual in TEXT_COLUMNS if set(usual) <= set(dataset.column_names)), ())
        if not text_columns:
            told = f"No text column with a usual name was found; {_there(dataset)}."
            raise DataError(f"{told} Name it with `text_columns`.")
    if not 1 <= len(text_columns) <= 2:
        raise DataError(f"One or two text columns are expected, got {len(text_columns)}: {list(text_columns)}.")
    _check_present(dataset, text_columns)
    return tuple(text_columns)


def _check_present(dataset: Any, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in dataset.column_names]
    if missing:
        raise DataError(f"Missing column {', '.join(missing)}; {_there(dataset)}.")


def _there(dataset: Any) -> str:
    return f"the columns are {', '.join(dataset.column_names) or 'none'}"
