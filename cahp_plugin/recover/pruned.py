"""A model pruned, and repaired, in one go."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from cahp_plugin.observe.batches import Batch
from cahp_plugin.prune import CAHPImportance, CAHPPruner
from cahp_plugin.recover.closed_form import recover_least_squares
from cahp_plugin.units import KeptSet, prunable_layers


def keeps_all(model: Any, kept: KeptSet) -> bool:
    """Whether a set keeps every unit that a model has."""
    return all(
        set(layer.present) <= set(getattr(kept, layer.noun).get(layer.index, layer.present))
        for layer in prunable_layers(model)
    )


def prune_to(model: Any, kept: KeptSet, batch: Batch) -> None:
    """Removes the units that are not kept, in place; a set that keeps all leaves the model."""
    if not keeps_all(model, kept):
        inputs = batch.rows(torch.tensor([0])).inputs_on(model.device)
        CAHPPruner(model, inputs, importance=CAHPImportance(kept)).step()


def pruned_copy(dense: Any, kept: KeptSet, batch: Batch) -> Any:
    """A copy of a model without the units that are not kept; a set that keeps all gives a plain copy."""
    model = copy.deepcopy(dense)
    prune_to(model, kept, batch)
    return model


def prune_and_repair(model: Any, dense: Any, kept: KeptSet, batches: Sequence[Batch]) -> None:
    """Removes what is not kept, in place, and repairs the model by least squares towards the dense one.

    Args:
        model: A copy of the dense model, pruned before or not.
        dense: The dense model.
        kept: What is to stay.
        batches: Examples that the repair is fitted on.
    """
    prune_to(model, kept, batches[0])
    recover_least_squares(model, dense, [batch.inputs for batch in batches], num_examples=sum(map(len, batches)))
