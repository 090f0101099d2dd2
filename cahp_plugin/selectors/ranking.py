"""Selectors that score every head by itself and keep the best."""

from __future__ import annotations

import numpy as np

from cahp_plugin.selectors.base import Needs, Ranked, Selector, View
from cahp_plugin.units.linear import weight_of


class Salient(Selector):
    """Mean absolute gradient of the loss by each head's mask, ranked over all layers (Michel et al. 2019, eq. 2)."""

    name = "salience"
    needs = Needs.DATA | Needs.EVIDENCE

    def _fit(self, view: View, seed: int) -> Ranked:
        return Ranked(view.units, view.evidence.salience)


class SalientInLayer(Selector):
    """Salience over the l2 norm of its layer's, ranked over all layers.

    Michel, Levy, Neubig, "Are Sixteen Heads Really Better than One?", NeurIPS 2019, section 4.1, after Molchanov et
    al. 2017; one-shot.
    """

    name = "salience-layernorm"
    needs = Salient.needs

    def _fit(self, view: View, seed: int) -> Ranked:
        return Ranked(view.units, over_layer_norm(view.evidence.salience, view.units.layers))


def over_layer_norm(salience: np.ndarray, layers: tuple[int, ...]) -> np.ndarray:
    """Divides each unit's salience by the l2 norm of its layer's: ``(N,)``; zero where all of a layer are zero."""
    index = np.asarray(layers)
    norms = np.sqrt(np.bincount(index, weights=np.square(salience)))[index]
    return salience / np.where(norms > 0, norms, 1.0)


class Random(Selector):
    """Heads drawn at random: uniform scores."""

    name = "random"
    seeded = True

    def _fit(self, view: View, seed: int) -> Ranked:
        return Ranked(view.units, np.random.default_rng(seed).random(len(view.units.firsts)))


class Magnitude(Selector):
    """Frobenius norm of each unit's columns of the output projection.

    The weight-magnitude criterion of Han et al. 2015, grouped by heads as Torch-Pruning's ``GroupMagnitudeImportance``
    does.
    """

    name = "magnitude"

    def _fit(self, view: View, seed: int) -> Ranked:
        scores: list[float] = []
        for layer in view.layers:
            if layer.heads:
                columns = weight_of(layer.output).detach().float().unflatten(1, (len(layer.units), -1))
                scores += columns.square().sum(dim=(0, 2)).sqrt().tolist()
        return Ranked(view.units, scores)
