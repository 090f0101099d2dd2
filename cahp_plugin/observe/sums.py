"""Sums over a calibration set: added to batch by batch, merged in one fixed order, in one process or in several."""

from __future__ import annotations

import abc
import contextlib
import copy
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from cahp_plugin.errors import CAHPError, ConfigError
from cahp_plugin.observe.batches import Batch
from cahp_plugin.processes import processes
from cahp_plugin.units.state import kept_state, plain_calls

#: Parts that a calibration set is cut into. It does not depend on the number of processes, so neither do the sums.
_PARTS = 64


class Sums:
    """Sums by name. They stay on the device where they are made until they are read.

    Attributes:
        state: Key -> sum: a tensor, a number, or something else that can be added up.
        fixed: Tensors that are settled at the first batch and hold for all parts of the data.
    """

    def __init__(self) -> None:
        self.state: dict[Any, Any] = {}
        self.fixed: dict[Any, Tensor] = {}

    def new(self) -> Any:
        """The same without any sum, for another part of the data."""
        fresh = copy.copy(self)
        fresh.state = {}
        return fresh

    @torch.inference_mode()
    def plus(self, key: Any, value: Any) -> None:
        """Adds to one sum; the first value is kept as it is, and changed by the next."""
        if key not in self.state:
            self.state[key] = value
        elif isinstance(value, Tensor):
            self.state[key].add_(value.to(self.state[key].device))
        else:
            self.state[key] += value

    def merge(self, state: Mapping[Any, Any]) -> None:
        """Adds the sums of another part of the data, its ``state``, which are not to be used any more."""
        for key, value in state.items():
            self.plus(key, value)

    def __iadd__(self, other: Any) -> Any:
        self.merge(other.state)
        return self

    def cpu(self) -> Any:
        """The same sums on the CPU."""
        moved = self.new()
        moved.state = {key: value.cpu() if hasattr(value, "cpu") else value for key, value in self.state.items()}
        return moved


def exact(values: Tensor) -> Tensor:
    """Values in float64, where they are if the device has it (MPS has not)."""
    return values.to("cpu" if values.device.type == "mps" else values.device, torch.float64)


class Accumulator(Sums, abc.ABC):
    """Sums of what a model does on a calibration set.

    Args:
        model: The model.
        layers: Its layers to look at; those without units are left out.
    """

    def __init__(self, model: Any, layers: Sequence[Any]) -> None:
        super().__init__()
        self.model, self.layers = model, [layer for layer in layers if layer.present]

    @abc.abstractmethod
    def update(self, batch: Batch) -> None:
        """Runs the model on a batch and adds what it did."""


@contextlib.contextmanager
def frozen_eval(model: nn.Module) -> Iterator[None]:
    """Puts the model in eval mode without trainable parameters or a cache; leaves it as it was."""
    with kept_state(model), plain_calls(model):
        model.eval().requires_grad_(False)
        yield


def accumulate(model: nn.Module, batches: Any, sums: Sequence[Accumulator], description: str) -> None:
    """Walks through a calibration set, in all processes together.

    The batches are cut into the same parts, whatever the number of processes; each part is summed by one process, and
    all of them merge the parts in their order. So the sums are the same to the bit.

    Args:
        model: The model; it leaves as it came.
        batches: The calibration set, the same in every process; it has a length, and can be walked through again.
        sums: Accumulators without any sum; in the end they have those over all batches, in every process.
        description: What the progress bar says.

    Raises:
        ConfigError: There are more processes than batches.
        CAHPError: Whatever an accumulator raises, in every process; or another process was lost.
    """
    here, count = processes(), len(batches)
    if here.size > count:
        raise ConfigError(f"{here.size} processes can't share {count} batches. Start fewer, or make smaller batches.")
    parts = min(_PARTS, count)

    def is_own(position: int) -> bool:
        return position * parts // count % here.size == here.rank

    own = ((position, batch) for position, batch in enumerate(batches) if is_own(position))
    bar = logging.tqdm(own, total=sum(map(is_own, range(count))), desc=description, unit="batch")
    groups = itertools.groupby(bar, key=lambda found: found[0] * parts // count)
    with frozen_eval(model):
        if here.size > 1:
            _fix(sums, next(iter(batches)))
        for first in range(0, parts, here.size):
            pieces, error = [total.new() for total in sums], None
            if first + here.rank < parts:
                try:
                    for _, batch in next(groups, (None, ()))[1]:
                        for piece in pieces:
                            piece.update(batch)
                except CAHPError as found:  # all are told, at the same place
                    error = found
            for source in range(min(here.size, parts - first)):
                states = here.share(functools.partial(_states, pieces, error), source)
                for total, state in zip(sums, states, strict=True):
                    total.merge(state)


def _fix(sums: Sequence[Accumulator], batch: Batch) -> None:
    """Lets the first process settle what the first batch settles, for all."""

    def settle() -> list[Any]:
        for total in sums:
            total.update(batch)
        return [{key: value.cpu() for key, value in total.fixed.items()} for total in sums]

    for total, fixed in zip(sums, processes().share(settle), strict=True):
        total.fixed, total.state = fixed, {}


def _states(pieces: Sequence[Accumulator], error: CAHPError | None) -> list[Mapping[Any, Any]]:
    """One process's part of the sums, for all."""
    if error is not None:
        raise error
    return [piece.state if processes().size == 1 else piece.cpu().state for piece in pieces]
