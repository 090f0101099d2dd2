"""One walk over the training data: signatures of all examples, salience of a share of them."""

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

from cahp_plugin.architectures import AttentionLayer, kept_state
from cahp_plugin.errors import DataError, UnsupportedModelError
from cahp_plugin.method.signatures import ClassMoments, batch_operator, resize_maps
from cahp_plugin.observe.batches import Batch, PreparedBatches
from cahp_plugin.observe.maps import attention_maps, map_arguments
from cahp_plugin.observe.masks import head_masks

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class Observation:
    """What one walk over the data saw. N counts the heads present, layer by layer.

    Attributes:
        mean: Mean signature of each class and head, float64 of shape ``(C, N, size * size)``.
        variance: Unbiased variance of each cell, same shape.
        salience: Mean absolute gradient of the loss by each head's mask, in nats, shape
            ``(num_layers, num_original_heads)``; NaN where the head is absent.
        num_salience_examples: Number of examples behind ``salience``.
    """

    mean: Array
    variance: Array
    salience: Array
    num_salience_examples: int


@contextlib.contextmanager
def frozen_eval(model: nn.Module) -> Iterator[None]:
    """Puts the model in eval mode without trainable parameters; leaves every module and parameter as it was."""
    with kept_state(model):
        model.eval().requires_grad_(False)
        yield


def observe(
    model: nn.Module, layers: Sequence[AttentionLayer], batches: PreparedBatches, *, size: int, salience_share: float
) -> Observation:
    """Measures signatures and salience (paper, steps 1 and 4). The model leaves as it came.

    The salience sample is spread evenly over the walk: example ``i`` is in it when ``ceil((i + 1) share)`` exceeds
    ``ceil(i share)``, so it does not depend on the batch size.

    Args:
        model: A sequence classifier.
        layers: Its attention layers.
        batches: The training set.
        size: Side B of the signatures, in cells.
        salience_share: Share of the examples that the salience is measured on, in (0, 1].

    Raises:
        DataError: An attention map or the loss is not a number.
        UnsupportedModelError: The model gives no logits of shape ``(batch, classes)``, or no maps.
    """
    moments = ClassMoments(len(batches.classes))
    gradients = [torch.zeros(len(layer.heads), dtype=torch.float64) for layer in layers if layer.heads]
    device = next(model.parameters()).device
    seen, sampled = 0, 0
    walk = logging.tqdm(batches, total=batches.num_batches, desc="Observing heads", unit="batch")
    with frozen_eval(model):
        for batch in walk:
            add_signatures(model, layers, batch, batches.classes, moments, size=size)
            order = range(seen, seen + len(batch.labels))
            chosen = [i - seen for i in order if math.ceil((i + 1) * salience_share) > math.ceil(i * salience_share)]
            if chosen:
                for total, part in zip(
                    gradients, _salience(model, layers, batch.rows(torch.tensor(chosen)), device), strict=True
                ):
                    total += part
            seen += len(batch.labels)
            sampled += len(chosen)
    mean, variance = moments.finish()
    salience = np.full((len(layers), max(layer.num_original_heads for layer in layers)), np.nan)
    present = [layer for layer in layers if layer.heads]
    for layer, total in zip(present, gradients, strict=True):
        salience[layer.index, list(layer.heads)] = total.numpy() / sampled
    return Observation(mean.numpy(), variance.numpy(), salience, sampled)


def add_signatures(
    model: nn.Module,
    layers: Sequence[AttentionLayer],
    batch: Batch,
    classes: tuple[int, ...],
    moments: ClassMoments,
    *,
    size: int,
) -> None:
    """Runs a batch through the model and adds its resized attention maps to the classes' moments (paper, step 1).

    Args:
        model: The model, in eval mode.
        layers: Its attention layers.
        batch: The batch.
        classes: Labels of the classes, in the order of ``moments``.
        moments: Updated.
        size: Side B of the signatures, in cells.

    Raises:
        DataError: An attention map is not a number.
        UnsupportedModelError: A layer gives no map.
    """
    device = next(model.parameters()).device
    one_hot = (batch.labels[None] == torch.tensor(classes)[:, None]).to(device)
    prepared: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def consume(position: int, maps: Tensor) -> None:
        dtype = torch.float64 if maps.dtype == torch.float64 else torch.float32
        if dtype not in prepared:
            prepared[dtype] = batch_operator(batch.mask, size, dtype).to(device), one_hot.to(dtype)
        operator, weights = prepared[dtype]
        moments.update(position, resize_maps(maps.to(dtype), operator), weights)
        if not moments.is_finite(position):
            raise DataError(
                f"The attention maps of layer {position} are not numbers (NaN or infinite). Check the model's "
                "weights, and its dtype: half precision overflows in some models."
            )

    with torch.inference_mode(), attention_maps(model, layers, consume):
        model(**batch.inputs_on(device), **map_arguments(layers))


def _salience(model: nn.Module, layers: Sequence[AttentionLayer], batch: Batch, device: torch.device) -> list[Tensor]:
    """Sums ``|dL_x / dm|`` over the examples x of a batch, with one forward and one backward pass.

    The mask has a batch axis: example x only touches its own row, so the gradient of the summed loss holds the
    gradient of each example's loss in its row.
    """
    shape = len(batch.labels)
    masks = {
        layer.index: torch.ones(shape, len(layer.heads), device=device, requires_grad=True)
        for layer in layers
        if layer.heads
    }
    with torch.enable_grad(), head_masks(layers, masks):
        output = model(**batch.inputs_on(device))
        logits = classifier_logits(output, shape)
        loss = nn.functional.cross_entropy(logits.float(), batch.labels.to(device), reduction="sum")
        if not torch.isfinite(loss):
            raise DataError(
                f"The loss is {loss.item()}: the model's logits are not numbers. Check its weights and its dtype."
            )
        gradients = torch.autograd.grad(loss, list(masks.values()))
    return [gradient.abs().to("cpu", torch.float64).sum(dim=0) for gradient in gradients]


def classifier_logits(output: Any, batch_size: int) -> Tensor:
    """Takes the logits out of a model's output.

    Raises:
        UnsupportedModelError: There are none of shape ``(batch, classes)`` with at least two classes.
    """
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != batch_size or logits.shape[1] < 2:
        got = f"logits of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else "no logits"
        raise UnsupportedModelError(
            f"The model gives {got}; the method needs a classifier with logits of shape ({batch_size}, classes). Load "
            "the fine-tuned model with `AutoModelForSequenceClassification`."
        )
    return logits
