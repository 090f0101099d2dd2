"""Whole models, pruned and repaired on a copy, and held against the dense one."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from cahp_plugin.errors import PruningError
from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.suffix import tensors_in
from cahp_plugin.observe.walk import MEMORY
from cahp_plugin.plan.compared import Compared
from cahp_plugin.plan.knapsack import Array
from cahp_plugin.plan.plan import Plan
from cahp_plugin.prune.surgery import record_cut, shrink_layer
from cahp_plugin.recover.refit import refit
from cahp_plugin.recover.state import at_rest
from cahp_plugin.units import prunable_layers
from cahp_plugin.units.state import call_options


class Trials:
    """Copies of a model, each cut to some sizes and repaired by least squares.

    Args:
        model: The dense model; unchanged.
        plan: Its plan.
        fitted: Examples that repairs are fitted on, on the model's device.
        held_out: Examples that outputs are compared on.
        compared: What is compared.

    Attributes:
        known: Sizes -> divergences of those that were tried.
    """

    def __init__(
        self, model: Any, plan: Plan, fitted: Sequence[Batch], held_out: Sequence[Batch], compared: Compared
    ) -> None:
        self.model, self.plan, self.held_out = model, plan, list(held_out)
        self._fitted, self._compared = list(fitted), compared
        self.known: dict[tuple[int, ...], Array] = {}
        self._dense: dict[int, Any] = {}

    @contextlib.contextmanager
    def repaired(self, sizes: Sequence[int]) -> Iterator[Any]:
        """A copy of the model with these sizes, repaired."""
        with at_rest(self.model):
            model = copy.deepcopy(self.model)
            dense = {layer.output_path: layer for layer in prunable_layers(self.model)}
            ours = {layer.output_path: layer for layer in prunable_layers(model)}
            cut = [
                (layer, size) for layer, size in zip(self.plan.layers, sizes, strict=True) if size < len(layer.order)
            ]
            pairs = []
            for layer, size in cut:
                shrink_layer(model, ours[layer.path], layer.units(size))
                left = dataclasses.replace(ours[layer.path], present=tuple(layer.units(size)))
                pairs.append((left, dense[layer.path]))
            for _ in refit(model, self.model, pairs, self._fitted, self.plan.ridge) if pairs else ():
                pass
            if pairs:
                record_cut(self.model, model.config, [left for left, _ in pairs])
            yield model

    def divergences(self, sizes: Sequence[int]) -> Array:
        """Distance of each held-out example's outputs from the dense model's, ``(examples,)``.

        Raises:
            PruningError: One is not finite.
        """
        key = tuple(sizes)
        if key not in self.known:
            with self.repaired(sizes) as model:
                self.known[key] = self.against_dense(model)
        return self.known[key]

    def against_dense(self, model: Any) -> Array:
        """The same for any model of the same task."""
        options = call_options(type(self.model))
        with torch.inference_mode():
            found = [
                self._compared.of(model(**batch.inputs, **options), self._theirs(number), batch)
                for number, batch in enumerate(self.held_out)
            ]
        values: Array = torch.cat(found).double().cpu().numpy()
        if not np.isfinite(values).all():
            raise PruningError("The pruned model's outputs are not finite.")
        return values

    def _theirs(self, number: int) -> Any:
        """The dense model's outputs of a batch, which are remembered where those of all are few."""
        if number in self._dense:
            return self._dense[number]
        found = self.model(**self.held_out[number].inputs, **call_options(type(self.model)))
        if sum(tensor.nbytes for tensor in tensors_in(found)) * len(self.held_out) <= MEMORY:
            self._dense[number] = found
        return found
