"""Runs a model from one of its transformer layers on, as often as needed; what lies before is on record."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.walk import set_aside, steps_of
from cahp_plugin.units import PrunableLayer
from cahp_plugin.units.state import call_options


class Suffix:
    """Forward passes of which only the part behind a layer is computed.

    The outputs of all transformer layers are recorded once, in files where they are more than 1 GiB. Models whose
    layers are no modules that are called, or serve several depths, are run from the input.

    Args:
        model: The model, in eval mode, outside of autograd.
        layers: The layers that passes may start in.
        batches: Examples, on the model's device.
    """

    def __init__(self, model: Any, layers: Sequence[PrunableLayer], batches: Sequence[Batch]) -> None:
        self._model, self.batches = model, batches
        self._options = call_options(type(model))
        steps = None if any(layer.spec.reused for layer in layers) else steps_of(model, layers)
        self._modules: list[nn.Module] = []
        self._outputs: dict[nn.Module, list[Any]] = {model.get_submodule(path): [] for path in steps or ()}
        self._place: dict[str, int] = {}
        with contextlib.ExitStack() as hooks:
            for module in self._outputs:
                hooks.callback(module.register_forward_hook(self._record).remove)
            for batch in batches:
                self._run(batch)
        for path, own in (steps or {}).items():
            self._place |= {layer.output_path: self._modules.index(model.get_submodule(path)) for layer in own}

    def _record(self, module: nn.Module, args: Any, output: Any) -> None:
        if module not in self._modules:
            self._modules.append(module)
        set_aside(_tensors(output), len(self.batches) * len(self._outputs))
        self._outputs[module].append(output)

    def _run(self, batch: Batch) -> Any:
        return self._model(**batch.inputs, **self._options)

    def dense(self, number: int) -> Any:
        """The outputs of the model as it was, for a batch."""
        with self._from(len(self._modules), number):
            return self._run(self.batches[number])

    @contextlib.contextmanager
    def at(self, layer: PrunableLayer, number: int) -> Iterator[Any]:
        """Within the context, the function that is yielded runs a batch from the layer on."""
        with self._from(self._place.get(layer.output_path, 0), number):
            yield lambda: self._run(self.batches[number])

    @contextlib.contextmanager
    def _from(self, place: int, number: int) -> Iterator[None]:
        skipped = self._modules[:place]
        before = [vars(module).get("forward") for module in skipped]
        try:
            for module in skipped:
                module.forward = _Recorded(self._outputs[module][number])  # type: ignore[assignment]
            yield
        finally:
            for module, own in zip(skipped, before, strict=True):
                del module.forward
                if own is not None:
                    module.forward = own


class _Recorded:
    """Stands for a layer whose output is known; what comes behind may change it in place."""

    def __init__(self, output: Any) -> None:
        self._output = output

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _copied(self._output)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, (tuple, list)):
        return [tensor for part in value for tensor in _tensors(part)]
    return [value] if isinstance(value, Tensor) else []


def _copied(value: Any) -> Any:
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(map(_copied, value))
    return value.clone() if isinstance(value, Tensor) else value
