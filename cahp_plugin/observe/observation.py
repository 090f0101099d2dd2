"""One walk over the training data: what heads are compared by, of all examples; salience, of a share of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cahp_plugin.config import CAHPConfig
from cahp_plugin.observe.batches import Batch, PreparedBatches
from cahp_plugin.observe.classes import classes_of
from cahp_plugin.observe.conditioning import LABEL, Conditioning
from cahp_plugin.observe.head_maps import HeadDistances, Signatures, run_with_maps
from cahp_plugin.observe.masks import mask_gradients
from cahp_plugin.observe.objective import Loss, example_losses
from cahp_plugin.observe.sums import Accumulator, accumulate, exact, frozen_eval
from cahp_plugin.units import AttentionLayer

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class Observation:
    """What one walk over the data saw.

    N counts the units present, layer by layer: heads, or the query heads of one key and value head, which only go
    together.

    Attributes:
        salience: Mean absolute gradient of the loss by each unit's mask, in nats (or the unit of the caller's loss),
            float64 of shape ``(N,)``.
        num_salience_examples: Number of examples behind ``salience``.
        mean: Mean signature of each group and head, float64 of shape ``(C, N, cells)``; ``None`` without classes. C
            groups are the classes, of examples or tokens; or of each label the examples without it and with it. Maps
            of examples have ``size * size`` cells, rows of tokens ``size``.
        variance: Unbiased variance of each cell, same shape; ``None`` without classes.
        classes: Labels of the classes, ascending; or the several labels that examples can have.
        pairs: Positions in ``mean`` of the groups that are compared; ``None`` for every pair.
        distances: Mean Jensen-Shannon distances between heads, float64 of shape ``(N, N)``; ``None`` with classes.
    """

    salience: Array
    num_salience_examples: int
    mean: Array | None = None
    variance: Array | None = None
    classes: tuple[int, ...] = ()
    pairs: Sequence[tuple[int, int]] | None = None
    distances: Array | None = None


def observe(
    model: nn.Module,
    layers: Sequence[AttentionLayer],
    batches: PreparedBatches,
    config: CAHPConfig,
    conditioning: Conditioning = LABEL,
    loss: Loss | None = None,
) -> Observation:
    """Measures what heads are compared by, and their salience (paper, steps 1 and 4). The model leaves as it came.

    Args:
        model: The model.
        layers: Its attention layers.
        batches: The training set.
        config: Share of the examples behind the salience, side of the signatures, queries that distances look at.
        conditioning: Whether classes, and of what, make signatures, or the maps distances.
        loss: The caller's loss, see :func:`cahp_plugin.observe.objective.example_losses`.

    Raises:
        DataError: An attention map or the loss is not a number; the model predicts one class only.
        UnsupportedModelError: The model gives no logits that a loss can be made of, or no maps.
    """
    salience = Salience(model, layers, share=config.salience_share, conditioning=conditioning, loss=loss)
    if not conditioning.classes:
        distances = HeadDistances(model, layers, config.max_queries)
        accumulate(model, batches, [distances, salience], "Observing heads")
        return Observation(salience.finish(), salience.num_examples, distances=distances.finish().numpy())
    kind, labelled, size = classes_of(conditioning), conditioning.labelled, config.signature_size or 2
    signatures = Signatures(model, layers, size, batches.classes if labelled else None, conditioning)
    accumulate(model, batches, [signatures, salience], "Observing heads")
    classes = batches.classes if labelled else kind.usable(signatures.counts(), predicted=True)
    mean, variance = signatures.finish(kind.groups(classes))
    moments = mean.numpy(), variance.numpy()
    return Observation(salience.finish(), salience.num_examples, *moments, classes, kind.pairs(len(classes)))


def probe(
    model: nn.Module,
    layers: Sequence[AttentionLayer],
    batch: Batch,
    conditioning: Conditioning = LABEL,
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
        if conditioning.classes and not (conditioning.labelled and loss is not None):
            classes_of(conditioning).predict(output, batch.mask)
        with torch.inference_mode():
            example_losses(model, output, batch, conditioning, loss)
    return widths[0]


class Salience(Accumulator):
    """Mean ``|dL_x / dm|`` of each unit's mask m over a share of the examples x (paper, step 4).

    The sample is spread evenly over the data: example ``i`` is in it when ``ceil((i + 1) share)`` exceeds
    ``ceil(i share)``, so it does not depend on the batch size.

    Michel, Levy, Neubig, "Are Sixteen Heads Really Better than One?", NeurIPS 2019, eq. 2.

    Args:
        model: The model.
        layers: Its attention layers.
        share: Share of the examples, in (0, 1].
        conditioning: Which classes the loss is about.
        loss: The caller's loss, see :func:`cahp_plugin.observe.objective.example_losses`.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[AttentionLayer],
        *,
        share: float = 1.0,
        conditioning: Conditioning = LABEL,
        loss: Loss | None = None,
    ) -> None:
        super().__init__(model, layers)
        self._share, self._conditioning, self._loss = share, conditioning, loss

    @property
    def num_examples(self) -> int:
        """Examples in the sample so far."""
        return int(self.state.get("examples", 0))

    def update(self, batch: Batch) -> None:
        """Adds those examples of a batch that are in the sample.

        Raises:
            DataError: The loss is not a number, or has no gradient.
        """

        def losses(output: Any, batch: Batch) -> Tensor:
            return example_losses(self.model, output, batch, self._conditioning, self._loss)

        share, order = self._share, range(batch.first, batch.first + len(batch))
        chosen = [i - batch.first for i in order if math.ceil((i + 1) * share) > math.ceil(i * share)]
        if chosen:
            self.plus("examples", len(chosen))
            gradients = mask_gradients(self.model, self.layers, batch.rows(torch.tensor(chosen)), losses)
            for layer, gradient in zip(self.layers, gradients, strict=True):
                self.plus(layer.index, exact(gradient.abs()).sum(dim=0))

    def finish(self) -> Array:
        """The mean of each unit, in the order of the layers: float64 of shape ``(N,)``."""
        return np.concatenate([self.state[layer.index].cpu().numpy() for layer in self.layers]) / self.num_examples
