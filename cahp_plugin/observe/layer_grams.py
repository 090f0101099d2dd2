"""Gram matrices of what goes into the output projections, transformer layer by transformer layer, in one pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from cahp_plugin.errors import PruningError
from cahp_plugin.observe.batches import Batch, largest_first
from cahp_plugin.observe.normal_equations import NormalEquations
from cahp_plugin.observe.streams import check_finite
from cahp_plugin.observe.tokens import query_side
from cahp_plugin.observe.walk import Walk, steps_of
from cahp_plugin.units import PrunableLayer
from cahp_plugin.units.state import call_options

#: Layers of one transformer layer, each with the products of its output projection's inputs.
Grams = list[tuple[PrunableLayer, NormalEquations]]


def layer_grams(model: Any, layers: Sequence[PrunableLayer], batches: Sequence[Batch]) -> Iterator[Grams]:
    """Runs a model over a calibration set once, all batches abreast, and hands out the sums of each step as it comes.

    So only one transformer layer's sums are there at a time. The model may be run between two steps, and has to be as
    it was when the next is asked for. Models whose layers are no modules that are called, or serve several depths,
    give the sums of all layers at once.

    Args:
        model: The model, in eval mode, outside of autograd.
        layers: Its layers, with at least one unit each.
        batches: The calibration set, on the model's device.

    Raises:
        PruningError: Activations are not finite, or a layer did not run.
    """
    steps = None if any(layer.spec.reused for layer in layers) else steps_of(model, layers)
    sums = {layer.output_path: NormalEquations() for layer in layers}
    batches, running = largest_first(batches), list[Batch]()

    def hook(layer: PrunableLayer) -> Any:
        def add(module: Any, args: tuple[Any, ...]) -> None:
            if running:
                mask = query_side(layer, running[0], args[0].shape[1]).mask.to(args[0].device)
                context = args[0][mask]
                check_finite(layer, context)
                sums[layer.output_path].add(context, context[:, :0])

        return add

    def ready(own: Sequence[PrunableLayer]) -> Grams:
        missing = [str(layer) for layer in own if not sums[layer.output_path].count]
        if missing:
            raise PruningError(f"The examples do not run through {', '.join(missing)}.")
        return [(layer, sums.pop(layer.output_path)) for layer in own]

    with contextlib.ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.output.register_forward_pre_hook(hook(layer)))
        if steps is None:
            for batch in batches:
                running[:] = [batch]
                model(**batch.inputs, **call_options(type(model)))
            running.clear()
            yield ready(layers)
            return
        stops = {model.get_submodule(path): path for path in steps}
        with Walk(model, list(stops), batches) as walk:
            calls = [walk.advance(number) for number in range(len(batches))]
            while calls[0] is not None:
                path = stops[calls[0].module]
                for number, batch in enumerate(batches):
                    running[:] = [batch]
                    calls[number] = walk.advance(number)
                running.clear()
                yield ready(steps.pop(path))
