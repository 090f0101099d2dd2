"""Average-linkage clustering of the heads, cut at every number of clusters."""

from __future__ import annotations

from typing import Any

import numpy as np

from cahp_plugin.selectors.cahp.clustering import Clustering

Array = np.ndarray[Any, Any]


def sweep_hierarchical(distances: Array) -> dict[int, Clustering]:
    """Clusters for every k = 2..N-1 from one average-linkage tree.

    Args:
        distances: Symmetric distances, shape ``(N, N)``.

    Returns:
        k -> clustering; empty for N < 3.
    """
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import squareform

    count = len(distances)
    if count < 3:
        return {}
    tree = linkage(squareform(distances, checks=False), method="average")
    sizes = list(range(2, count))
    labels = cut_tree(tree, n_clusters=sizes)
    return {k: with_medoids(distances, labels[:, column]) for column, k in enumerate(sizes)}


def with_medoids(distances: Array, labels: Array) -> Clustering:
    """Adds each cluster's medoid, the head nearest to all of its cluster (ties: the lowest row)."""
    medoids = []
    for label in range(int(labels.max()) + 1):
        members = np.flatnonzero(labels == label)
        within = distances[members[:, None], members].sum(axis=1)
        medoids.append(members[np.argmin(within)])
    return Clustering(np.array(medoids, dtype=np.int64), labels.astype(np.int64))
