"""Heads scored by salience and by how focused their attention is."""

from __future__ import annotations

import dataclasses

import numpy as np

from cahp_plugin.errors import ConfigError
from cahp_plugin.observe.head_maps import Entropies
from cahp_plugin.observe.sums import accumulate
from cahp_plugin.selectors.base import Needs, Ranked, Selector, View
from cahp_plugin.selectors.cahp.salience import normalize_salience


@dataclasses.dataclass(frozen=True)
class HIES(Selector):
    """Head Importance-Entropy Score: salience and focused attention, mixed.

    ``alpha minmax(w) + (1 - alpha) (1 - minmax(e))``, with the salience w and the normalised attention entropy e of
    each head, both scaled over all heads (Choi, Son, Kim, Kim, "Entropy Meets Importance", arXiv 2510.13832).

    Note:
        The weight of the paper's own runs could not be confirmed; ``alpha`` is 0.5, the even mix, by default.

    Args:
        alpha: Weight of the salience, in [0, 1].

    Raises:
        ConfigError: ``alpha`` is out of its range.
    """

    alpha: float = 0.5

    name = "hies"
    needs = Needs.DATA | Needs.EVIDENCE

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"`alpha` must be a number in [0, 1]; got {self.alpha}.")

    def _fit(self, view: View, seed: int) -> Ranked:
        entropies = Entropies(view.model, view.layers)
        accumulate(view.model, view.prepared(view.conditioning_of(self.needs)), [entropies], "Measuring entropy")
        focus = 1 - normalize_salience(np.asarray(entropies.finish()))
        return Ranked(view.units, self.alpha * view.evidence.salience + (1 - self.alpha) * focus)
