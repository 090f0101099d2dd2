"""Mean Simplified Silhouette: how well heads sit with their medoid and away from the others."""

from __future__ import annotations

from typing import Any

import numpy as np

from cahp_plugin.config import MSSVariant
from cahp_plugin.selectors.cahp.clustering import Clustering

Array = np.ndarray[Any, Any]


def mean_simplified_silhouette(distances: Array, clustering: Clustering, variant: MSSVariant = "authors") -> float:
    """Mean Simplified Silhouette of a clustering (paper, step 5).

    With ``a`` a head's distance to its own medoid and ``b`` its mean distance to the other medoids:
    ``"authors"`` (what they run) averages ``(b - a) / max(a, b)`` over the heads that are no medoids; ``"paper"``
    (what they print) averages ``1 - a / b`` over all heads. A head with ``a = 0`` counts 1 in both.

    Args:
        distances: Distances between heads, shape ``(N, N)``.
        clustering: At least two clusters.
        variant: Form of the silhouette.

    Returns:
        A value of at most 1, without unit; 1 where every ``a`` is 0.
    """
    to_medoids = distances[:, clustering.medoids]
    own = to_medoids[np.arange(len(to_medoids)), clustering.labels]
    if variant == "authors":
        others = np.ones(len(own), dtype=bool)
        others[clustering.medoids] = False
        own, to_medoids = own[others], to_medoids[others]
    if not own.any():
        return 1.0
    rest = (to_medoids.sum(axis=1) - own) / (to_medoids.shape[1] - 1)
    scale = np.maximum(own, rest) if variant == "authors" else rest
    return float(np.mean(np.where(own == 0, 1.0, (rest - own) / np.where(scale == 0, 1.0, scale))))
