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
from cahp_plugin.recover.refit import least_squares, refit
from cahp_plugin.recover.state import at_rest
from cahp_plugin.units import prunable_layers
from cahp_plugin.units.state import call_options


class Reference:
    """A dense model's outputs, that others' are held against; remembered where those of all batches are few.

    Args:
        model: The dense model, at rest.
        batches: Examples, on its device.
        compared: What is compared.
    """

    def __init__(self, model: Any, batches: Sequence[Batch], compared: Compared) -> None:
        self._model, self._batches, self._compared = model, list(batches), compared
        self._options = call_options(type(model))
        self._known: dict[int, Any] = {}

    def divergences(self, model: Any) -> Array:
        """Distance of each example's outputs from the dense model's, ``(examples,)``, in the order of the batches.

        Raises:
            PruningError: One is not finite.
        """
        with torch.inference_mode():
            found = [
                self._compared.of(model(**batch.inputs, **self._options), self._theirs(number), batch)
                for number, batch in enumerate(self._batches)
            ]
        values: Array = torch.cat(found).double().cpu().numpy()
        if not np.isfinite(values).all():
            raise PruningError("The pruned model's outputs are not finite.")
        return values

    def _theirs(self, number: int) -> Any:
        if number in self._known:
            return self._known[number]
        found = self._model(**self._batches[number].inputs, **self._options)
        if sum(tensor.nbytes for tensor in tensors_in(found)) * len(self._batches) <= MEMORY:
            self._known[number] = found
        return found


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
        self._fitted, self._reference = list(fitted), Reference(model, held_out, compared)
        self.known: dict[tuple[int, ...], Array] = {}

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
            for _ in refit(model, self.model, pairs, self._fitted, least_squares(self.plan.ridge)) if pairs else ():
                pass
            if pairs:
                record_cut(self.model, model.config, [left for left, _ in pairs])
            yield model

    @contextlib.contextmanager
    def as_saved(self, sizes: Sequence[int]) -> Iterator[Any]:
        """The same in the model's own precision, as it is written."""
        types = {name: tensor.dtype for name, tensor in self.model.state_dict().items()}
        with self.repaired(sizes) as model:
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                tensor.data = tensor.data.to(types.get(name, tensor.dtype))
            yield model

    def divergences(self, sizes: Sequence[int]) -> Array:
        """Distance of each held-out example's outputs from the dense model's, ``(examples,)``.

        Raises:
            PruningError: One is not finite.
        """
        key = tuple(sizes)
        if key not in self.known:
            with self.repaired(sizes) as model:
                self.known[key] = self._reference.divergences(model)
        return self.known[key]
