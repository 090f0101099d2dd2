"""Training of gates on heads while the model itself stands still: what the gate-based selectors share."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

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


class Gates(Protocol):
    """Gates on N units, counted layer by layer.

    Attributes:
        scores: What is trained, float64 of shape ``(N,)``; the higher, the sooner a unit stays.
    """

    scores: Tensor

    def sample(self, progress: float) -> Tensor:
        """Draws the gates' values, in [0, 1], shape ``(N,)``; ``progress`` through the training is in [0, 1]."""
        ...

    def penalty(self, progress: float) -> Tensor:
        """What is added to the mean cross-entropy of a batch, nat."""
        ...


@dataclasses.dataclass(frozen=True)
class TrainedGates(Selector):
    """Heads of the highest trained gates; they are trained for each number of heads.

    Args:
        epochs: Passes over the training set, a fraction included.
        learning_rate: Adam's.

    Raises:
        ConfigError: A number is out of its range.
    """

    epochs: float = 1.0
    learning_rate: float = 0.1

    needs = Needs.DATA | Needs.LABELS | Needs.GRADIENTS
    seeded = True

    def __post_init__(self) -> None:
        if not self.epochs > 0 or not self.learning_rate > 0:
            raise ConfigError(
                f"`epochs` and `learning_rate` must be above 0; got {self.epochs} and {self.learning_rate}."
            )

    @abc.abstractmethod
    def gates(self, count: int, wanted: int, seed: int) -> Gates:
        """Makes gates.

        Args:
            count: Units there are.
            wanted: Units to keep.
            seed: Seed of the draws.
        """

    def _fit(self, view: View, seed: int) -> FittedGates:
        return FittedGates(self, view, seed)


class FittedGates(Fitted):
    """Gates to be trained.

    Attributes:
        losses: Cross-entropy at each step of the last training, nat; empty where all or no heads are kept.
        trained: The gates of the last training.
    """

    def __init__(self, selector: TrainedGates, view: View, seed: int) -> None:
        self._selector, self._view, self._seed = selector, view, seed
        self.losses: tuple[float, ...] = ()
        self.trained: Any = None

    def keep(self, num_heads: int | float) -> KeptSet:
        """Trains the gates for so many heads, and keeps the highest.

        Raises:
            DataError: The loss is not a number.
        """
        view, units = self._view, self._view.units
        count, wanted = len(units.firsts), units.count(num_heads)
        self.trained, self.losses = self._selector.gates(count, wanted, self._seed), ()
        if 0 < wanted < count:
            data = view.shuffled(self._seed, by_length=True)
            settings = {"epochs": self._selector.epochs, "learning_rate": self._selector.learning_rate}
            self.losses = train_gates(view, data, self.trained, **settings)
        return Ranked(units, self.trained.scores.detach().numpy()).keep(num_heads)


def train_gates(
    view: View, dataloader: Iterable[Mapping[str, Any]], gates: Gates, *, epochs: float, learning_rate: float
) -> tuple[float, ...]:
    """Trains gates by Adam on cross-entropy and penalty; the model's weights are frozen, dropout is off.

    Args:
        view: A sequence classifier; unchanged.
        dataloader: Labelled dict batches; their size is the training's.
        gates: Trained in place.
        epochs: Passes over the data; a fraction ends within one.
        learning_rate: Adam's.

    Returns:
        The cross-entropy at each step, nat.

    Raises:
        DataError: The data can't be used, or the loss is not a number.
    """
    model = view.model
    present = [layer for layer in view.layers if layer.heads]
    batches = prepare_batches(dataloader, model)
    steps = math.ceil(epochs * len(batches))
    optimizer = torch.optim.Adam([gates.scores], lr=learning_rate)
    like = next(model.parameters())
    losses = []
    walk = itertools.islice(itertools.chain.from_iterable(itertools.repeat(batches)), steps)
    with frozen_eval(model), torch.enable_grad():
        for step, batch in enumerate(logging.tqdm(walk, total=steps, desc="Training gates", unit="step")):
            progress = step / max(1, steps - 1)
            values = gates.sample(progress).to(like.device, like.dtype)
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
            (loss + gates.penalty(progress).to(loss)).backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return tuple(losses)
