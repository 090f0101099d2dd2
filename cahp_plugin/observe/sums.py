"""Sums over a calibration set: added to batch by batch, merged in one fixed order, in one process or in several."""

from __future__ import annotations

import abc
import contextlib
import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
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

    def merge(self, other: Any) -> None:
        """Adds the sums of another part of the data, which are not to be used any more."""
        for key, value in other.state.items():
            self.plus(key, value)

    def __iadd__(self, other: Any) -> Any:
        self.merge(other)
        return self

    def cpu(self) -> Any:
        """The same sums on the CPU."""
        moved = self.new()
        moved.state = self.sent()
        return moved

    def sent(self) -> dict[Any, Any]:
        """The sums for another process: on the CPU."""
        return {key: value.cpu() if hasattr(value, "cpu") else value for key, value in self.state.items()}


def exact(values: Tensor) -> Tensor:
    """Values in float64, where they are if the device has it (MPS has not)."""
    return values.to("cpu" if values.device.type == "mps" else values.device, torch.float64)


class Accumulator(Sums, abc.ABC):
    """Sums of what a model does on a calibration set."""

    @abc.abstractmethod
    def update(self, batch: Batch) -> None:
        """Runs the model on a batch and adds what it did."""

    def check(self) -> None:
        """Looks at the sums of a part of the data.

        Raises:
            DataError: They are not numbers.
        """


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
        batches: The calibration set, the same in every process: a list, or what knows its ``num_batches`` and can
            ``walk`` through those that are chosen by their positions.
        sums: Accumulators without any sum; in the end they have those over all batches, in every process.
        description: What the progress bar says.

    Raises:
        ConfigError: There are more processes than batches.
        CAHPError: Whatever an accumulator raises, in every process; or another process was lost.
    """
    here, listed = processes(), isinstance(batches, Sequence)
    count = len(batches) if listed else batches.num_batches

    def walk(chosen: Callable[[int], bool]) -> Iterator[tuple[int, Batch]]:
        return ((i, batch) for i, batch in enumerate(batches) if chosen(i)) if listed else batches.walk(chosen)

    if here.size > count:
        raise ConfigError(f"{here.size} processes can't share {count} batches. Start fewer, or make smaller batches.")
    parts = min(_PARTS, count)

    def is_own(position: int) -> bool:
        return position * parts // count % here.size == here.rank

    own = logging.tqdm(walk(is_own), total=sum(map(is_own, range(count))), desc=description, unit="batch")
    groups = itertools.groupby(own, key=lambda found: found[0] * parts // count)
    with frozen_eval(model):
        if here.size > 1:
            _fix(sums, next(walk(lambda position: position == 0))[1])
        for first in range(0, parts, here.size):
            pieces, error = [total.new() for total in sums], None
            if first + here.rank < parts:
                try:
                    _update(pieces, next(groups, (None, ()))[1])
                except CAHPError as found:  # all are told, at the same place
                    error = found
            for source in range(min(here.size, parts - first)):
                for total, piece in zip(sums, _received(pieces, error, source), strict=True):
                    total.merge(piece)


def _update(pieces: Sequence[Accumulator], batches: Iterable[tuple[int, Batch]]) -> None:
    """Adds a part of the data."""
    failed: CAHPError | None = None
    try:
        for _, batch in batches:
            for piece in pieces:
                piece.update(batch)
    except CAHPError as error:
        failed = error
    for piece in pieces:  # where an update failed, what was not a number before it says more
        piece.check()
    if failed is not None:
        raise failed


def _fix(sums: Sequence[Accumulator], batch: Batch) -> None:
    """Lets the first process settle what the first batch settles, for all."""

    def settle() -> list[Any]:
        for total in sums:
            total.update(batch)
        return [{key: value.cpu() for key, value in total.fixed.items()} for total in sums]

    for total, fixed in zip(sums, processes().share(settle), strict=True):
        total.fixed, total.state = fixed, {}


def _received(pieces: Sequence[Accumulator], error: CAHPError | None, source: int) -> Sequence[Accumulator]:
    """One process's part of the sums, in all processes."""

    def send() -> list[dict[Any, Any]]:
        if error is not None:
            raise error
        return [piece.state if processes().size == 1 else piece.sent() for piece in pieces]

    received = [piece.new() for piece in pieces]
    for piece, state in zip(received, processes().share(send, source), strict=True):
        piece.state = state
    return received
