"""What the method chooses by."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from cahp_plugin.config import CAHPConfig
from cahp_plugin.errors import DataError
from cahp_plugin.units.counts import HeadUnits

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What was measured on a model, a row for each of N units: class separation or distances, and salience.

    Attributes:
        units: The units: heads, or groups of query heads.
        salience: Salience of each unit in [0, 1], ``(N,)``.
        config: Settings, with ``signature_size`` filled in.
        separation: X, shape ``(N, features)``; or ``None``.
        distances: Symmetric distances between the units, ``(N, N)``, where there is no X.
        num_examples: Examples behind them.

    Raises:
        DataError: A number is not finite.
    """

    units: HeadUnits
    salience: Array
    config: CAHPConfig
    separation: Array | None = None
    distances: Array | None = None
    num_examples: int = 0

    def __post_init__(self) -> None:
        heads = self.units.firsts
        for name in ("salience", "separation", "distances"):
            values = getattr(self, name)
            if values is None:
                continue
            bad = [heads[row] for row in np.flatnonzero(~np.isfinite(values.reshape(len(heads), -1)).all(axis=1))]
            if bad:
                raise DataError(f"The {name} of the heads (layer, head) {bad} is not a number.")
