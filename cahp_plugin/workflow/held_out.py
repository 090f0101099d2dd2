"""Examples that nothing else has touched, and what they have been used for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from cahp_plugin.cost.times import cache_folder
from cahp_plugin.errors import DataError
from cahp_plugin.plan.certificate import Array
from cahp_plugin.tasks import Examples

logger = logging.get_logger(__name__)

#: Share of the examples that may be in the training or evaluation set.
_OVERLAP = 0.01
#: Digits that a row is known by in the registry.
_MARK = 8


class HeldOut:
    """Examples that nothing else has touched, in an order that was drawn.

    Args:
        data: The rows, as a ``datasets.Dataset``.
        encoded: The same, encoded.
        others: Encoded sets that have been looked at; equal inputs are dropped.
        seed: Seed of the order.
        group_column: Column whose values are the same for rows that belong together.

    Attributes:
        examples: Those that are left.
        count: Rows of them.
        dropped: Rows that were dropped.
        groups: Groups, by the column, or of equal inputs; ``None`` where each row is one.
        fingerprint: First 16 digits of the SHA-256 of all rows, in whatever order.
        marks: First 8 digits of that of each row.

    Raises:
        DataError: More than 1 % of the rows are in the other sets, or the column is missing.
    """

    def __init__(
        self,
        data: Any,
        encoded: Examples,
        others: Sequence[Examples],
        *,
        seed: int,
        group_column: str | None,
    ) -> None:
        if group_column is not None and group_column not in data.column_names:
            raise DataError(
                f"`group_column` is {group_column!r}; the data to certify on have {', '.join(data.column_names)}."
            )
        seen, hashes = {own for other in others for own in other.input_hashes()}, encoded.input_hashes()
        touched = {row for row, own in zip(encoded.rows, hashes, strict=True) if own in seen}
        total = len(encoded.references)
        if len(touched) > _OVERLAP * total:
            raise DataError(
                f"{len(touched):,} of the {total:,} examples to certify on are in the training or the evaluation set: "
                f"what is certified on them would not hold for new ones (up to {100 * _OVERLAP:.0f} % are left out). "
                "Give examples that nothing else has touched."
            )
        rows = [row for row in range(total) if row not in touched]
        self.count, self.dropped, self.seed, self.column = len(rows), len(touched), seed, group_column
        self.examples = encoded.select([index for index, row in enumerate(encoded.rows) if row not in touched])
        inputs: dict[int, str] = {}  # of each row, all its examples
        for row, own in zip(encoded.rows, hashes, strict=True):
            inputs[row] = inputs.get(row, "") + own
        told = ((inputs.get(row, ""), encoded.references[row]) for row in range(total))
        digests = sorted(hashlib.sha256(json.dumps(one, default=str).encode()).hexdigest() for one in told)
        self.fingerprint = hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
        self.marks = [digest[:_MARK] for digest in digests]
        # Equal inputs are one observation, however often they come.
        values = inputs if group_column is None else data.with_format(None)[group_column]
        number: dict[str, int] = {}
        keys = (json.dumps(values[row], default=str) for row in rows)
        self._group = np.array([number.setdefault(key, len(number)) for key in keys], dtype=int)
        self.units = len(number)  # what counts as one
        self.groups = None if group_column is None and self.units == len(rows) else self.units
        self._order = np.random.default_rng(seed).permutation(self.units)

    def drawn(self, values: Array) -> Array:
        """Values of the rows, the mean of each group, in the order that was drawn."""
        return np.asarray((np.bincount(self._group, values) / np.bincount(self._group))[self._order])


def registry() -> Path:
    """The file in which it is noted what examples were used for, where times are cached."""
    return cache_folder() / "certificates.jsonl"


def used_before(held: HeldOut, what: str) -> int:
    """Notes in the registry that examples are used.

    Args:
        held: The examples.
        what: Fingerprint of what is certified on them.

    Returns:
        Other uses of more than 1 % of these examples. One that can't be read or written is told of by a warning.
    """
    path, own = registry(), (what, held.fingerprint)
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        known = [json.loads(line) for line in lines]
        marks, uses = set(held.marks), set()
        for entry in known:
            others = entry["rows"]
            shared = sum(others[place : place + _MARK] in marks for place in range(0, len(others), _MARK))
            if shared > _OVERLAP * len(marks):
                uses.add((entry["what"], entry["data"]))
        if own not in uses:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"data": held.fingerprint, "what": what, "rows": "".join(held.marks)}) + "\n")
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning(
            f"{path}, where it is noted which examples were used, can't be read or written ({error!r}): whether these "
            "were used for another certificate is not known."
        )
        return 0
    return len(uses - {own})
