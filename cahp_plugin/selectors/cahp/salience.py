"""Scaling of the heads' salience."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def normalize_salience(salience: Array) -> Array:
    """Scales salience to [0, 1] by one min-max over all heads (paper, step 4).

    Args:
        salience: Mean absolute gradient of each unit's mask, any shape.

    Returns:
        Array of the same shape; zeros where all are equal, NaN stays NaN.
    """
    low, high = np.nanmin(salience), np.nanmax(salience)
    if high == low:
        return np.zeros_like(salience)
    return (salience - low) / (high - low)
