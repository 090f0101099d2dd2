"""One size for each layer, by dynamic programming."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_BINS = 10_000


def allocate(costs: Sequence[Array], losses: Sequence[Array], capacity: float, bins: int = _BINS) -> list[int] | None:
    r"""Solves the multiple-choice knapsack problem: one choice a layer, the least loss under a capacity.

    .. math:: \min \sum_i \mathrm{loss}_i(c_i) \quad \mathrm{s.t.} \quad \sum_i \mathrm{cost}_i(c_i) \le C

    What the cheapest choices leave of the capacity is cut into bins, and costs are rounded up to whole bins: the
    capacity is never passed, and at most one bin a layer is left unused.

    Args:
        costs: For each layer, the cost of each choice.
        losses: The same for the loss.
        capacity: C.
        bins: Number of bins.

    Returns:
        The choice of each layer; of equal ones the first. ``None`` where the cheapest cost more than the capacity.
    """
    best_of_all = [int(np.argmin(loss)) for loss in losses]
    if sum(float(own[place]) for own, place in zip(costs, best_of_all, strict=True)) <= capacity:
        return best_of_all  # however the costs fall between the bins
    least = [float(own.min()) for own in costs]
    room = capacity - sum(least)
    if room < -1e-9 * abs(capacity):
        return None
    bin_size = max(room, 0.0) / bins or np.finfo(np.float64).tiny
    best, choices = np.zeros(bins + 1), []
    for own, loss, cheapest in zip(costs, losses, least, strict=True):
        with np.errstate(over="ignore"):
            needed = np.ceil(np.minimum((own - cheapest) / bin_size - 1e-9, bins + 1)).astype(np.int64)
        found = np.full(bins + 1, np.inf)
        chosen = np.zeros(bins + 1, dtype=np.int64)
        for choice, (taken, value) in enumerate(zip(needed, loss, strict=True)):
            if taken <= bins:
                total = np.full(bins + 1, np.inf)
                total[taken:] = best[: bins + 1 - taken] + value
                better = total < found
                found[better], chosen[better] = total[better], choice
        best = found
        choices.append((chosen, needed))
    place, picked = bins, []
    for chosen, needed in reversed(choices):
        picked.append(int(chosen[place]))
        place -= int(needed[picked[-1]])
    return picked[::-1]
