"""One walk over the training data: what heads are compared by, of all examples; salience, of a share of them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.utils import logging

from cahp_plugin.config import Conditioning
from cahp_plugin.errors import DataError
from cahp_plugin.observe.signatures import ClassMoments
from cahp_plugin.observe.batches import Batch, PreparedBatches
from cahp_plugin.observe.head_maps import (
    add_distances,
    add_predicted_signatures,
    add_signatures,
    mean_distances,
    run_with_maps,
)
from cahp_plugin.observe.masks import unit_masks
from cahp_plugin.observe.objective import Loss, classifier_logits, example_losses, forward_arguments
from cahp_plugin.units import AttentionLayer, kept_state

logger = logging.get_logger(__name__)

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class Observation:
    """What one walk over the data saw.

    N counts the units present, layer by layer: heads, or the query heads of one key and value head, which only go
    together.

    Attributes:
        salience: Mean absolute gradient of the loss by each head's mask, in nats (or the unit of the caller's loss),
            shape ``(num_layers, num_original_heads)``; NaN where the head is absent.
        num_salience_examples: Number of examples behind ``salience``.
        mean: Mean signature of each class and head, float64 of shape ``(C, N, size * size)``; ``None`` without
            classes.
        variance: Unbiased variance of each cell, same shape; ``None`` without classes.
        classes: Labels of the classes, ascending, length C.
        distances: Mean Jensen-Shannon distances between heads, float64 of shape ``(N, N)``; ``None`` with classes.
    """

    salience: Array
    num_salience_examples: int
    mean: Array | None = None
    variance: Array | None = None
    classes: tuple[int, ...] = ()
    distances: Array | None = None


@contextlib.contextmanager
def frozen_eval(model: nn.Module) -> Iterator[None]:
    """Puts the model in eval mode without trainable parameters; leaves every module and parameter as it was."""
    with kept_state(model):
        model.eval().requires_grad_(False)
        yield


def observe(
    model: nn.Module,
    layers: Sequence[AttentionLayer],
    batches: PreparedBatches,
    *,
    salience_share: float,
    size: int = 2,
    conditioning: Conditioning = "label",
    max_queries: int | None = None,
    loss: Loss | None = None,
) -> Observation:
    """Measures what heads are compared by, and their salience (paper, steps 1 and 4). The model leaves as it came.

    The salience sample is spread evenly over the walk: example ``i`` is in it when ``ceil((i + 1) share)`` exceeds
    ``ceil(i share)``, so it does not depend on the batch size.

    Args:
        model: The model.
        layers: Its attention layers.
        batches: The training set.
        salience_share: Share of the examples that the salience is measured on, in (0, 1].
        size: Side B of the signatures, in cells.
        conditioning: ``"label"`` or ``"prediction"`` measures signatures of classes, ``"none"`` distances.
        max_queries: Queries of each example that ``"none"`` looks at.
        loss: The caller's loss, see :func:`cahp_plugin.observe.objective.example_losses`.

    Raises:
        DataError: An attention map or the loss is not a number; the model predicts one class only.
        UnsupportedModelError: The model gives no logits that a loss can be made of, or no maps.
    """
    walk = logging.tqdm(batches, total=batches.num_batches, desc="Observing heads", unit="batch")
    salience = _Salience(model, layers, salience_share, conditioning, loss)
    classes = list(batches.classes)
    moments = ClassMoments(len(classes))
    distances = mean_distances(layers)

    def predict(output: Any) -> Tensor:
        return classifier_logits(output, len(batch)).argmax(dim=1)

    with frozen_eval(model):
        for batch in walk:
            if conditioning == "none":
                add_distances(model, layers, batch, distances, max_queries=max_queries)
            elif conditioning == "prediction":
                add_predicted_signatures(model, layers, batch, classes, moments, size=size, predict=predict)
            else:
                add_signatures(model, layers, batch, classes, moments, size=size)
            salience.add(batch)
    found, sampled = salience.finish(), salience.num_examples
    if conditioning == "none":
        return Observation(found, sampled, distances=distances.finish().numpy())
    predicted = conditioning == "prediction"
    rows = _predicted_classes(classes, moments.counts) if predicted else list(range(len(classes)))
    mean, variance = moments.finish(rows)
    return Observation(found, sampled, mean.numpy(), variance.numpy(), tuple(classes[row] for row in rows))


def _predicted_classes(classes: Sequence[int], counts: Tensor) -> list[int]:
    """Rows of the predicted classes that have a variance, by label."""
    usable = [row for row in range(len(classes)) if counts[row] >= 2]
    if len(usable) < 2:
        told = ", ".join(f"{label} ({int(counts[row])})" for row, label in enumerate(classes))
        raise DataError(
            f"The model predicts the classes (examples) {told}; at least two of two examples are needed to compare "
            "classes. Give more varied examples, check that the model is fine-tuned, or use "
            '`conditioning="label"` or `conditioning="none"`.'
        )
    if len(usable) < len(classes):
        left_out = sorted(classes[row] for row in range(len(classes)) if row not in usable)
        logger.warning(f"Predicted for a single example, so without a variance, and left out: classes {left_out}.")
    return sorted(usable, key=lambda row: classes[row])


def probe(
    model: nn.Module,
    layers: Sequence[AttentionLayer],
    batch: Batch,
    conditioning: Conditioning = "label",
    loss: Loss | None = None,
) -> int:
    """Runs a few examples and makes their loss, so that what can't work is told before the long walk.

    Args:
        model: The model.
        layers: Its attention layers.
        batch: One or more examples.
        conditioning: As in :func:`observe`.
        loss: As in :func:`observe`.

    Returns:
        Keys of the first layer's maps.

    Raises:
        UnsupportedModelError: The model gives no maps, or no logits that the conditioning or a loss can use.
        DataError: The labels do not fit.
    """
    widths: list[int] = []
    with frozen_eval(model):
        output = run_with_maps(model, layers, batch, lambda _, maps: widths.append(maps.shape[3]))
        if conditioning == "prediction" or (conditioning == "label" and loss is None):
            classifier_logits(output, len(batch))
        with torch.inference_mode():
            example_losses(model, output, batch, conditioning, loss)
    return widths[0]


class _Salience:
    """Mean ``|dL_x / dm|`` of each head's mask m over a share of the examples x (paper, step 4)."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[AttentionLayer],
        share: float,
        conditioning: Conditioning,
        loss: Loss | None,
    ) -> None:
        self._model, self._share, self._conditioning, self._loss = model, share, conditioning, loss
        self._layers = layers
        self._present = [layer for layer in layers if layer.heads]
        self._sums = [torch.zeros(len(layer.units), dtype=torch.float64) for layer in self._present]
        self._seen = 0
        self.num_examples = 0

    def add(self, batch: Batch) -> None:
        """Adds those examples of a batch that are in the sample."""
        share, order = self._share, range(self._seen, self._seen + len(batch))
        chosen = [i - self._seen for i in order if math.ceil((i + 1) * share) > math.ceil(i * share)]
        self._seen += len(batch)
        self.num_examples += len(chosen)
        if chosen:
            for total, part in zip(self._sums, self._gradients(batch.rows(torch.tensor(chosen))), strict=True):
                total += part

    def _gradients(self, batch: Batch) -> list[Tensor]:
        """Sums ``|dL_x / dm|`` over the examples x of a batch, with one forward and one backward pass.

        The mask has a batch axis: example x only touches its own row, so the gradient of the summed loss holds the
        gradient of each example's loss in its row.
        """
        model = self._model
        device = next(model.parameters()).device
        masks = {
            layer.index: torch.ones(len(batch), len(layer.units), device=device, requires_grad=True)
            for layer in self._present
        }
        with torch.enable_grad(), unit_masks(self._layers, masks):
            output = model(**batch.inputs_on(device), **forward_arguments(model))
            loss = example_losses(model, output, batch, self._conditioning, self._loss).sum()
            if not torch.isfinite(loss):
                raise DataError(
                    f"The loss is {loss.item()}: the model's outputs are not numbers. Check its weights and its dtype."
                )
            if not loss.requires_grad:
                raise DataError("The loss does not depend on the model's output by a gradient: nothing is salient.")
            gradients = torch.autograd.grad(loss, list(masks.values()), materialize_grads=True)
        return [gradient.abs().to("cpu", torch.float64).sum(dim=0) for gradient in gradients]

    def finish(self) -> Array:
        """Returns the salience, shape ``(num_layers, num_original_heads)``; NaN for absent heads."""
        salience = np.full((len(self._layers), max(layer.num_original_heads for layer in self._layers)), np.nan)
        for layer, total in zip(self._present, self._sums, strict=True):
            for unit, value in zip(layer.units, total.tolist(), strict=True):
                salience[layer.index, list(unit)] = value / self.num_examples
        return salience
