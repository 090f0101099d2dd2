"""What a smaller model loses on new examples at the most, with a confidence that holds.

A test by betting (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2024). Of
an example, ``L = score(dense) - score(pruned)`` lies in [-1, 1] and ``X = (L + 1) / 2`` in [0, 1]. The hypothesis that
d or more is lost says that the mean of X is ``m = (1 + d) / 2`` or more; then the wealth ``prod(1 + b_i (m - X_i))``
is a supermartingale, whatever the stakes ``b_i`` are that depend on earlier examples alone, and it ever reaches ``1 /
alpha`` with a probability of alpha at most (Ville). Nothing is assumed but that the examples are drawn independently,
or come in exchangeable order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: What the variance of X is taken to be before the first example, with the weight of one; and the largest stake, as a
#: share of what would lose all.
_VARIANCE, _LARGEST = 0.25, 0.75


def log_wealth(losses: Array, drop: float, confidence: float) -> Array:
    """Logarithm of the wealth after each example, ``(examples,)``.

    Stakes are the paper's for a number of examples that is known: ``sqrt(2 log(1 / alpha) / (n v))``, where v is the
    variance of the examples before.

    Args:
        losses: Score of the dense model less that of the pruned one, in [-1, 1], in an order that was drawn.
        drop: d, the loss that is to be refuted, in [-1, 1].
        confidence: 1 - alpha.

    Raises:
        ValueError: A loss is outside of [-1, 1].
    """
    if len(losses) and not np.abs(losses).max() <= 1:
        raise ValueError("Losses lie in [-1, 1].")
    x, least = (np.asarray(losses, dtype=np.float64) + 1) / 2, (1 + drop) / 2
    seen = np.arange(1, len(x) + 1)
    mean = (0.5 + np.cumsum(x)) / (seen + 1)
    variance = (_VARIANCE + np.cumsum((x - mean) ** 2)) / (seen + 1)
    before = np.concatenate([[_VARIANCE], variance[:-1]])
    stakes = np.sqrt(2 * math.log(1 / (1 - confidence)) / (len(x) * before))
    if least < 1:
        stakes = np.minimum(stakes, _LARGEST / (1 - least))
    return np.asarray(np.cumsum(np.log1p(stakes * (least - x))))


def refuted(losses: Array, drop: float, confidence: float) -> bool:
    """Whether a loss of ``drop`` or more is refuted at a confidence."""
    return bool(len(losses)) and float(log_wealth(losses, drop, confidence).max()) >= math.log(1 / (1 - confidence))


def least_refuted(losses: Array, confidence: float, steps: int = 30) -> float:
    """The smallest drop that is refuted, in [-1, 1]; 1 where none is."""
    low, high = -1.0, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (low, middle) if refuted(losses, middle, confidence) else (middle, high)
    return high
