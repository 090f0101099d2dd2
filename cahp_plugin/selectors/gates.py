"""Training of gates on heads while the model itself stands still: what the gate-based selectors share."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging

from cahp_plugin.errors import ConfigError, DataError
from cahp_plugin.observe import prepare_batches, unit_masks
from cahp_plugin.observe.conditioning import classifier_logits
from cahp_plugin.observe.objective import example_losses
from cahp_plugin.observe.sums import frozen_eval
from cahp_plugin.selectors.base import Fitted, Needs, Ranked, Selector, View
from cahp_plugin.units import KeptSet


@dataclasses.dataclass(frozen=True)
class TrainedGates(Selector):
    """Heads of the highest trained gates; they are trained for each number of heads.

    Args:
        epochs: Passes over the training set, a fraction included.
        learning_rate: Adam's.

    Attributes:
        first: Score of each gate before the training.

    Raises:
        ConfigError: A number is out of its range.
    """

    epochs: float = 1.0
    learning_rate: float = 0.1

    first: ClassVar[float] = 0.0
    needs = Needs.DATA | Needs.LABELS
    seeded = True

    def __post_init__(self) -> None:
        if not self.epochs > 0 or not self.learning_rate > 0:
            raise ConfigError(
                f"`epochs` and `learning_rate` must be above 0; got {self.epochs} and {self.learning_rate}."
            )

    @abc.abstractmethod
    def sample(self, scores: Tensor, wanted: int, progress: float, generator: torch.Generator) -> Tensor:
        """Draws the gates' values, in [0, 1], shape ``(N,)``.

        Args:
            scores: What is trained, float64 of shape ``(N,)``; the higher, the sooner a unit stays.
            wanted: Units to keep.
            progress: How far the training has come, in [0, 1].
            generator: Where the draws come from.
        """

    def penalty(self, scores: Tensor, wanted: int, progress: float) -> Tensor:
        """What is added to the mean cross-entropy of a batch, nat; arguments as of :meth:`sample`."""
        return torch.zeros(())

    def _fit(self, view: View, seed: int) -> FittedGates:
        return FittedGates(self, view, seed)


class FittedGates(Fitted):
    """Gates to be trained."""

    def __init__(self, selector: TrainedGates, view: View, seed: int) -> None:
        self._selector, self._view, self._seed = selector, view, seed

    def keep(self, num_heads: int | float) -> KeptSet:
        """Trains the gates for so many heads, and keeps the highest.

        Raises:
            DataError: The loss is not a number.
        """
        units = self._view.units
        count, wanted = len(units.firsts), units.count(num_heads)
        scores = np.zeros(count)
        if 0 < wanted < count:
            scores = train_gates(self._view, self._selector, wanted, self._seed)[0].numpy()
        return Ranked(units, scores).keep(num_heads)


def train_gates(view: View, selector: TrainedGates, wanted: int, seed: int) -> tuple[Tensor, tuple[float, ...]]:
    """Trains gates by Adam on cross-entropy and penalty; the model's weights are frozen, dropout is off.

    Args:
        view: A sequence classifier, unchanged, and its labelled dict batches, whose size is the training's.
        selector: What the gates are, and how they are trained; a fraction of an epoch ends within one.
        wanted: Units to keep.
        seed: Seed of the batches' order and of the gates' draws.

    Returns:
        The scores of the N units, counted layer by layer, float64 of shape ``(N,)``, and the cross-entropy at each
        step, nat.

    Raises:
        DataError: The data can't be used, or the loss is not a number.
    """
    model = view.model
    present = [layer for layer in view.layers if layer.heads]
    batches = prepare_batches(view.shuffled(seed, by_length=True), model)
    steps = math.ceil(selector.epochs * len(batches))
    scores = torch.full((len(view.units.firsts),), selector.first, dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([scores], lr=selector.learning_rate)
    like = next(model.parameters())
    losses = []
    walk = itertools.islice(itertools.chain.from_iterable(itertools.repeat(batches)), steps)
    with frozen_eval(model), torch.enable_grad():
        for step, batch in enumerate(logging.tqdm(walk, total=steps, desc="Training gates", unit="step")):
            progress = step / max(1, steps - 1)
            values = selector.sample(scores, wanted, progress, generator).to(like.device, like.dtype)
            parts = values.split([len(layer.units) for layer in present])
            with unit_masks(present, parts):
                output = model(**batch.inputs_on(like.device))
            classifier_logits(output, len(batch))
            loss = example_losses(model, output, batch).mean()
            if not bool(torch.isfinite(loss)):
                raise DataError(
                    f"The loss is {loss.item()}: the model's logits are not numbers. Check its weights and its dtype."
                )
            optimizer.zero_grad()
            (loss + selector.penalty(scores, wanted, progress).to(loss)).backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return scores.detach(), tuple(losses)
