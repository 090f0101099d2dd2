"""Gram matrices of what the heads of each layer put out."""

from __future__ import annotations

import torch

from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.normal_equations import NormalEquations
from cahp_plugin.observe.streams import check_finite, layer_tokens
from cahp_plugin.observe.sums import Accumulator


class HeadGrams(Accumulator):
    """Products of what goes into each layer's output projection, and of the residual stream behind it, over tokens.

    ``state`` has the :class:`NormalEquations` of each layer, by its index.

    Args:
        model: The model.
        layers: The layers, of one kind.
    """

    @torch.inference_mode()
    def update(self, batch: Batch) -> None:
        """See the base class.

        Raises:
            PruningError: A layer has activations that are not finite.
        """
        seen = layer_tokens(self.model, self.layers, batch)
        for layer in self.layers:
            found = seen[layer.output_path]
            check_finite(layer, found.behind)
            equations = NormalEquations()
            equations.add(found.context, found.behind)
            self.plus(layer.index, equations)
