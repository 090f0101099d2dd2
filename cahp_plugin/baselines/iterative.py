"""Heads removed a few at a time, with their salience measured anew and the rest repaired in between."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from cahp_plugin.architectures import attention_layers
from cahp_plugin.baselines.gates import heads_to_keep, masked_loss
from cahp_plugin.baselines.ranking import MichelImportance
from cahp_plugin.errors import ConfigError
from cahp_plugin.observe import PreparedBatches, prepare_batches
from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.observation import frozen_eval
from cahp_plugin.prune import CAHPImportance, CAHPPruner
from cahp_plugin.recover import recover_least_squares

Array = np.ndarray[Any, Any]


class IterativeSalienceImportance(CAHPImportance):
    """Iterative pruning by salience over the l2 norm of its layer's.

    Michel, Levy, Neubig, "Are Sixteen Heads Really Better than One?", NeurIPS 2019, section 4: the least salient
    heads go, a few at a time, and the salience (eq. 2, normalised in each layer) is measured anew before each round.
    Between rounds a copy of the model, pruned so far, is repaired by
    :func:`cahp_plugin.recover_least_squares` with the dense model for its target; the paper repairs nothing. Only
    the choice of heads comes out: the repair after the last round is the caller's.

    Args:
        model: A fine-tuned sequence classifier; unchanged.
        dataloader: Training set, labelled dict batches.
        num_heads: Heads to keep, a count or a share in (0, 1).
        min_heads_per_layer: Heads that each layer keeps at least.
        step: Heads removed in a round.
        num_examples: Examples that each repair is fitted on.
        salience_examples: Examples that each salience is measured on.

    Attributes:
        kept: Layer -> original indices of the heads to keep.
        rounds: Number of heads after each round.

    Raises:
        SelectionError: The number does not fit the heads there are.
        ConfigError: A number is out of its range.
        DataError: The data can't be used.
        PruningError: Activations are not finite.
    """

    def __init__(
        self,
        model: Any,
        dataloader: Iterable[Mapping[str, Any]],
        num_heads: int | float,
        *,
        min_heads_per_layer: int = 1,
        step: int = 6,
        num_examples: int = 384,
        salience_examples: int = 1024,
    ) -> None:
        if step < 1 or num_examples < 2 or salience_examples < 1:
            raise ConfigError(
                "`step` and `salience_examples` must be at least 1, `num_examples` at least 2; got "
                f"{step}, {salience_examples}, {num_examples}."
            )
        left, wanted = heads_to_keep(model, num_heads, min_heads_per_layer)
        batches = _first_examples(prepare_batches(dataloader, model), max(num_examples, salience_examples))
        measured, fitted = _cut(batches, salience_examples), [batch.inputs for batch in _cut(batches, num_examples)]
        inputs = batches[0].rows(torch.tensor([0])).inputs_on(next(model.parameters()).device)
        pruned = copy.deepcopy(model)
        rounds = list(range(left - step, wanted, -step)) + ([wanted] if wanted < left else [])
        for target in logging.tqdm(rounds, desc="Removing heads", unit="round"):
            salience = measure_salience(pruned, measured)
            importance = MichelImportance(salience, target, min_heads_per_layer=min_heads_per_layer)
            CAHPPruner(pruned, inputs, importance=importance).step()
            if target > wanted:
                recover_least_squares(pruned, model, fitted, num_examples=num_examples)
        self.rounds = tuple(rounds)
        super().__init__({layer.index: layer.heads for layer in attention_layers(pruned)})


def measure_salience(model: Any, batches: Sequence[Batch]) -> Array:
    """Mean absolute gradient of each example's loss by each head's mask (Michel et al. 2019, eq. 2).

    Args:
        model: A sequence classifier; unchanged.
        batches: Labelled examples.

    Returns:
        Nats, shape ``(num_layers, num_original_heads)``; NaN for absent heads.

    Raises:
        DataError: The loss is not a number.
    """
    layers = attention_layers(model)
    present = [layer for layer in layers if layer.heads]
    table = np.full((len(layers), max(layer.num_original_heads for layer in layers)), np.nan)
    for layer in present:
        table[layer.index, list(layer.heads)] = 0.0
    count = sum(len(batch.labels) for batch in batches)
    like = next(model.parameters())
    with frozen_eval(model), torch.enable_grad():
        for batch in batches:
            # A row of the mask for each example: the gradient of the summed loss holds each example's own.
            masks = {
                layer.index: torch.ones(
                    len(batch.labels), len(layer.heads), dtype=like.dtype, device=like.device, requires_grad=True
                )
                for layer in present
            }
            loss = masked_loss(model, layers, batch, masks, reduction="sum")
            for layer, gradient in zip(present, torch.autograd.grad(loss, list(masks.values())), strict=True):
                table[layer.index, list(layer.heads)] += gradient.abs().double().sum(dim=0).cpu().numpy() / count
    return table


def _first_examples(batches: PreparedBatches, count: int) -> list[Batch]:
    found: list[Batch] = []
    for batch in batches:
        found.append(batch)
        count -= len(batch.labels)
        if count <= 0:
            break
    return found


def _cut(batches: Sequence[Batch], count: int) -> list[Batch]:
    """The first ``count`` examples."""
    found: list[Batch] = []
    for batch in batches:
        if count <= 0:
            break
        found.append(batch if len(batch.labels) <= count else batch.rows(torch.arange(count)))
        count -= len(batch.labels)
    return found
