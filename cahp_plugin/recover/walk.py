"""Forward passes over many batches that wait for each other, layer by layer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from greenlet import GreenletExit, getcurrent, greenlet
from torch import Tensor, nn

from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.inputs import call_options
from cahp_plugin.units import PrunableLayer
from cahp_plugin.units.layers import parent

#: Bytes that the hidden states of a calibration set, and what is kept beside them, may take in memory.
MEMORY = 2**30


class Call(NamedTuple):
    """A call of a module that is about to run."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self) -> Any:
        """Runs it, beside the pass that it belongs to."""
        return self.module(*self.args, **self.kwargs)


class Walk:
    """One forward pass of a model for each batch, all of which wait in front of the same module.

    Each pass is a coroutine (``greenlet``) that is stopped by a hook, so whatever the model does between its layers is
    done by the model itself, once. What waits is the hidden states of the calibration set; where they are more than
    ``MEMORY``, they lie in files that the system reads back as they are needed.

    Args:
        model: The model, in eval mode, outside of autograd.
        stops: The modules to wait in front of, each called once in a pass.
        batches: The calibration set.
    """

    def __init__(self, model: Any, stops: Sequence[nn.Module], batches: Sequence[Batch]) -> None:
        self._model, self._count = model, len(batches)
        self._options = call_options(type(model))
        self._passes = [greenlet(self._run) for _ in batches]
        self._batches = batches
        # Before all other hooks: what waits has not been seen by them.
        self._handles = [stop.register_forward_pre_hook(self._pause, prepend=True, with_kwargs=True) for stop in stops]

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()
        for waiting in self._passes:
            if waiting:  # started, and not at its end
                waiting.throw(GreenletExit)

    def advance(self, number: int) -> Call | None:
        """Lets a batch's pass go on to the next stop; ``None`` at the end."""
        waiting = self._passes[number]
        call: Call | None = waiting.switch() if waiting else waiting.switch(self._batches[number])
        return call

    def _run(self, batch: Batch) -> None:
        self._model(**batch.inputs_on(self._model.device), **self._options)

    def _pause(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        current = getcurrent()
        if current not in self._passes:
            return  # run beside a pass
        hidden = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if hidden is not None and hidden.is_floating_point():
            set_aside(hidden, self._count)
        assert current.parent is not None
        current.parent.switch(Call(module, args, kwargs))


def set_aside(tensor: Tensor, count: int) -> None:
    """Moves a tensor's numbers into a file, in place, where ``count`` like it are too many for the memory.

    Dense and pruned hidden states, and the targets of a layer's two writers, are there at a time.
    """
    if tensor.device.type != "cpu" or tensor.nbytes * count * 4 <= MEMORY:
        return
    with tempfile.NamedTemporaryFile(prefix="cahp-") as file:  # it has no name any more once it is mapped
        mapped = torch.from_file(file.name, shared=True, size=tensor.numel(), dtype=tensor.dtype)
    mapped = mapped.view(tensor.shape)
    mapped.copy_(tensor)
    tensor.data = mapped


def step_of(model: nn.Module, layer: PrunableLayer) -> str:
    """Path of the transformer layer that a prunable layer is in: the nearest member of a list of modules.

    Without such a list, of the module that holds the block: the norm in front of it is there.
    """
    path = layer.name
    while path:
        if isinstance(model.get_submodule(parent(path)), (nn.ModuleList, nn.Sequential)):
            return path
        path = parent(path)
    return parent(layer.name) or layer.name


def steps_of(model: nn.Module, layers: Iterable[PrunableLayer]) -> dict[str, list[PrunableLayer]]:
    """Path of a transformer layer -> the prunable layers in it."""
    steps: dict[str, list[PrunableLayer]] = {}
    for layer in layers:
        steps.setdefault(step_of(model, layer), []).append(layer)
    return steps
