"""Heads chosen by what the others can't make up for: greedy removal by the exact error of the refitted layer."""

from __future__ import annotations

import dataclasses
import heapq

import numpy as np
from transformers.utils import logging

from cahp_plugin.errors import ConfigError
from cahp_plugin.observe.grams import HeadGrams
from cahp_plugin.observe.streams import calibration_batches
from cahp_plugin.observe.sums import accumulate
from cahp_plugin.selectors.base import Needs, Ranked, Selector, View
from cahp_plugin.selectors.elimination import eliminate_units

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

    def _fit(self, view: View, seed: int) -> Ranked:
        # The minimum of a layer stays to the end; each that goes is worth more than those that went before.
        least, gone = view.units.min_units, self.costs(view, seed)
        early, late = (
            [own[: max(0, len(own) - least)] for own in gone],
            [own[max(0, len(own) - least) :] for own in gone],
        )
        scores = np.empty(len(view.units.firsts))
        scores[[row for _, row in (*heapq.merge(*early), *heapq.merge(*late))]] = np.arange(len(scores))
        return Ranked(view.units, scores)

    def costs(self, view: View, seed: int) -> list[list[tuple[float, int]]]:
        """What the heads cost.

        Returns:
            For each layer with heads, its units in the order in which they go: the relative error that each adds, and
            its row.

        Raises:
            DataError: The data can't be used.
            PruningError: Activations are not finite.
        """
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
        found, row = [], 0
        for layer in layers:
            gram, variance = grams.state[layer.index].centred()
            gone = eliminate_units(layer, gram, max(self.ridge, _LEAST_RIDGE))
            scaled = (gone.costs / (variance or 1.0)).tolist()
            found.append([(cost, row + unit) for cost, unit in zip(scaled, gone.order, strict=True)])
            row += len(layer.units)
        return found
