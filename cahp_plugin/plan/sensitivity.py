"""What each size of each layer costs at the model's outputs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from cahp_plugin.errors import PruningError
from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.suffix import Suffix
from cahp_plugin.units import PrunableLayer
from cahp_plugin.units.linear import weight_of

#: ``divergence(ours, theirs, batch)``: how far outputs are from the dense model's, ``(batch,)``.
Divergence = Callable[[Any, Any, Batch], Tensor]
#: Weight of an output projection and the change of its bias.
Fit = tuple[Tensor, Tensor]


def sensitivity(suffix: Suffix, layer: PrunableLayer, fits: Sequence[Fit], divergence: Divergence) -> list[float]:
    """Mean divergence of the model's outputs from the dense ones, for each of a layer's fits.

    Only what lies behind the layer runs.

    Args:
        suffix: The dense model's passes.
        layer: The layer.
        fits: What takes the place of its output projection's weights.
        divergence: Of two models' outputs.

    Raises:
        PruningError: An output is not finite.
    """
    totals = [0.0] * len(fits)
    for number, batch in enumerate(suffix.batches):
        theirs = suffix.dense(number)
        with suffix.at(layer, number) as run:
            for place, fit in enumerate(fits):
                with _weights(layer, *fit):
                    totals[place] += float(divergence(run(), theirs, batch).double().sum())
    if not all(map(math.isfinite, totals)):
        raise PruningError(f"{layer}: the model's outputs are not finite, so its sizes can't be compared.")
    count = sum(map(len, suffix.batches))
    return [total / count for total in totals]


@contextlib.contextmanager
def _weights(layer: PrunableLayer, weight: Tensor, shift: Tensor) -> Iterator[None]:
    """Other weights in a layer's output projection for a while."""
    output: Any = layer.output
    places = [(weight_of(output).data, weight)]
    if output.bias is not None:
        places.append((output.bias.data, output.bias.double() + shift.to(output.bias.device)))
    before = [place.clone() for place, _ in places]
    try:
        for place, value in places:
            place.copy_(value)
        yield
    finally:
        for (place, _), value in zip(places, before, strict=True):
            place.copy_(value)
