"""Which columns hold the input and what is to be predicted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from cahp_plugin.errors import DataError

#: Usual names of text columns, tried in this order.
TEXT_COLUMNS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("query", "passage"),
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
        text: Columns of the input: one, or two for pairs.
        label: Column of what is to be predicted; empty where there is none.
    """

    text: tuple[str, ...]
    label: str = ""


def find_columns(
    dataset: Any,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    *,
    usual_text: Sequence[tuple[str, ...]] = TEXT_COLUMNS,
    usual_labels: Sequence[str] = LABEL_COLUMNS,
    labelled: bool = True,
) -> Columns:
    """Finds the columns of a data set by their usual names, or checks the named ones.

    Args:
        dataset: A ``datasets.Dataset``.
        text_columns: Names of the input columns.
        label_column: Name of the column that is to be predicted.
        usual_text: Usual names of the input columns, tried in this order.
        usual_labels: Usual names of the other.
        labelled: Whether there has to be such a column.

    Raises:
        DataError: A named column is missing, or none has a usual name; the message lists the columns there are.
    """
    text = text_columns or next((usual for usual in usual_text if set(usual) <= set(dataset.column_names)), ())
    what = usual_text[0][0] if usual_text[0][0] in ("image", "audio") else "text"
    if not text:
        told = f"No {what} column with a usual name was found; {_there(dataset)}."
        raise DataError(f"{told} Name it with `text_columns`.")
    most = max(map(len, usual_text))
    if len(text) > most:
        allowed = "One or two text columns are" if most == 2 else f"{most} columns of the input are"
        raise DataError(f"{allowed} expected, got {len(text)}: {list(text)}.")
    label = label_column or next((usual for usual in usual_labels if usual in dataset.column_names), "")
    if labelled and not label:
        told = f"No label column with a usual name was found; {_there(dataset)}."
        raise DataError(f"{told} Name it with `label_column`.")
    missing = [name for name in (*text, label) if name and name not in dataset.column_names]
    if missing:
        raise DataError(f"Missing column {', '.join(missing)}; {_there(dataset)}.")
    return Columns(tuple(text), label)


def _there(dataset: Any) -> str:
    return f"the columns are {', '.join(dataset.column_names) or 'none'}"
