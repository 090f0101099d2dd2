"""Heads removed a few at a time, with their salience measured anew and the rest repaired in between."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from cahp_plugin.selectors.gates import heads_to_keep, masked_loss
from cahp_plugin.selectors.ranking import MichelImportance
from cahp_plugin.errors import ConfigError
from cahp_plugin.observe import PreparedBatches, prepare_batches
from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.observation import frozen_eval
from cahp_plugin.prune import CAHPImportance, CAHPPruner
from cahp_plugin.recover import recover_least_squares
from cahp_plugin.units import attention_layers, resolve

Array = np.ndarray[Any, Any]


class SalienceWalk:
    """The rounds of iterative pruning by salience, gone as far as was asked: fewer heads go on from where it stands.

    Args:
        model: A fine-tuned sequence classifier; unchanged.
        dataloader: Training set, labelled dict batches.
        min_heads_per_layer: Heads that each layer keeps at least.
        step: Heads removed in a round.
        num_examples: Examples that each salience is measured on and each repair fitted on.

    Attributes:
        seconds: What the rounds from the dense model to where the walk stands took.

    Raises:
        ConfigError: A number is out of its range.
        DataError: The data can't be used.
    """

    def __init__(
        self,
        model: Any,
        dataloader: Iterable[Mapping[str, Any]],
        *,
        min_heads_per_layer: int = 1,
        step: int = 6,
        num_examples: int = 384,
    ) -> None:
        if step < 1 or num_examples < 2:
            raise ConfigError(
                f"`step` must be at least 1 and `num_examples` at least 2; got {step} and {num_examples}."
            )
        self._model, self._step, self._least = model, step, min_heads_per_layer
        self._batches = _first_examples(prepare_batches(dataloader, model), num_examples)
        self._num_examples = num_examples
        self._start_over()

    def _start_over(self) -> None:
        self._pruned = copy.deepcopy(self._model)
        self._salience: Array | None = None
        self.seconds = 0.0

    def down_to(self, num_heads: int) -> tuple[MichelImportance, tuple[int, ...]]:
        """Goes on until a round leaves so many heads; from the dense model again where there are fewer by now.

        Args:
            num_heads: Heads to keep.

        Returns:
            Salience of the last round, normalised in each layer, as the importance that keeps so many; and the number
            of heads after each round from the dense model on.

        Raises:
            DataError: The loss is not a number.
            PruningError: Activations are not finite.
        """
        total, left = (sum(len(layer.heads) for layer in attention_layers(m)) for m in (self._model, self._pruned))
        if num_heads > left:
            self._start_over()
            left = total
        rounds = range(total - self._step, num_heads, -self._step)
        unlabelled = [batch.inputs for batch in self._batches]
        inputs = self._batches[0].rows(torch.tensor([0])).inputs_on(next(self._pruned.parameters()).device)
        ahead = [target for target in rounds if target < left]
        start = time.perf_counter()
        for target in logging.tqdm(ahead, desc="Removing heads", unit="round"):
            CAHPPruner(self._pruned, inputs, importance=self._ranking(target)).step()
            self._salience = None
            recover_least_squares(self._pruned, self._model, unlabelled, num_examples=self._num_examples)
        found = self._ranking(num_heads)
        self.seconds += time.perf_counter() - start
        return found, (*rounds, num_heads) if num_heads < total else ()

    def _ranking(self, num_heads: int) -> MichelImportance:
        if self._salience is None:
            self._salience = measure_salience(self._pruned, self._batches)
        return MichelImportance(self._salience, num_heads, min_heads_per_layer=self._least)


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
        num_examples: Examples that each salience is measured on and each repair fitted on.

    Attributes:
        kept: The heads to keep.
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
    ) -> None:
        _, wanted = heads_to_keep(model, num_heads, min_heads_per_layer)
        walk = SalienceWalk(
            model, dataloader, min_heads_per_layer=min_heads_per_layer, step=step, num_examples=num_examples
        )
        importance, self.rounds = walk.down_to(wanted)
        super().__init__(resolve(importance.kept, attention_layers(model)))


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
        found.append(batch if len(batch.labels) <= count else batch.rows(torch.arange(count)))
        count -= len(found[-1].labels)
        if not count:
            break
    return found
