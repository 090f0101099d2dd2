"""Importances that score every head by itself and keep the best."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cahp_plugin.errors import SelectionError
from cahp_plugin.prune import CAHPImportance
from cahp_plugin.units import attention_layers
from cahp_plugin.units.linear import weight_of

Array = np.ndarray[Any, Any]


def head_count(asked: int | float, present: int, least: int) -> int:
    """Number of heads that a count or a share asks for.

    Args:
        asked: A count, or a share in (0, 1) of the heads present.
        present: Heads present.
        least: Heads that the layers' minimum takes.

    Raises:
        SelectionError: There are not as many, or the minimum takes more.
    """
    share = isinstance(asked, float)
    if share and not 0 < asked < 1:
        raise SelectionError(f"`num_heads` as a share must be in (0, 1); got {asked}.")
    wanted = max(1, math.floor(asked * present + 0.5)) if share else int(asked)
    if not 0 <= wanted <= present:
        raise SelectionError(f"`num_heads` asks for {wanted} heads; the model has {present}.")
    if wanted < least:
        raise SelectionError(
            f"`num_heads` asks for {wanted} heads, but `min_heads_per_layer` takes {least}. Lower the minimum; 0 lets "
            "whole layers go."
        )
    return wanted


class RankingImportance(CAHPImportance):
    """Keeps the heads with the highest scores, in all layers together.

    Args:
        scores: Score of each head, of shape ``(num_layers, num_original_heads)``; NaN where there is none.
        num_heads: Heads to keep, a count or a share in (0, 1).
        min_heads_per_layer: Heads that each layer keeps at least, its best ones.

    Attributes:
        scores: As given.
        kept: The heads to keep.

    Raises:
        SelectionError: The number does not fit the heads there are.
    """

    def __init__(self, scores: Array, num_heads: int | float, *, min_heads_per_layer: int = 1) -> None:
        self.scores = np.asarray(scores, dtype=np.float64)
        if self.scores.ndim != 2:
            raise SelectionError(f"`scores` must have the shape (layers, heads); got {self.scores.shape}.")
        # Absent heads leave before the sorting: NaN is neither above nor below anything.
        places = [(int(layer), int(head)) for layer, head in np.argwhere(~np.isnan(self.scores))]
        order = sorted(places, key=lambda place: -self.scores[place])
        first: list[tuple[int, int]] = []
        for layer in range(len(self.scores)):
            first += [place for place in order if place[0] == layer][:min_heads_per_layer]
        wanted = head_count(num_heads, len(order), len(first))
        chosen = (first + [place for place in order if place not in first])[:wanted]
        super().__init__({layer: [head for at, head in chosen if at == layer] for layer in range(len(self.scores))})


class SalienceImportance(RankingImportance):
    """Mean absolute gradient of the loss by each head's mask, ranked over all layers (Michel et al. 2019, eq. 2).

    Args:
        salience: ``HeadSelection.salience``, of shape ``(num_layers, num_original_heads)``.
        num_heads: Heads to keep, a count or a share in (0, 1).
        min_heads_per_layer: Heads that each layer keeps at least.
    """


class MichelImportance(RankingImportance):
    """Salience over the l2 norm of its layer's, ranked over all layers.

    Michel, Levy, Neubig, "Are Sixteen Heads Really Better than One?", NeurIPS 2019, section 4.1, after Molchanov et
    al. 2017; one-shot.

    Args:
        salience: ``HeadSelection.salience``, of shape ``(num_layers, num_original_heads)``.
        num_heads: Heads to keep, a count or a share in (0, 1).
        min_heads_per_layer: Heads that each layer keeps at least.
    """

    def __init__(self, salience: Array, num_heads: int | float, *, min_heads_per_layer: int = 1) -> None:
        norms = np.sqrt(np.nansum(np.square(salience), axis=1, keepdims=True))
        scores = np.asarray(salience) / np.where(norms > 0, norms, 1.0)
        super().__init__(scores, num_heads, min_heads_per_layer=min_heads_per_layer)


class RandomImportance(RankingImportance):
    """Heads drawn at random: uniform scores.

    Args:
        model: The model, for the heads that it has.
        num_heads: Heads to keep, a count or a share in (0, 1).
        seed: Seed of the draw.
        min_heads_per_layer: Heads that each layer keeps at least.
    """

    def __init__(self, model: Any, num_heads: int | float, *, seed: int = 0, min_heads_per_layer: int = 1) -> None:
        scores = _empty_scores(model)
        generator = np.random.default_rng(seed)
        for layer in attention_layers(model):
            scores[layer.index, list(layer.heads)] = generator.random(len(layer.heads))
        super().__init__(scores, num_heads, min_heads_per_layer=min_heads_per_layer)


class MagnitudeImportance(RankingImportance):
    """Frobenius norm of each head's columns of the output projection.

    The weight-magnitude criterion of Han et al. 2015, grouped by heads as Torch-Pruning's ``GroupMagnitudeImportance``
    does.

    Args:
        model: The model.
        num_heads: Heads to keep, a count or a share in (0, 1).
        min_heads_per_layer: Heads that each layer keeps at least.
    """

    def __init__(self, model: Any, num_heads: int | float, *, min_heads_per_layer: int = 1) -> None:
        scores = _empty_scores(model)
        for layer in attention_layers(model):
            if layer.heads:
                columns = weight_of(layer.output).detach().float().unflatten(1, (len(layer.heads), layer.head_dim))
                scores[layer.index, list(layer.heads)] = columns.square().sum(dim=(0, 2)).sqrt().cpu().numpy()
        super().__init__(scores, num_heads, min_heads_per_layer=min_heads_per_layer)


def _empty_scores(model: Any) -> Array:
    layers = attention_layers(model)
    return np.full((len(layers), max(layer.num_original_heads for layer in layers)), np.nan)
