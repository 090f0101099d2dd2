"""Heads scored by salience and by how focused their attention is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging

from cahp_plugin.selectors.ranking import RankingImportance
from cahp_plugin.errors import ConfigError, DataError, SelectionError
from cahp_plugin.selectors.cahp.salience import normalize_salience
from cahp_plugin.observe.batches import read_inputs
from cahp_plugin.observe.maps import attention_maps, map_arguments
from cahp_plugin.observe.observation import frozen_eval
from cahp_plugin.units import attention_layers

Array = np.ndarray[Any, Any]


def attention_entropy(model: Any, dataloader: Iterable[Mapping[str, Any]]) -> Array:
    """Mean entropy of each head's attention rows over the largest that they could have.

    For an example of n real tokens, the row of each real query has the entropy ``-sum_j a_j ln a_j`` over the n real
    keys, divided by ``ln n``; for ``n = 1`` it is 0. Means are taken over an example's queries, then over examples
    (and over the depths of a model whose depths share a layer). One pass; no map is kept.

    Args:
        model: A model; unchanged.
        dataloader: Dict batches; labels are not looked at.

    Returns:
        Shares in [0, 1], shape ``(num_layers, num_original_heads)``; NaN for absent heads.

    Raises:
        DataError: There is no batch, or a layer's maps are not numbers.
    """
    layers = attention_layers(model)
    present = [layer for layer in layers if layer.heads]
    sums = [torch.zeros(len(layer.heads), dtype=torch.float64) for layer in present]
    counts = [0] * len(present)
    device = next(model.parameters()).device
    with frozen_eval(model), torch.inference_mode():
        for batch in logging.tqdm(read_inputs(dataloader, model), desc="Measuring entropy", unit="batch"):
            mask = batch.mask.to(device)

            def consume(position: int, maps: Tensor, mask: Tensor = mask) -> None:
                # Images and audio have no mask: all their tokens are real.
                real = mask if mask.shape[1] else mask.new_ones(len(maps), maps.shape[-1])
                entropies = row_entropies(maps, real)
                if not bool(torch.isfinite(entropies).all()):
                    raise DataError(
                        f"The attention maps of layer {present[position].index} are not numbers (NaN or infinite). "
                        "Check the model's weights, and its dtype: half precision overflows in some models."
                    )
                sums[position] += entropies.double().sum(dim=0).cpu()
                counts[position] += len(entropies)

            with attention_maps(model, layers, consume):
                model(**batch.inputs_on(device), **map_arguments(model, layers))
    table = np.full((len(layers), max(layer.num_original_heads for layer in layers)), np.nan)
    for layer, total, count in zip(present, sums, counts, strict=True):
        table[layer.index, list(layer.heads)] = total.numpy() / count
    return table


def row_entropies(maps: Tensor, mask: Tensor) -> Tensor:
    """Each example's mean row entropy over ``ln n``; the arithmetic of :func:`attention_entropy`.

    Args:
        maps: Attention maps, shape ``(batch, heads, tokens, tokens)``.
        mask: Real tokens, bool of shape ``(batch, tokens)``, at least one a row.

    Returns:
        Shape ``(batch, heads)``.
    """
    lengths = mask.sum(dim=1).to(maps.dtype)
    maps = maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps
    rows = -torch.special.xlogy(maps, maps).masked_fill(~mask[:, None, None, :], 0).sum(dim=-1)
    means = rows.masked_fill(~mask[:, None, :], 0).sum(dim=-1) / lengths[:, None]
    # A row over a single key has no entropy, and ln 1 = 0 may not divide it.
    return means / lengths.log().clamp_min(torch.finfo(means.dtype).eps)[:, None] * (lengths > 1)[:, None]


class HIESImportance(RankingImportance):
    """Head Importance-Entropy Score: salience and focused attention, mixed.

    ``alpha minmax(w) + (1 - alpha) (1 - minmax(e))``, with the salience w and the normalised attention entropy e of
    each head, both scaled over all heads (Choi, Son, Kim, Kim, "Entropy Meets Importance", arXiv 2510.13832).

    Note:
        The weight of the paper's own runs could not be confirmed; ``alpha`` is 0.5, the even mix, by default.

    Args:
        salience: ``HeadSelection.salience``, of shape ``(num_layers, num_original_heads)``.
        entropy: From :func:`attention_entropy`, same shape.
        num_heads: Heads to keep, a count or a share in (0, 1).
        alpha: Weight of the salience, in [0, 1].
        min_heads_per_layer: Heads that each layer keeps at least.

    Raises:
        ConfigError: ``alpha`` is out of its range.
        SelectionError: The shapes differ, or the number does not fit the heads there are.
    """

    def __init__(
        self,
        salience: Array,
        entropy: Array,
        num_heads: int | float,
        *,
        alpha: float = 0.5,
        min_heads_per_layer: int = 1,
    ) -> None:
        if not 0 <= alpha <= 1:
            raise ConfigError(f"`alpha` must be a number in [0, 1]; got {alpha}.")
        if np.shape(salience) != np.shape(entropy):
            raise SelectionError(
                f"`salience` has the shape {np.shape(salience)} and `entropy` {np.shape(entropy)}; both must be "
                "(layers, heads) of one model."
            )
        focus = 1 - normalize_salience(np.asarray(entropy))
        scores = alpha * normalize_salience(np.asarray(salience)) + (1 - alpha) * focus
        super().__init__(scores, num_heads, min_heads_per_layer=min_heads_per_layer)
