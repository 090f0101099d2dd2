"""Heads chosen by what the others can't make up for: greedy removal by the exact error of the refitted layer."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from transformers.utils import logging

from cahp_plugin.errors import ConfigError
from cahp_plugin.observe.grams import HeadGrams
from cahp_plugin.observe.streams import calibration_batches
from cahp_plugin.observe.sums import accumulate
from cahp_plugin.selectors.base import Needs, Ranked, Selector, View
from cahp_plugin.selectors.elimination import eliminate
from cahp_plugin.units import AttentionLayer, KeptSet
from cahp_plugin.units.counts import HeadUnits
from cahp_plugin.units.linear import weight_of

logger = logging.get_logger(__name__)

#: Least ridge, relative to the mean square of a channel: a singular Gram matrix stays invertible.
_LEAST_RIDGE = 1e-10


@dataclasses.dataclass(frozen=True)
class Obs(Selector):
    """Optimal Brain Surgeon for heads: removes, one after the other, the head whose loss a refit repairs best.

    In each layer the output projection is refitted by least squares to its own dense output after every removal (in
    closed form: only the inverse of the Gram matrix changes). The next head to go, of all layers, is the one whose
    removal adds least to the squared error over the variance of the residual stream behind its layer. No labels, no
    gradient. Follow it by :func:`cahp_plugin.recover_least_squares`, which does the refit that it counts on.

    After Hassibi and Stork 1993 (OBS), for blocks of weights as in Kurtic et al. 2023 (ZipLM, eq. 3).

    Args:
        num_examples: Examples used.
        ridge: Strength of a ridge, relative to the mean square of a channel; 1e-10 at least is taken, so that heads
            that copy each other, or too few tokens, have an answer.

    Raises:
        ConfigError: ``ridge`` or ``num_examples`` is out of its range.
    """

    num_examples: int = 384
    ridge: float = 1e-3

    name = "obs"
    needs = Needs.DATA
    seeded = True

    def __post_init__(self) -> None:
        if not self.ridge >= 0 or self.num_examples < 1:
            raise ConfigError(
                f"`ridge` must be at least 0 and `num_examples` at least 1; got {self.ridge} and {self.num_examples}."
            )

    def _fit(self, view: View, seed: int) -> FittedObs:
        batches = calibration_batches(view.shuffled(seed), view.model, self.num_examples)
        layers = [layer for layer in view.layers if layer.heads]
        grams = HeadGrams(view.model, layers)
        accumulate(view.model, batches, [grams], "Measuring heads")
        widest = max(layers, key=lambda layer: len(layer.heads) * layer.size)
        channels, tokens = len(widest.heads) * widest.size, grams.state[widest.index].count
        if tokens < 2 * channels:
            logger.warning(
                f"{tokens} tokens for {channels} channels: too few to tell the heads apart well. Give more examples "
                "(`num_examples`)."
            )
        costs = {}
        for layer in layers:
            gram, variance = grams.state[layer.index].centred()
            costs[layer.index] = _costs(layer, gram, variance or 1.0, self.ridge)
        return FittedObs(view.units, costs)


def _costs(layer: AttentionLayer, gram: Tensor, scale: float, ridge: float) -> list[tuple[int, float]]:
    """One layer's units in the order in which they go, the first head of each, and the relative error that each adds.

    Args:
        layer: The layer.
        gram: Centred Gram matrix of the heads' outputs: ``(channels, channels)``, float64.
        scale: Variance of the residual stream, summed over tokens.
        ridge: As in :class:`Obs`.
    """
    strength = max(ridge, _LEAST_RIDGE) * float(gram.diagonal().mean()) or 1e-12
    weight = weight_of(layer.output).detach().double().cpu()
    found = eliminate(gram + strength * torch.eye(len(gram)), weight, layer.group_size * layer.size)
    gone = zip(found.order, found.costs.tolist(), strict=True)
    return [(layer.units[unit][0], cost / scale) for unit, cost in gone]


class FittedObs(Ranked):
    """The order in which heads go.

    Args:
        units: What there is to choose among.
        costs: Layer -> its units in the order in which they go, by their first head, and the error that each adds.
    """

    def __init__(self, units: HeadUnits, costs: dict[int, list[tuple[int, float]]]) -> None:
        self._costs = costs
        rows = {place: row for row, place in enumerate(units.firsts)}
        waiting = {layer: list(gone) for layer, gone in costs.items()}
        scores = [0.0] * len(rows)
        for score in range(len(rows)):
            # The minimum of a layer stays to the end; each that goes is worth more than those that went before.
            open_layers = [layer for layer, left in waiting.items() if len(left) > units.min_units]
            layer = min(open_layers or [layer for layer, left in waiting.items() if left],
                        key=lambda layer: waiting[layer][0][1])  # fmt: skip
            scores[rows[layer, waiting[layer].pop(0)[0]]] = float(score)
        super().__init__(units, scores)

    def errors(self, kept: KeptSet) -> dict[int, float]:
        """Layer -> relative error of its refitted output where the others are gone."""
        return {
            layer: sum(cost for head, cost in gone if head not in kept.heads[layer])
            for layer, gone in self._costs.items()
        }
