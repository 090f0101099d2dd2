"""Training of gates on heads while the model itself stands still: what the gate-based baselines share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers.utils import logging

from cahp_plugin.selectors.ranking import RankingImportance, head_count
from cahp_plugin.errors import ConfigError, DataError, UnsupportedModelError
from cahp_plugin.observe import prepare_batches, unit_masks
from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.objective import classifier_logits
from cahp_plugin.observe.observation import frozen_eval
from cahp_plugin.units import AttentionLayer, attention_layers

Array = np.ndarray[Any, Any]


class Gates(Protocol):
    """Gates on N heads, counted layer by layer.

    Attributes:
        scores: What is trained, float64 of shape ``(N,)``; the higher, the sooner a head stays.
    """

    scores: Tensor

    def sample(self, progress: float) -> Tensor:
        """Draws the gates' values, in [0, 1], shape ``(N,)``; ``progress`` through the training is in [0, 1]."""
        ...

    def penalty(self, progress: float) -> Tensor:
        """What is added to the mean cross-entropy of a batch, nat."""
        ...


def masked_loss(
    model: nn.Module,
    layers: Sequence[AttentionLayer],
    batch: Batch,
    masks: Mapping[int, Tensor],
    *,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Cross-entropy of a labelled batch with the heads' outputs multiplied by masks.

    Args:
        model: A sequence classifier.
        layers: Its attention layers.
        batch: Labelled examples.
        masks: Layer index -> mask over the heads present, of shape ``(heads,)`` or ``(batch, heads)``.
        reduction: Over the examples.

    Returns:
        The loss, nat, a scalar.

    Raises:
        DataError: The loss is not a number.
        UnsupportedModelError: The model gives no logits of shape ``(batch, classes)``, or heads share keys and values.
    """
    grouped = next((layer for layer in layers if len(layer.units) != len(layer.heads)), None)
    if grouped is not None:
        raise UnsupportedModelError(
            f"{grouped.name} has {len(grouped.heads)} heads that share {len(grouped.units)} keys and values. Single "
            "heads can't be gated there; use CAHP or a ranking."
        )
    device = next(model.parameters()).device
    with unit_masks(layers, masks):
        logits = classifier_logits(model(**batch.inputs_on(device)), len(batch.labels))
    loss = nn.functional.cross_entropy(logits.float(), batch.labels.to(device), reduction=reduction)
    if not bool(torch.isfinite(loss)):
        raise DataError(
            f"The loss is {loss.item()}: the model's logits are not numbers. Check its weights and its dtype."
        )
    return loss


def train_gates(
    model: nn.Module,
    dataloader: Iterable[Mapping[str, Any]],
    gates: Gates,
    *,
    epochs: float,
    learning_rate: float,
) -> tuple[float, ...]:
    """Trains gates by Adam on cross-entropy and penalty; the model's weights are frozen, dropout is off.

    Args:
        model: A sequence classifier; unchanged.
        dataloader: Labelled dict batches; their size is the training's.
        gates: Trained in place.
        epochs: Passes over the data; a fraction ends within one.
        learning_rate: Adam's.

    Returns:
        The cross-entropy at each step, nat.

    Raises:
        ConfigError: A number is out of its range.
        DataError: The data can't be used, or the loss is not a number.
    """
    if not epochs > 0 or not learning_rate > 0:
        raise ConfigError(f"`epochs` and `learning_rate` must be above 0; got {epochs} and {learning_rate}.")
    layers = attention_layers(model)
    present = [layer for layer in layers if layer.heads]
    batches = prepare_batches(dataloader, model)
    steps = math.ceil(epochs * batches.num_batches)
    optimizer = torch.optim.Adam([gates.scores], lr=learning_rate)
    like = next(model.parameters())
    losses = []
    walk = itertools.islice(itertools.chain.from_iterable(itertools.repeat(batches)), steps)
    with frozen_eval(model), torch.enable_grad():
        for step, batch in enumerate(logging.tqdm(walk, total=steps, desc="Training gates", unit="step")):
            progress = step / max(1, steps - 1)
            values = gates.sample(progress).to(like.device, like.dtype)
            parts = values.split([len(layer.heads) for layer in present])
            masks = {layer.index: part for layer, part in zip(present, parts, strict=True)}
            loss = masked_loss(model, layers, batch, masks)
            optimizer.zero_grad()
            (loss + gates.penalty(progress).to(loss)).backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return tuple(losses)


class TrainedGatesImportance(RankingImportance):
    """Heads of the highest trained scores.

    Args:
        model: A fine-tuned sequence classifier; unchanged.
        dataloader: Training set, labelled dict batches.
        num_heads: Heads to keep, a count or a share in (0, 1).
        make_gates: From the number of heads there are and of heads to keep to the gates to train.
        min_heads_per_layer: Heads that each layer keeps at least.
        epochs: Passes over the training set, a fraction included.
        learning_rate: Adam's.

    Attributes:
        kept: The heads to keep.
        scores: Trained scores, ``(num_layers, num_original_heads)``; NaN where there is no head.
        losses: Cross-entropy at each step, nat; empty where all or no heads are kept: nothing is to be chosen.
        gates: The trained gates.

    Raises:
        SelectionError: The number does not fit the heads there are.
        ConfigError: A number is out of its range.
        DataError: The data can't be used, or the loss is not a number.
    """

    def __init__(
        self,
        model: nn.Module,
        dataloader: Iterable[Mapping[str, Any]],
        num_heads: int | float,
        make_gates: Callable[[int, int], Gates],
        *,
        min_heads_per_layer: int,
        epochs: float,
        learning_rate: float,
    ) -> None:
        present, wanted = heads_to_keep(model, num_heads, min_heads_per_layer)
        self.gates = make_gates(present, wanted)
        self.losses: tuple[float, ...] = ()
        if 0 < wanted < present:
            self.losses = train_gates(model, dataloader, self.gates, epochs=epochs, learning_rate=learning_rate)
        scores = scores_by_layer(model, self.gates.scores)
        super().__init__(scores, wanted, min_heads_per_layer=min_heads_per_layer)


def heads_to_keep(model: nn.Module, num_heads: int | float, min_heads_per_layer: int) -> tuple[int, int]:
    """How many heads are there and how many are to stay, checked before anything is trained.

    Raises:
        SelectionError: The number does not fit the heads there are.
    """
    counts = [len(layer.heads) for layer in attention_layers(model)]
    least = sum(min(min_heads_per_layer, count) for count in counts)
    return sum(counts), head_count(num_heads, sum(counts), least)


def scores_by_layer(model: nn.Module, scores: Tensor) -> Array:
    """Scores of the heads present, ``(N,)``, as ``(num_layers, num_original_heads)`` with NaN for absent heads."""
    layers = attention_layers(model)
    table = np.full((len(layers), max(layer.num_original_heads for layer in layers)), np.nan)
    places = [(layer.index, head) for layer in layers for head in layer.heads]
    for (layer, head), score in zip(places, scores.detach().tolist(), strict=True):
        table[layer, head] = score
    return table
