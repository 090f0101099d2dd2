"""Betters the sizes of a plan by whole models, pruned and repaired.

The sum of the layers' losses, each measured with all others whole, says nothing of how they go together: what a repair
makes up for, and what one layer's error does to the next. So some weights of the layers are tried, each of which gives
other sizes of the same cost, and those are kept whose repaired model is nearer to the dense one: exchanges of sizes
between layers, as in ZipLM (Kurtic et al. 2023) and Tyr (2025), with the budget met exactly at every step.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from transformers.utils import logging

from cahp_plugin.config import PlanSettings
from cahp_plugin.plan.knapsack import Array
from cahp_plugin.plan.plan import Plan

logger = logging.get_logger(__name__)

#: What the losses of a group of layers are multiplied by.
_FACTORS = (1 / 2, 2.0)
#: Standard errors of the paired difference that sizes have to be better by: the best of many is good by chance alone.
_SURE = 1.0


@dataclasses.dataclass(frozen=True)
class Refined:
    """What came of it.

    Attributes:
        sizes: The sizes, one a layer.
        weights: What each layer's losses counted for them.
        trials: Whole models that were compared.
        before: Mean divergence of the model of the plan's own sizes, repaired, from the dense one.
        after: That of these sizes.
        seconds: Wall-clock seconds.
        complete: Whether no limit of time ended it.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    trials: int
    before: float
    after: float
    seconds: float
    complete: bool = True


def refine(
    plan: Plan,
    solve: Callable[[Array], tuple[int, ...]],
    divergences: Callable[[Sequence[int]], Array],
    settings: PlanSettings,
) -> Refined:
    """Looks for sizes of the same cost whose repaired model is nearer to the dense one.

    Args:
        plan: The plan.
        solve: Weights of the layers -> sizes under the budget.
        divergences: Sizes -> divergence of each held-out example.
        settings: How long it may take.
    """
    start = time.perf_counter()
    weights = np.ones(len(plan.layers))
    sizes = solve(weights)
    values = first = divergences(sizes)
    tried, complete = {sizes}, True
    moves, vain = deque(_tilts(plan)), 0
    bar = logging.tqdm(total=settings.refine, desc="Refining", unit="model")
    while len(tried) <= settings.refine and vain < len(moves):
        if settings.refine_minutes is not None and time.perf_counter() - start > 60 * settings.refine_minutes:
            complete = False
            break
        other = solve(weights * moves[0])
        vain += 1
        if other not in tried:
            tried.add(other)
            found = divergences(other)
            bar.update()
            gain = values - found
            if gain.mean() > _SURE * gain.std(ddof=1) / np.sqrt(len(gain)):  # and on in the same direction
                weights, sizes, values, vain = weights * moves[0], other, found, 0
                continue
        moves.rotate(-1)
    bar.close()
    return Refined(
        sizes, tuple(weights.tolist()), len(tried) - 1, float(first.mean()), float(values.mean()),
        time.perf_counter() - start, complete,
    )  # fmt: skip


def _tilts(plan: Plan) -> Iterator[Array]:
    """Factors for the layers: of one kind of units in the front or in the back, of both, then of single layers."""
    heads = np.array([layer.kind == "heads" for layer in plan.layers])
    last = {layer.kind: layer.index for layer in sorted(plan.layers, key=lambda layer: layer.index)}
    front = np.array([2 * layer.index < last[layer.kind] for layer in plan.layers])
    quarters = [~heads & ~front, heads & ~front, ~heads & front, heads & front]
    for group in (*quarters, heads, front, *np.eye(len(plan.layers), dtype=bool)):
        for factor in _FACTORS:
            yield np.where(group, factor, 1.0)
