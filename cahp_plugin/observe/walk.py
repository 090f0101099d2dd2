"""Forward passes over many batches that wait for each other, layer by layer."""

from __future__ import annotations

import contextvars
import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from greenlet import GreenletExit, getcurrent, greenlet
from torch import Tensor, nn

from cahp_plugin.errors import PruningError
from cahp_plugin.observe.batches import Batch
from cahp_plugin.units import PrunableLayer
from cahp_plugin.units.layers import parent
from cahp_plugin.units.state import call_options

#: Bytes in memory of each kind of activations that wait: the inputs of a layer, its targets, recorded outputs.
MEMORY = 2**27


class Call(NamedTuple):
    """A call of a module that is about to run."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self) -> Any:
        """Runs it beside the pass that it belongs to, on copies: a layer may add to its input in place."""
        return self.module(*map(copied, self.args), **{name: copied(value) for name, value in self.kwargs.items()})


class Walk:
    """One forward pass of a model for each batch, all of which wait in front of the same module.

    Each pass is a coroutine (``greenlet``) that is stopped by a hook, so whatever the model does between its layers is
    done by the model itself, once. What waits is the inputs of a layer for the whole calibration set; where they are
    more than ``MEMORY``, they lie in files that the system reads back as they are needed. A model that keeps what
    belongs to one call on its modules can't be run so: the passes would see each other's.

    Args:
        model: The model, in eval mode, outside of autograd.
        stops: The modules to wait in front of, each called once in a pass.
        batches: The calibration set.
    """

    def __init__(self, model: Any, stops: Sequence[nn.Module], batches: Sequence[Batch]) -> None:
        self._model, self._batches = model, batches
        self._options = call_options(type(model))
        self._passes = [greenlet(self._run) for _ in batches]
        self._states: dict[int, Any] = {}
        for waiting in self._passes:
            waiting.gr_context = contextvars.copy_context()
        # Before all other hooks: what waits has not been seen by them.
        self._handles = [stop.register_forward_pre_hook(self._pause, prepend=True, with_kwargs=True) for stop in stops]

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()
        for number in reversed(range(len(self._passes))):
            if self._passes[number]:  # started, and not at its end
                self._switch(number, functools.partial(self._passes[number].throw, GreenletExit))

    def advance(self, number: int) -> Call | None:
        """Lets a batch's pass go on to the next stop; ``None`` at the end.

        Raises:
            PruningError: The model's ``forward`` opens ``torch.inference_mode``, which can't be left for a while.
        """
        waiting, before = self._passes[number], torch.is_inference_mode_enabled()
        call: Call | None = self._switch(
            number, waiting.switch if waiting else lambda: waiting.switch(self._batches[number])
        )
        if torch.is_inference_mode_enabled() != before:
            raise PruningError(
                f"The forward of {type(self._model).__name__} opens `torch.inference_mode`: it can't be repaired "
                "layer by layer. Take it out; the repair needs no gradients anyway."
            )
        return call

    def _switch(self, number: int, go_on: Callable[[], Any]) -> Any:
        """Goes on with a pass, each side with the thread's autocast and gradient mode as it left them."""
        own = _thread_state()
        if number in self._states:
            _set_thread_state(self._states[number])
        try:
            return go_on()
        finally:
            self._states[number] = _thread_state()
            _set_thread_state(own)

    def _run(self, batch: Batch) -> None:
        self._model(**batch.inputs, **self._options)

    def _pause(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        current = getcurrent()
        if current not in self._passes:
            return  # run beside a pass
        set_aside([*args, *kwargs.values()], len(self._batches))
        assert current.parent is not None
        current.parent.switch(Call(module, args, kwargs))


def copied(value: Any) -> Any:
    """What a module is given or gives, with tensors of its own, also in tuples."""
    if type(value) is tuple:
        return tuple(map(copied, value))
    return value.clone() if isinstance(value, Tensor) else value


_DEVICES = ("cpu", "cuda")


def _thread_state() -> Any:
    autocast = [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in _DEVICES]
    return autocast, torch.is_autocast_cache_enabled(), torch.is_grad_enabled()


def _set_thread_state(state: Any) -> None:
    autocast, cached, gradients = state
    for kind, enabled, dtype in autocast:
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)
    torch.set_autocast_cache_enabled(cached)
    torch.set_grad_enabled(gradients)


def set_aside(values: Iterable[Any], count: int) -> None:
    """Moves tensors' numbers into files, in place, where ``count`` like them are more than ``MEMORY``."""
    found = [value for value in values if isinstance(value, Tensor) and not isinstance(value, nn.Parameter)]
    tensors = [tensor for tensor in found if tensor.is_floating_point()]
    # An expanded one (a bias for every example) is small, and not this batch's alone.
    own = [tensor for tensor in tensors if tensor.device.type == "cpu" and tensor.is_contiguous()]
    if sum(tensor.nbytes for tensor in own) * count <= MEMORY:
        return
    for tensor in own:
        if tensor.numel() and not hasattr(tensor, _ASIDE):
            with tempfile.NamedTemporaryFile(prefix="cahp-") as file:  # it has no name any more once it is mapped
                mapped = torch.from_file(file.name, shared=True, size=tensor.numel(), dtype=tensor.dtype)
            tensor.data = mapped.view(tensor.shape).copy_(tensor)
            setattr(tensor, _ASIDE, True)


_ASIDE = "_cahp_aside"


def steps_of(model: nn.Module, layers: Iterable[PrunableLayer]) -> dict[str, list[PrunableLayer]] | None:
    """Path of a transformer layer -> the prunable layers in it; ``None`` where passes can't wait in front of them.

    A transformer layer is the nearest module around a block that is a member of a list, or the nearest at all where
    there is none, that is called, and that holds what the residual stream is read from.
    """
    names = {module: name for name, module in model.named_modules()}
    found: dict[str, list[PrunableLayer]] = {}
    for layer in layers:
        stream = layer.stream(model)
        inside = [layer.name] if stream is None else [layer.name, names[stream]]
        around = [path for path in _upwards(layer.name) if all(f"{name}.".startswith(f"{path}.") for name in inside)]
        called = [path for path in around if type(model.get_submodule(path)).forward is not nn.Module.forward]
        listed = [path for path in called if isinstance(model.get_submodule(parent(path)), _LISTS)]
        if not called:
            return None
        found.setdefault((listed or called)[0], []).append(layer)
    steps: dict[str, list[PrunableLayer]] = {}
    for path, own in found.items():  # one within another is part of it
        outer = next(other for other in reversed([*_upwards(path)]) if other in found)
        steps.setdefault(outer, []).extend(own)
    return steps


_LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def _upwards(path: str) -> Iterator[str]:
    while path:
        yield path
        path = parent(path)
