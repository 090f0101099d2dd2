"""The work and the parameters of each prunable layer, by its number of units."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cahp_plugin.latency.macs import counted
from cahp_plugin.observe.inputs import fixed_length
from cahp_plugin.units import PrunableLayer, kept_state
from cahp_plugin.units.linear import out_width
from cahp_plugin.units.positions import max_positions
from cahp_plugin.units.state import plain_calls

_LENGTHS = (16, 32, 64)

#: Coefficients of 1, L and L^2, where L is the number of tokens.
Polynomial = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """What one unit of a layer costs: costs grow by the same with each.

    Attributes:
        macs: Multiply-accumulates for one example, as a polynomial of its tokens.
        parameters: Parameters.
    """

    macs: Polynomial
    parameters: int


@dataclasses.dataclass(frozen=True)
class ModelCost:
    """What a model costs.

    Attributes:
        layers: One entry a prunable layer.
        macs: Multiply-accumulates of the whole model for one example, as a polynomial of its tokens.
        parameters: Parameters of the whole model.
    """

    layers: tuple[LayerCost, ...]
    macs: Polynomial
    parameters: int


def at_length(macs: Polynomial, tokens: int) -> float:
    """The value of a polynomial of the number of tokens."""
    return float(sum(value * tokens**power for power, value in enumerate(macs)))


def costs_of(model: Any, layers: Sequence[PrunableLayer]) -> ModelCost:
    """Counts what a model's layers cost, by ``torch.utils.flop_counter`` as ``cahp benchmark`` does.

    Attention counts in full, also where it is causal; encoder and decoder read the same number of tokens.

    Args:
        model: The model.
        layers: Its prunable layers, with at least one unit each.
    """
    fixed, limit = fixed_length(model.config), max_positions(model)
    lengths: tuple[int, ...] = (fixed,) if fixed is not None else _LENGTHS
    if fixed is None and limit is not None and limit < _LENGTHS[-1]:
        lengths = (limit // 4, limit // 2, limit)
    counts = [_count(model, layers, length) for length in lengths]
    # Exact for three lengths: nothing in a transformer grows faster than the square of its tokens.
    powers = np.vander(np.array(lengths, dtype=np.float64), increasing=True)
    fitted = np.linalg.solve(powers, np.array(counts, dtype=np.float64)) if fixed is None else np.array(counts)
    found = [
        LayerCost(tuple((macs / len(layer.units)).tolist()), _parameters(layer))
        for layer, macs in zip(layers, fitted.T, strict=False)
    ]
    whole = sum(parameter.numel() for parameter in model.parameters())
    return ModelCost(tuple(found), tuple(fitted[:, -1].tolist()), whole)


def _parameters(layer: PrunableLayer) -> int:
    """Parameters of one unit."""
    total = layer.unit_dim * out_width(layer.output)
    for path, module in layer.projections().items():
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        total += own * len(layer.outputs(path, layer.units[0])) // layer.expected_width(path)
    return total


def _count(model: Any, layers: Sequence[PrunableLayer], length: int) -> list[int]:
    """Multiply-accumulates of each layer, and of the whole model."""
    with kept_state(model), plain_calls(model):
        model.eval().requires_grad_(False)
        counter = counted(model, length, min(length, max_positions(model) or length))
    counts = {path: sum(own.values()) // 2 for path, own in counter.get_flop_counts().items()}
    root = type(model).__name__

    def of(layer: PrunableLayer) -> int:
        if layer.noun == "heads":
            return counts.get(f"{root}.{layer.name}", 0)
        return sum(counts.get(f"{root}.{layer.name}.{path}", 0) for path in (*layer.inputs(), layer.spec.output))

    return [*map(of, layers), counter.get_total_flops() // 2]
