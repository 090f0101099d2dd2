"""What a smaller model loses on new examples at the most, with a confidence that holds.

A test by betting (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2024). Of
an example, ``L = score(dense) - score(pruned)`` lies in [-1, 1] and ``X = (L + 1) / 2`` in [0, 1]. The hypothesis that
d or more is lost says that the mean of X is ``m = (1 + d) / 2`` or more; then the wealth ``prod(1 + b_i (m - X_i))``
is a supermartingale, whatever the stakes ``b_i >= 0`` are that depend on earlier examples alone, and it ever reaches
``1 / alpha`` with a probability of alpha at most (Ville). Nothing is assumed but that the examples are drawn
independently, or come in exchangeable order.

Note:
    The stakes are not the paper's. The number of examples n is known, and all that counts is whether the wealth
    reaches ``1 / alpha`` by then: a digital option, which is replicated as in Black and Scholes. Of the goal, w is
    there after i examples: ``b = pdf(q) / (w sqrt((n - i) v))`` with ``q = quantile(w)`` of the normal distribution
    and the variance v of X so far. Where v is wrong, power is lost, and the confidence is not. At a disagreement of
    5 %, a true drop of 0 and d = 1 point this certifies in .34, .63, .93 and .997 of cases of 1,000, 2,210, 5,000 and
    10,000 examples; with the paper's stakes it is .25, .50, .84 and .99.
"""

from __future__ import annotations

import bisect
import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: The confidence where none is asked for.
CONFIDENCE = 0.95

#: What the variance of X is taken to be before the first example, and the weight of that in examples.
_VARIANCE, _WEIGHT = 0.05, 10
#: The largest stake, as a share of what would lose all; and the wealth that is aimed at, in parts of what is needed.
_LARGEST, _GOAL = 0.9, 1.05
#: Drops that a bound is looked for among are multiples of this.
_STEP = 0.001
#: Most examples that the fewest are looked for among.
_MOST = 2**20


def wealth(losses: Array, drop: Any, confidence: float) -> Array:
    """What a stake of 1 has become after the last example, no more being staked from ``1 / (1 - confidence)`` on.

    Args:
        losses: Score of the dense model less that of the pruned one, in [-1, 1], in an order that was drawn:
            ``(..., examples)``.
        drop: d, the loss that is to be refuted, in [-1, 1]; one, or an array that goes with ``(...)``.
        confidence: 1 - alpha.

    Returns:
        The wealth, of the shape of both, ``(...)``.

    Raises:
        ValueError: A loss is outside of [-1, 1].
    """
    from scipy.special import ndtri

    losses = np.asarray(losses, dtype=np.float64)
    if losses.size and not np.abs(losses).max() <= 1:
        raise ValueError("Losses lie in [-1, 1].")
    x, least, count = (losses + 1) / 2, (1 + np.asarray(drop, dtype=np.float64)) / 2, losses.shape[-1]
    seen = np.arange(count) + _WEIGHT + 1
    around = (x - (_WEIGHT / 2 + np.cumsum(x, axis=-1)) / seen) ** 2
    variance = (_VARIANCE * _WEIGHT + np.cumsum(around, axis=-1) - around) / (seen - 1)  # of the examples before
    most = _LARGEST / np.maximum(1 - least, 1e-9)
    have = np.full(np.broadcast_shapes(x.shape[:-1], least.shape), 1 - confidence)
    for number in range(count):
        share = np.clip(have / _GOAL, 1e-12, 1 - 1e-9)
        density = np.exp(-(ndtri(share) ** 2) / 2) / math.sqrt(2 * math.pi)
        stake = density / (share * np.sqrt((count - number) * variance[..., number]))
        have = have * (1 + np.where(have < 1, np.minimum(stake, most), 0) * (least - x[..., number]))
    return np.asarray(have / (1 - confidence))


def refuted(losses: Array, drop: Any, confidence: float) -> Any:
    """Whether a loss of ``drop`` or more is refuted at a confidence; arguments as of :func:`wealth`."""
    return wealth(losses, drop, confidence) * (1 - confidence) >= 1


def least_refuted(losses: Array, confidence: float) -> float:
    """The least drop from which on all are refuted, in [-1, 1], in steps of a tenth of a point; 1 where none is."""
    if not len(losses):
        return 1.0
    # What is lost on the examples themselves is hardly ever refuted by them.
    drops = np.arange(math.floor(float(np.mean(losses)) / _STEP), round(1 / _STEP) + 1) * _STEP
    kept = np.flatnonzero(~refuted(losses, drops, confidence))
    return min(1.0, float(drops[kept[-1]]) + _STEP) if len(kept) else float(drops[0])


def fewest(drop: float, confidence: float) -> int | None:
    """Examples from which on a model that never differs is certified; ``None`` where there are more than a million."""

    def do(count: int) -> bool:
        return bool(refuted(np.zeros(count), drop, confidence))

    high = 1
    while not do(high):
        if high >= _MOST:
            return None
        high *= 2
    return bisect.bisect_left(range(high), True, lo=high // 2 + 1, key=do)


def enough(losses: Array, drop: float, confidence: float) -> int | None:
    """About how many examples like these would refute a drop, four times of five.

    ``log(1 / alpha) / max_b mean(log(1 + b (m - X)))``: the examples after which the best constant stake has won
    enough.

    Returns:
        The number; ``None`` where no less than the drop is lost on these.
    """
    from scipy.optimize import minimize_scalar

    if not len(losses) or not float(np.mean(losses)) < drop:
        return None
    gains = (drop - np.asarray(losses, dtype=np.float64)) / 2  # m - X
    most = _LARGEST / max((1 - drop) / 2, 1e-9)
    growth = -minimize_scalar(lambda b: -np.mean(np.log1p(b * gains)), bounds=(0, most), method="bounded").fun
    return math.ceil(math.log(1 / (1 - confidence)) / growth) if growth > 0 else None
