"""Gram matrices of what the heads of each layer put out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.normal_equations import NormalEquations
from cahp_plugin.observe.streams import check_finite, layer_tokens
from cahp_plugin.observe.sums import Accumulator
from cahp_plugin.units import PrunableLayer


class HeadGrams(Accumulator):
    """Products of what goes into each layer's output projection, and of the residual stream behind it, over tokens.

    ``state`` has the :class:`NormalEquations` of each layer, by its index.

    Args:
        model: The model.
        layers: The layers, of one kind.
    """

    def __init__(self, model: Any, layers: Sequence[PrunableLayer]) -> None:
        super().__init__()
        self._model, self._layers = model, layers

    @torch.inference_mode()
    def update(self, batch: Batch) -> None:
        """See the base class.

        Raises:
            PruningError: A layer has activations that are not finite.
        """
        seen = layer_tokens(self._model, self._layers, batch)
        for layer in self._layers:
            found = seen[layer.output_path]
            check_finite(layer, found.behind)
            equations = NormalEquations()
            equations.add(found.context, found.behind)
            self.plus(layer.index, equations)
