"""Refits output projections to the dense model's residual stream, in the order of the layers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from cahp_plugin.errors import PruningError
from cahp_plugin.observe.batches import Batch, largest_first
from cahp_plugin.observe.normal_equations import NormalEquations
from cahp_plugin.observe.streams import Enough, Running, Tokens, check_finite, joined, layer_tokens, tapped
from cahp_plugin.observe.walk import Call, Walk, set_aside, steps_of
from cahp_plugin.units import PrunableLayer
from cahp_plugin.units.linear import out_width, weight_of

#: The same layer of the pruned and of the dense model.
Pair = tuple[PrunableLayer, PrunableLayer]
#: Path of an output projection, its relative error before and after where that is known, and the number of tokens.
Fitted = tuple[str, tuple[float, float] | None, int]
#: A layer, and what its output projection leaves to be explained -> the changes of the projection's weight and bias.
Solve = Callable[[PrunableLayer, NormalEquations], tuple[Tensor, Tensor]]


def least_squares(ridge: float) -> Solve:
    """Solves for any change of weight and bias; the ridge as for :func:`cahp_plugin.recover_least_squares`."""
    return lambda layer, left: left.solve(ridge, intercept=layer.output.bias is not None)


def refit(model: Any, dense: Any, pairs: Sequence[Pair], batches: Sequence[Batch], solve: Solve) -> Iterator[Fitted]:
    """Refits layers, each on what arrives from those before it; one pass over the depth where the model allows it.

    Args:
        model: The pruned model; changed in place.
        dense: The model before pruning.
        pairs: Layers to refit.
        batches: The calibration set.
        solve: Solves for the change of a projection.

    Yields:
        Path of an output projection, its relative error before and after, and the tokens that it was fitted on.

    Raises:
        PruningError: Activations are not finite, or the models run their layers in another order.
    """
    batches = largest_first(batches)
    twins = {ours.output_path: theirs for ours, theirs in pairs}
    steps = steps_of(model, [ours for ours, _ in pairs])
    if steps is None or any(ours.spec.reused for ours, _ in pairs):
        yield from _refit_restarting(model, dense, pairs, batches, solve)
        return
    stops, dense_stops = ({one.get_submodule(path): path for path in steps} for one in (model, dense))
    numbers = range(len(batches))
    running = Running(batches[0])
    with (
        tapped(dense, list(twins.values()), running) as seen,  # from the start: a call that waits has its hooks
        Walk(dense, list(dense_stops), batches) as dense_walk,
        Walk(model, list(stops), batches) as walk,
    ):
        waiting: list[Call | None] = [dense_walk.advance(number) for number in numbers]
        while steps:
            calls = [_there(walk.advance(number)) for number in numbers]
            path = stops[calls[0].module]
            if path not in steps:
                raise PruningError(
                    f"{path} is called twice in a pass: it serves several depths, and its row in the table does not "
                    "say so (`reused`)."
                )
            targets: dict[str, list[Tensor]] = {}  # in the order in which the layer runs its projections
            for number, running.batch in enumerate(batches):
                call = _there(waiting[number])
                if (dense_stops[call.module], stops[calls[number].module]) != (path, path):
                    raise PruningError("The two models, or two batches, run through the layers in different orders.")
                seen.clear()
                if len(steps) > 1:
                    waiting[number] = dense_walk.advance(number)
                else:  # what lies behind the last layer need not run
                    call.run()
                for name, parts in seen.items():
                    targets.setdefault(name, []).append(joined(parts).behind)
                    set_aside([targets[name][-1]], len(batches))
            layers = {layer.output_path: layer for layer in steps.pop(path)}
            for name, wanted in targets.items():
                yield _fitted(
                    layers[name], zip(_seen(model, layers[name], calls, batches), wanted, strict=True), solve
                )


def _seen(model: Any, layer: PrunableLayer, calls: Sequence[Call], batches: Sequence[Batch]) -> Iterator[Tokens]:
    """What arrives at a layer's output projection, batch by batch; the layer runs once more for it."""
    for call, batch in zip(calls, batches, strict=True):
        with tapped(model, [layer], Running(batch), write=False) as seen, contextlib.suppress(Enough):
            call.run()
        yield joined(seen[layer.output_path])


def _refit_restarting(
    model: Any, dense: Any, pairs: Sequence[Pair], batches: Sequence[Batch], solve: Solve
) -> Iterator[Fitted]:
    """As :func:`refit`, by passes from the input for each projection.

    For blocks that serve several depths, each fitted to all of them, and for models whose layers are no modules.
    """
    by_path = {ours.output_path: (ours, theirs) for ours, theirs in pairs}
    order = layer_tokens(dense, [theirs for _, theirs in pairs], batches[0])  # as the model runs them first
    for path in order:
        ours, theirs = by_path[path]
        targets = (layer_tokens(dense, [theirs], batch)[path].behind for batch in batches)
        seen = (layer_tokens(model, [ours], batch)[path] for batch in batches)
        yield _fitted(ours, zip(seen, targets, strict=True), solve)


def _fitted(layer: PrunableLayer, parts: Iterable[tuple[Tokens, Tensor]], solve: Solve) -> Fitted:
    """Solves the least-squares problem of one output projection, and changes its weights.

    Args:
        layer: The layer.
        parts: For each batch, what goes into the projection, and the stream that is to lie behind the layer.
        solve: As for :func:`refit`.
    """
    output: Any = layer.output
    equations = NormalEquations()
    squares, total = 0.0, torch.zeros(out_width(output), dtype=torch.float64)
    for seen, target in parts:
        wanted = target if seen.front is None else target - seen.front
        check_finite(layer, seen.context, wanted)
        equations.add(seen.context, wanted)
        squares += float(target.double().square().sum())
        total += target.double().sum(0).cpu()
    variance = squares - float(total.square().sum()) / equations.count or 1.0
    left = equations.less(weight_of(output), output.bias)
    change, shift = solve(layer, left)
    if output.bias is not None:
        output.bias.data.add_(shift.to(output.bias))
    if layer.present:
        weight = weight_of(output)
        weight.data.add_(change.to(weight))
    torch.clear_autocast_cache()  # it may hold the weights from before
    return layer.output_path, (left.error() / variance, left.error(change, shift) / variance), left.count


def _there(call: Call | None) -> Call:
    if call is None:
        raise PruningError("The example inputs do not run through every layer of the model.")
    return call
