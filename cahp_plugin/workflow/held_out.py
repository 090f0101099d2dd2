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
from cahp_plugin.tasks import Examples, Options, Task

logger = logging.get_logger(__name__)

#: Share of the examples that may be in the training or evaluation set.
_OVERLAP = 0.01


class HeldOut:
    """Examples that nothing else has touched, in an order that was drawn.

    Args:
        data: The rows, as a ``datasets.Dataset``.
        encoded: The same, encoded.
        others: Encoded sets that have been looked at; equal inputs are dropped.
        task: The task, which says what columns are read.
        options: How rows are read.
        seed: Seed of the order.
        group_column: Column whose values are the same for rows that belong together.

    Attributes:
        examples: Those that are left.
        count: Rows of them.
        dropped: Rows that were dropped.
        groups: Groups; ``None`` without a column.
        fingerprint: First 16 digits of the SHA-256 of all rows, in whatever order.

    Raises:
        DataError: More than 1 % of the rows are in the other sets, or the column is missing.
    """

    def __init__(
        self,
        data: Any,
        encoded: Examples,
        others: Sequence[Examples],
        *,
        task: Task,
        options: Options,
        seed: int,
        group_column: str | None = None,
    ) -> None:
        if group_column is not None and group_column not in data.column_names:
            raise DataError(
                f"`group_column` is {group_column!r}; the data to certify on have {', '.join(data.column_names)}."
            )
        seen = {own for other in others for own in other.input_hashes()}
        touched = {row for row, own in zip(encoded.rows, encoded.input_hashes(), strict=True) if own in seen}
        total = len(encoded.references)
        if len(touched) > _OVERLAP * total:
            raise DataError(
                f"{len(touched):,} of the {total:,} examples to certify on are in the training or the evaluation set: "
                f"what is certified on them would not hold for new ones (up to {100 * _OVERLAP:.0f} % are left out). "
                "Give examples that nothing else has touched."
            )
        rows = [row for row in range(total) if row not in touched]
        self.count, self.dropped, self.seed = len(rows), len(touched), seed
        self.examples = encoded.select([index for index, row in enumerate(encoded.rows) if row not in touched])
        columns = task.columns(data, options)
        plain = data.with_format(None).select_columns(dict.fromkeys(filter(None, [*columns.text, columns.label])))
        digests = sorted(hashlib.sha256(json.dumps(row, default=str).encode()).hexdigest() for row in plain)
        self.fingerprint = hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
        self._group = np.arange(len(rows))
        if group_column is not None:
            values = data.with_format(None)[group_column]
            number: dict[str, int] = {}
            keys = (json.dumps(values[row], default=str) for row in rows)
            self._group = np.array([number.setdefault(key, len(number)) for key in keys], dtype=int)
        self.units = int(self._group.max(initial=-1)) + 1  # what counts as one
        self.groups = None if group_column is None else self.units
        self._order = np.random.default_rng(seed).permutation(self.units)

    def drawn(self, values: Array) -> Array:
        """Values of the rows, the mean of each group, in the order that was drawn."""
        return np.asarray((np.bincount(self._group, values) / np.bincount(self._group))[self._order])


def registry() -> Path:
    """The file in which it is noted what examples were used for, where times are cached."""
    return cache_folder() / "certificates.jsonl"


def used_before(data: str, what: str) -> int:
    """Notes in the registry that examples are used.

    Args:
        data: Fingerprint of the examples.
        what: Fingerprint of what is certified on them.

    Returns:
        Other uses of the same examples. A registry that can't be read or written is told of by a warning.
    """
    path = registry()
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        known = [json.loads(line) for line in lines]
        uses = {entry["what"] for entry in known if entry["data"] == data}
        if what not in uses:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"data": data, "what": what}) + "\n")
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning(
            f"{path}, where it is noted which examples were used, can't be read or written ({error!r}): whether these "
            "were used for another certificate is not known."
        )
        return 0
    return len(uses - {what})
