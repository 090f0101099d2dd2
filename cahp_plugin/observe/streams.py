"""What goes through a model's layers, token by token, without the rest of the forward pass."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cahp_plugin.errors import PruningError
from cahp_plugin.observe.batches import Batch, first_examples, read_inputs
from cahp_plugin.observe.tokens import query_side
from cahp_plugin.units import PrunableLayer
from cahp_plugin.units.state import call_options


class Tokens(NamedTuple):
    """One layer's part of the residual stream, at the real tokens of a batch.

    Attributes:
        context: Concatenated outputs of the units, the output projection's input: ``(tokens, units * size)``.
        front: Residual stream in front of the layer, ``(tokens, hidden size)``; ``None`` where more than an addition
            stands between the projection and the stream.
        output: What the projection adds, ``(tokens, hidden size)``; ``None`` where it was not run.
    """

    context: Tensor
    front: Tensor | None
    output: Tensor | None

    @property
    def behind(self) -> Tensor:
        """Residual stream behind the layer, before it is normalised; ``output`` where there is no ``front``."""
        assert self.output is not None
        return self.output if self.front is None else self.front + self.output


@dataclasses.dataclass
class Running:
    """Which batch a model is at."""

    batch: Batch


class Enough(Exception):
    """Ends a forward pass where all that was asked for has been seen."""


@contextlib.contextmanager
def tapped(
    model: Any, layers: Sequence[PrunableLayer], running: Running, *, write: bool = True, end: bool = False
) -> Iterator[dict[str, list[Tokens]]]:
    """Records what goes through layers whenever they run, while the context is open.

    Args:
        model: The model.
        layers: Its layers to look at.
        running: The batch that is running, to be kept up to date.
        write: Whether the output projections run; otherwise the pass ends in front of the first of them.
        end: Whether the pass ends behind the last of the layers, by :class:`Enough`.

    Yields:
        Path of the output projection -> what was seen, call by call, in the order of the calls.
    """
    found: dict[str, list[Tokens]] = {}
    fronts: dict[str, Any] = {}
    hooks = contextlib.ExitStack()

    def tap(layer: PrunableLayer) -> None:
        name, stream = layer.output_path, layer.stream(model)

        def front(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            fronts[name] = args[0] if args else kwargs.get("hidden_states", kwargs.get("query"))

        def record(context: Tensor, output: Tensor | None) -> None:
            if stream is not None and name not in fronts:
                raise PruningError(f"{layer} ran without the module that its row names as `residual` before it.")
            mask = query_side(layer, running.batch, context.shape[1]).mask.to(context.device)
            values = (None if value is None else value[mask] for value in (fronts.get(name), output))
            found.setdefault(name, []).append(Tokens(context[mask], *values))

        def before(module: Any, args: tuple[Any, ...]) -> None:
            record(args[0], None)
            raise Enough

        def behind(module: Any, args: tuple[Any, ...], output: Tensor) -> None:
            record(args[0], output)
            if end and len(found) == len(layers):
                raise Enough

        if stream is not None:
            hooks.enter_context(stream.register_forward_pre_hook(front, with_kwargs=True))
        hooks.enter_context(
            layer.output.register_forward_hook(behind) if write else layer.output.register_forward_pre_hook(before)
        )

    with hooks:
        for layer in layers:
            tap(layer)
        yield found


def layer_tokens(model: Any, layers: Sequence[PrunableLayer], batch: Batch) -> dict[str, Tokens]:
    """Runs a model up to the last of some layers and returns what went through them.

    Args:
        model: A model, in eval mode, outside of autograd.
        layers: Its layers to look at.
        batch: Examples.

    Returns:
        Path of the output projection -> its tokens; of a block that is used several times, all of them.
    """
    ends = not any(layer.spec.reused for layer in layers)
    with tapped(model, layers, Running(batch), end=ends) as found, contextlib.suppress(Enough):
        model(**batch.inputs_on(model.device), **call_options(type(model)))
    return {name: joined(parts) for name, parts in found.items()}


def check_finite(layer: PrunableLayer, *tensors: Tensor) -> None:
    """Looks at a layer's activations.

    Raises:
        PruningError: Some are not finite.
    """
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise PruningError(f"{layer} has activations that are not finite.")


def joined(parts: Sequence[Tokens]) -> Tokens:
    """Tokens of several calls, one after the other."""
    if len(parts) == 1:
        return parts[0]

    def join(values: Sequence[Tensor | None]) -> Tensor | None:
        return None if values[0] is None else torch.cat([value for value in values if value is not None])

    context = torch.cat([part.context for part in parts])
    return Tokens(context, join([part.front for part in parts]), join([part.output for part in parts]))


def apart(batches: Sequence[Batch], every: int) -> tuple[list[Batch], list[Batch]]:
    """Batches to fit on, and those to measure on: one in ``every``, or the last of fewer."""
    places = range(every - 1, len(batches), every) or range(len(batches) - 1, len(batches))
    return [batch for place, batch in enumerate(batches) if place not in places], [batches[place] for place in places]


def calibration_batches(
    dataloader: Iterable[Mapping[str, Any]], model: Any, num_examples: int, *, labels: bool = False
) -> list[Batch]:
    """The first examples of a data loader, in its batches, on the model's device.

    Args:
        dataloader: Dict batches; labels are not needed.
        model: The model that will see them.
        num_examples: How many.
        labels: As for :func:`cahp_plugin.observe.batches.read_inputs`.

    Raises:
        DataError: There is none, or an example has no real token.
    """
    batches = first_examples(read_inputs(dataloader, model, labels=labels), num_examples)
    return [dataclasses.replace(batch, inputs=batch.inputs_on(model.device)) for batch in batches]
