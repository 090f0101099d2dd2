"""Class separation of each head: Jeffries-Matusita distances between the classes' signatures, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def bhattacharyya(mean_a: Array, variance_a: Array, mean_b: Array, variance_b: Array) -> Array:
    """Bhattacharyya distance of two univariate normal distributions, element by element.

    ``1/4 (m1 - m2)^2 / (v1 + v2) + 1/2 ln((v1 + v2) / (2 sqrt(v1 v2)))``. The paper prints 1/8 for the first factor;
    1/4 is right for variances (1/8 belongs to the mean of the two) and is what its authors run.

    Args:
        mean_a: Means, any shape.
        variance_a: Variances, positive.
        mean_b: Means.
        variance_b: Variances, positive.

    Returns:
        Distances in nats, at least 0.
    """
    total = variance_a + variance_b
    # ln((a + b) / (2 sqrt(ab))) through log1p of the relative gap: exact also where the variances nearly agree.
    gap = np.square(np.sqrt(variance_a) - np.sqrt(variance_b)) / (2 * np.sqrt(variance_a * variance_b))
    return 0.25 * np.square(mean_a - mean_b) / total + 0.5 * np.log1p(gap)


def jeffries_matusita(distance: Array) -> Array:
    """Jeffries-Matusita distance ``2 (1 - exp(-Bh))`` of Bhattacharyya distances in nats; in [0, 2]."""
    return -2.0 * np.expm1(-distance)


def separation_matrix(
    mean: Array, variance: Array, *, variance_floor: float = 1e-6, pairs: Sequence[tuple[int, int]] | None = None
) -> Array:
    """Builds X: one row a head, the Jeffries-Matusita distance of each class pair at every cell (paper, step 2).

    Args:
        mean: Means of the signatures, shape ``(C, N, cells)``.
        variance: Unbiased variances, shape ``(C, N, cells)``.
        variance_floor: Lower bound of the variances.
        pairs: Positions of the classes that are compared; ``None`` takes every pair, in lexicographic order.

    Returns:
        X in [0, 2], float32 of shape ``(N, pairs * cells)``, with C (C - 1) / 2 pairs by default; each with all its
        cells.
    """
    floored = np.maximum(variance, variance_floor)
    classes, heads, cells = mean.shape
    pairs = list(combinations(range(classes), 2)) if pairs is None else pairs
    separation = np.empty((heads, len(pairs), cells), dtype=np.float32)
    for position, (a, b) in enumerate(pairs):
        separation[:, position] = jeffries_matusita(bhattacharyya(mean[a], floored[a], mean[b], floored[b]))
    return separation.reshape(heads, len(pairs) * cells)
