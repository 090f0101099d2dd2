"""Pruning from the first sublayer to the last with a refit after each, in the manner of K-prune (Park et al. 2024)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cahp_plugin.errors import ConfigError
from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.masks import unit_gradients
from cahp_plugin.observe.streams import layer_tokens
from cahp_plugin.plan.compared import compared_of
from cahp_plugin.planners.base import Job, Planner, Proposal, best_first
from cahp_plugin.prune.surgery import shrink_layer
from cahp_plugin.recover.pruned import pruned_copy
from cahp_plugin.recover.refit import least_squares, refit
from cahp_plugin.tasks import known_task
from cahp_plugin.units import prunable_layers
from cahp_plugin.units.state import call_options

_SURE = 1e4
#: Tasks whose outputs are no distributions over classes.
_NO_CLASSES = ("feature-extraction", "text-regression", "multi-label-classification")


class KPrune(Planner):
    """K-prune-like (arXiv 2308.03449): sublayer by sublayer, by the Fisher information of the divergence, refitted.

    In front of every sublayer, the units of it and of all behind it are ranked by the squared gradient of the
    Kullback-Leibler divergence from the dense model, for their cost; what of this sublayer is not among those that
    fit the budget goes, and its output projection is refitted to the dense residual stream. The gradient is taken
    towards classes drawn from the dense model's distribution, for at the dense model that of the divergence itself is
    zero. Left out of the paper: its representational knowledge and the weights it is balanced with, its temperature.
    """

    def propose(self, job: Job, *, repair: bool = False) -> Proposal:
        """See the base class."""
        task = known_task(job.model)
        if task is None or task.name in _NO_CLASSES or not all("logits" in name for name in task.outputs):
            raise ConfigError(f"{type(job.model).__name__} predicts no classes: `kprune` has no meaning for it.")
        compared = compared_of(job.model)
        generator = torch.Generator().manual_seed(job.seed)
        options = call_options(type(job.model))
        drawn = {}
        with torch.no_grad():
            for batch in job.batches:
                output = job.model(**batch.inputs, **options)
                drawn[id(batch)] = {name: _drawn(output[name], generator) for name in task.outputs}

        def losses(output: Any, batch: Batch) -> Tensor:
            return compared.of(output, _sure(output, drawn[id(batch)]), batch)

        model = copy.deepcopy(job.model)
        by_path = {layer.output_path: layer for layer in prunable_layers(model)}
        dense = {layer.output_path: layer for layer in job.layers}
        costs, capacity = job.costs()
        with torch.no_grad():  # as the model runs them
            rest = [by_path[path] for path in layer_tokens(job.model, job.layers, job.batches[0])]
        places: dict[str, list[int]] = {}
        while rest:
            layer = rest[0]
            path = layer.output_path
            worth = {
                name: own.square().mean(0) for name, own in unit_gradients(model, rest, job.batches, losses).items()
            }
            places[path] = best_first(worth, costs, capacity)[path]
            capacity -= costs[path] * len(places[path])
            units = layer.units
            left = tuple(unit for place in places[path] for unit in units[place])
            if len(left) < len(layer.present):
                shrink_layer(model, layer, left)
                pair = dataclasses.replace(layer, present=left), dense[path]
                for _ in refit(model, job.model, [pair], job.fitted, least_squares(job.plan.ridge)):
                    pass
            rest = rest[1:]
        kept = job.kept(places)
        if not repair:
            return Proposal(kept)
        whole = pruned_copy(job.model, kept, job.batches[0])
        whole.load_state_dict(model.state_dict())
        return Proposal(kept, whole)


def _drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Classes drawn from the distributions that logits ``(..., classes)`` stand for, ``(...)``."""
    chances = logits.float().softmax(-1).flatten(0, -2).cpu()
    return torch.multinomial(chances, 1, generator=generator).reshape(logits.shape[:-1])


def _sure(output: Any, classes: Mapping[str, Tensor]) -> Any:
    """An output whose distributions are sure of classes."""
    found = copy.copy(output)
    for name, own in classes.items():
        logits = torch.zeros_like(output[name], dtype=torch.float32)
        setattr(found, name, logits.scatter_(-1, own.to(logits.device)[..., None], _SURE))
    return found
