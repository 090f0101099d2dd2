"""Runs a model from one of its transformer layers on, as often as needed; what lies before is on record."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from cahp_plugin.errors import PruningError
from cahp_plugin.observe.batches import Batch, largest_first
from cahp_plugin.observe.walk import copied, set_aside, steps_of
from cahp_plugin.units import PrunableLayer
from cahp_plugin.units.state import call_options


class Suffix:
    """Forward passes of which only the part behind a layer is computed.

    The outputs of all transformer layers are recorded once, in files where they are more than 128 MiB. Models
    whose layers are no modules that are called, or serve several depths, are run from the input.

    Args:
        model: The model, in eval mode, outside of autograd.
        layers: The layers that passes may start in.
        batches: Examples, on the model's device.

    Attributes:
        batches: The same, the largest first.
        size: Bytes of the recorded outputs.

    Raises:
        PruningError: The examples do not run through a layer.
    """

    def __init__(self, model: Any, layers: Sequence[PrunableLayer], batches: Sequence[Batch]) -> None:
        self._model, self.batches = model, largest_first(batches)
        self._options = call_options(type(model))
        steps = None if any(layer.spec.reused for layer in layers) else steps_of(model, layers)
        self._modules: list[nn.Module] = []
        self._outputs: dict[nn.Module, list[Any]] = {model.get_submodule(path): [] for path in steps or ()}
        self._place: dict[str, int] = {}
        with contextlib.ExitStack() as hooks:
            for module in self._outputs:
                hooks.callback(module.register_forward_hook(self._record).remove)
            for batch in self.batches:
                self._run(batch)
        self.size = sum(
            tensor.nbytes for outputs in self._outputs.values() for output in outputs for tensor in tensors_in(output)
        )
        for path, own in (steps or {}).items():
            module = model.get_submodule(path)
            if module not in self._modules:
                raise PruningError(f"The examples do not run through {', '.join(map(str, own))}.")
            self._place |= dict.fromkeys((layer.output_path for layer in own), self._modules.index(module))

    def _record(self, module: nn.Module, args: Any, output: Any) -> None:
        if module not in self._modules:
            self._modules.append(module)
        set_aside(tensors_in(output), len(self.batches) * len(self._outputs))
        self._outputs[module].append(output)

    def _run(self, batch: Batch) -> Any:
        return self._model(**batch.inputs, **self._options)

    def dense(self, number: int) -> Any:
        """The outputs of the model as it was, for a batch."""
        with self._from(len(self._modules), number):
            return self._run(self.batches[number])

    @contextlib.contextmanager
    def at(self, layer: PrunableLayer, number: int) -> Iterator[Any]:
        """Within the context, the function that is yielded runs a batch from the layer's output projection on."""
        place = self._place.get(layer.output_path)
        with self._from(place or 0, number):
            if place is None:
                yield lambda: self._run(self.batches[number])
                return
            before = self._before(self._modules[place], layer.output, number)
            with _replaced(before):
                yield lambda: self._run(self.batches[number])

    def _before(self, around: nn.Module, output: nn.Module, number: int) -> dict[nn.Module, Any]:
        """What the modules of a transformer layer give that end before an output projection runs; the outermost."""
        found: dict[nn.Module, Any] = {}
        counts: dict[nn.Module, int] = {}

        def record(module: nn.Module, args: Any, value: Any) -> None:
            counts[module] = counts.get(module, 0) + 1
            if not counts.get(output):
                found[module] = copied(value)  # what follows may change it in place

        def reached(module: nn.Module, args: Any) -> None:
            counts[output] = counts.get(output, 0) + 1

        with contextlib.ExitStack() as hooks:
            for module in around.modules():
                if module not in (around, output):
                    hooks.callback(module.register_forward_hook(record).remove)
            hooks.callback(output.register_forward_pre_hook(reached).remove)
            self._run(self.batches[number])
        once = {module: value for module, value in found.items() if counts[module] == 1}
        inner = {part for module in once for part in module.modules() if part is not module}
        return {module: value for module, value in once.items() if module not in inner}

    @contextlib.contextmanager
    def _from(self, place: int, number: int) -> Iterator[None]:
        with _replaced({module: self._outputs[module][number] for module in self._modules[:place]}):
            yield


@contextlib.contextmanager
def _replaced(outputs: Mapping[nn.Module, Any]) -> Iterator[None]:
    """Modules that give what is on record, without computing anything."""
    before = {module: vars(module).get("forward") for module in outputs}
    try:
        for module, value in outputs.items():
            module.forward = _Recorded(value)  # type: ignore[assignment]
        yield
    finally:
        for module, own in before.items():
            del module.forward
            if own is not None:
                module.forward = own


class _Recorded:
    """Stands for a layer whose output is known; what comes behind may change it in place."""

    def __init__(self, output: Any) -> None:
        self._output = output

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return copied(self._output)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of a module's output."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [tensor for part in value for tensor in tensors_in(part)]
    return [value] if isinstance(value, Tensor) else []
