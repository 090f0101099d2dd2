"""Which columns hold the input and what is to be predicted."""

from __future__ import annotations

import dataclasses

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
