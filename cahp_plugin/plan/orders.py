"""The order in which a layer loses its units, and the refit of what is left, from one Gram matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cahp_plugin.errors import SelectionError
from cahp_plugin.observe.normal_equations import NormalEquations
from cahp_plugin.selectors import View, make_selector
from cahp_plugin.selectors.base import Ranked
from cahp_plugin.units import PrunableLayer
from cahp_plugin.units.linear import weight_of

#: Shares of a layer's units whose loss is measured.
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.12, 0.06, 0.03, 0.0)


def sizes_of(layer: PrunableLayer, multiple_of: int) -> tuple[int, ...]:
    """Numbers of units that a layer may keep, descending from all to none.

    Args:
        layer: The layer.
        multiple_of: Of neurons, what all but the first are multiples of.
    """
    total = len(layer.units)
    step = multiple_of if layer.noun == "neurons" else 1
    rounded = {round(share * total / step) * step for share in SHARES}
    return (total, *sorted((size for size in rounded if size < total), reverse=True))


def centred(layer: PrunableLayer, equations: NormalEquations) -> tuple[Tensor, Tensor]:
    """Gram matrix and mean of a layer's channels, float64; around 0 where the projection has no bias to refit."""
    gram = equations.centred()[0]
    if layer.output.bias is None:
        return equations.state["xx"], torch.zeros_like(equations.state["x"])
    return gram, equations.state["x"] / equations.count


def refitted(
    layer: PrunableLayer, gram: Tensor, mean: Tensor, kept: Sequence[int], ridge: float
) -> tuple[Tensor, Tensor]:
    r"""Weight and change of the bias of an output projection that make up for the channels that are gone.

    With kept channels k and others g, centred inputs x and the ridge s (relative to the mean square of a kept
    channel), minimises :math:`|W_g x_g - D x_k|^2 + s |D|^2` and adds D to the kept columns.

    Args:
        layer: The layer.
        gram: Its Gram matrix.
        mean: Its channels' means.
        kept: Places of the units that stay.
        ridge: s.

    Returns:
        The weight, with columns of 0 for the channels that are gone, and what is added to the bias.
    """
    size = layer.unit_dim
    weight = weight_of(layer.output).detach().double().to(gram.device)
    stays = torch.zeros(len(gram), dtype=torch.bool, device=gram.device)
    for place in kept:
        stays[place * size : (place + 1) * size] = True
    gone, new = weight[:, ~stays], torch.zeros_like(weight)
    shift = gone @ mean[~stays]
    if kept:
        own = gram[stays]
        block = own[:, stays]
        strength = ridge * float(block.diagonal().mean()) or 1e-12
        factor = torch.linalg.cholesky(block + strength * torch.eye(len(block), dtype=gram.dtype, device=gram.device))
        change = torch.cholesky_solve(own[:, ~stays] @ gone.T, factor).T
        new[:, stays] = weight[:, stays] + change
        shift = shift - change @ mean[stays]
    return new, shift


def selector_order(view: View, name: str, seed: int) -> list[tuple[int, int]]:
    """Layer and first head of every unit in the order of a selector, the last to go first.

    A unit's place is the smallest number of units at which it is kept; of equal ones the more salient comes first.

    Args:
        view: The model and the data that it is chosen on; layers have no minimum.
        name: Name of the selector.
        seed: Seed of whatever is drawn.

    Raises:
        CAHPError: As :meth:`cahp_plugin.selectors.Selector.fit`.
    """
    fitted, units = make_selector(name).fit(view, seed=seed), view.units
    if isinstance(fitted, Ranked):
        return [(layer, heads[0]) for layer, heads in fitted.ranking()]
    count = len(units.firsts)
    first = dict.fromkeys(units.firsts, count)
    for size in range(count - 1, 0, -1):
        try:
            kept = fitted.keep(size * units.group_size).heads
        except SelectionError:  # no clustering into so few
            break
        first |= {(layer, head): size for layer, head in units.firsts if head in kept[layer]}
    salience = dict(zip(units.firsts, view.evidence.salience.tolist(), strict=True))
    return sorted(units.firsts, key=lambda unit: (first[unit], -salience[unit]))
