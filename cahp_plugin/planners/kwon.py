"""Fisher masks, swaps and scales: Kwon et al., "A Fast Post-Training Pruning Framework for Transformers", 2022."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cahp_plugin.observe.conditioning import CONDITIONINGS
from cahp_plugin.observe.masks import unit_gradients
from cahp_plugin.observe.normal_equations import NormalEquations
from cahp_plugin.observe.objective import example_losses
from cahp_plugin.planners.base import Job, Planner, Proposal
from cahp_plugin.recover.pruned import pruned_copy
from cahp_plugin.recover.refit import refit
from cahp_plugin.units import PrunableLayer, prunable_layers
from cahp_plugin.units.linear import weight_of

#: Damping of the scales' least squares, and what a scale may be at most; both the paper's.
_DAMPING, _LARGEST = 1.0, 10.0


class Kwon(Planner):
    """Kwon et al. 2022 (arXiv 2204.09656), from the paper: mask search, rearrangement, tuning.

    The squared gradient of the loss by each unit's mask stands for what the unit is worth (diagonal Fisher
    information); heads and neurons are kept so that the sum of what goes is least under the budget (their algorithm
    1); within each layer units are swapped while that lowers the loss by the layer's whole Fisher matrix (one sweep);
    and each unit that stays is scaled, layer by layer, so that the layer's output is nearest to the dense model's.
    The scales' least-squares problem is solved by its normal equations in place of LSMR.
    """

    def propose(self, job: Job, *, repair: bool = False) -> Proposal:
        """See the base class."""
        conditioning = CONDITIONINGS["none"]  # the task's loss; predicted classes stand for those not labelled
        gradients = unit_gradients(
            job.model,
            job.layers,
            job.batches,
            lambda output, batch: example_losses(job.model, output, batch, conditioning),
        )
        places = search(job, {path: own.square().mean(0) for path, own in gradients.items()})
        places = {path: swapped(own, places[path]) for path, own in gradients.items()}
        kept = job.kept(places)
        if not repair:
            return Proposal(kept)
        start = time.perf_counter()
        model = pruned_copy(job.model, kept, job.batches[0])
        theirs = {layer.output_path: layer for layer in prunable_layers(job.model)}
        pairs = [
            (ours, theirs[ours.output_path])
            for ours in prunable_layers(model)
            if ours.present and len(ours.present) < len(theirs[ours.output_path].present)
        ]
        for _ in refit(model, job.model, pairs, job.batches, scales()) if pairs else ():
            pass
        return Proposal(kept, model, time.perf_counter() - start)


def search(job: Job, worth: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """The paper's algorithm 1: for every number of heads, as many neurons as fit; the one that loses least.

    Args:
        job: The model and the budget.
        worth: Path -> what each unit is worth.

    Returns:
        Path -> places of the units that stay.
    """
    costs, capacity = job.costs()
    ranked: dict[str, list[tuple[float, float, str, int]]] = {"heads": [], "neurons": []}
    for layer in job.layers:
        path = layer.output_path
        ranked[layer.noun] += [(-value, costs[path], path, place) for place, value in enumerate(worth[path].tolist())]
    heads, neurons = (sorted(own, key=lambda entry: entry[0]) for own in ranked.values())
    head_cost, neuron_cost = (np.cumsum([0.0, *(entry[1] for entry in own)]) for own in (heads, neurons))
    head_worth, neuron_worth = (np.cumsum([0.0, *(-entry[0] for entry in own)]) for own in (heads, neurons))
    allowed = int(np.searchsorted(head_cost, capacity * (1 + 1e-12), side="right"))
    counts = np.searchsorted(neuron_cost, capacity * (1 + 1e-12) - head_cost[:allowed], side="right") - 1
    most = int(np.argmax(head_worth[:allowed] + neuron_worth[counts]))
    kept: dict[str, list[int]] = {path: [] for path in worth}
    for _, _, path, place in [*heads[:most], *neurons[: counts[most]]]:
        kept[path].append(place)
    return kept


def swapped(gradients: Tensor, kept: list[int]) -> list[int]:
    """One sweep over the units that go: each is put in place of the one whose going costs least with all others.

    Args:
        gradients: Of each example by each unit's mask, ``(examples, units)``.
        kept: Places of the units that stay.
    """
    fisher = gradients.double().T @ gradients.double() / len(gradients)
    gone = torch.ones(len(fisher), dtype=torch.bool, device=fisher.device)
    gone[kept] = False
    own, shared = fisher.diagonal(), fisher[:, gone].sum(1)
    for place in sorted(gone.nonzero()[:, 0].tolist(), key=lambda place: float(own[place])):
        shared = shared - fisher[:, place]
        gone[place] = False
        best = int((2 * shared + own).masked_fill(gone, torch.inf).argmin())
        gone[best] = True
        shared = shared + fisher[:, best]
    return (~gone).nonzero()[:, 0].tolist()


def scales() -> Callable[[PrunableLayer, NormalEquations], tuple[Tensor, Tensor]]:
    """Solves for a scale of each unit in place of a weight, in the order of the layers.

    From the first layer on that gets a scale beyond 10, or none, weights stay as they are (the paper's).
    """
    stopped = False

    def solve(layer: PrunableLayer, left: NormalEquations) -> tuple[Tensor, Tensor]:
        nonlocal stopped
        weight = weight_of(layer.output).detach().double().cpu()
        none: Any = torch.zeros_like(weight), torch.zeros(len(weight), dtype=torch.float64)
        if stopped:
            return none
        count, size = len(layer.units), layer.unit_dim
        products = left.state["xx"].cpu() * (weight.T @ weight)
        normal = products.reshape(count, size, count, size).sum((1, 3))
        wanted = (left.state["yx"].cpu() * weight).sum(0).reshape(count, size).sum(1)
        change = torch.linalg.solve(normal + _DAMPING**2 * torch.eye(count, dtype=torch.float64), wanted)
        if not bool(((1 + change).abs() <= _LARGEST).all()):
            stopped = True
            return none
        return weight * change.repeat_interleave(size), none[1]

    return solve
