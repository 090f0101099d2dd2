"""Graph space: the heads laid out in a plane by t-SNE."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def embed_heads(separation: Array, *, perplexity: float = 10.0, iterations: int = 1000, seed: int = 0) -> Array:
    """Lays the heads out in a plane by t-SNE of their separation rows (paper, step 3).

    scikit-learn's t-SNE with its defaults (PCA start, Barnes-Hut gradients), on one thread: the same seed gives the
    same plane, to the bit, on any thread count.

    Note:
        The seed matters although the start is PCA: it draws the randomised SVD behind it, and t-SNE makes its rounding
        into other planes. Selections of two seeds share about 0.87 (degree 2) to 0.74 (degree 6) of their heads
        (Jaccard, MiniLM on SST-5).

    Args:
        separation: X, shape ``(N, features)``.
        perplexity: Effective number of neighbours. Where N does not exceed it, ``(N - 1) / 3`` is taken.
        iterations: Gradient steps.
        seed: Seed of the start.

    Returns:
        Float64 coordinates of shape ``(N, 2)``; all zero for N < 3, where there is nothing to lay out, and where all
        rows are equal.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    count = len(separation)
    if count < 3 or np.all(separation == separation[0]):
        return np.zeros((count, 2))
    if perplexity >= count:
        perplexity = max(1.0, (count - 1) / 3)
    with threadpool_limits(limits=1):
        embedding = TSNE(perplexity=perplexity, max_iter=iterations, random_state=seed).fit_transform(
            np.ascontiguousarray(separation, dtype=np.float64)
        )
    return np.asarray(embedding, dtype=np.float64)
