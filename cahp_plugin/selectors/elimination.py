"""Optimal Brain Surgeon: the order in which a linear layer loses its inputs when the others make up for each loss."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from cahp_plugin.units import PrunableLayer
from cahp_plugin.units.linear import weight_of

#: Share of the channels that go between two factorisations (of neurons; of blocks, which make larger products), and
#: how many go at least.
_SHARE_OF_NEURONS, _SHARE_OF_BLOCKS, _LEAST = 1 / 4, 1 / 2, 32
#: A diagonal entry of the inverse that has shrunk below this share of itself has lost too many digits.
_SHRUNK = 1e-6


@dataclasses.dataclass(frozen=True)
class Elimination:
    """All units of a layer, in the order in which they go.

    Attributes:
        order: The units, the first to go first; what is left after t removals is ``order[t:]``.
        costs: What each removal adds to the error: squared, summed over tokens and outputs, at least 0, shape
            ``(units,)``, float64. They need not rise from one to the next.
    """

    order: tuple[int, ...]
    costs: Tensor


def eliminate_units(layer: PrunableLayer, gram: Tensor, ridge: float) -> Elimination:
    """Removes a layer's heads or neurons one by one; see :func:`eliminate`.

    Args:
        layer: The layer.
        gram: Gram matrix of what goes into its output projection, float64: ``(channels, channels)``.
        ridge: Strength of a ridge, relative to the mean square of a channel.

    Returns:
        Places of its units, and costs.
    """
    strength = ridge * float(gram.diagonal().mean()) or 1e-12
    weight = weight_of(layer.output).detach().double().to(gram.device)
    regular = gram + strength * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return eliminate(regular, weight, layer.unit_dim)


def eliminate(gram: Tensor, weight: Tensor, size: int = 1) -> Elimination:
    r"""Removes units (blocks of input channels) of a linear layer one by one, always the one that costs least.

    With the Gram matrix H and its inverse P, unit b costs what the output still errs by once all other weights have
    been refitted to the output that was there before, and these become

    .. math:: \mathrm{cost}_b = \mathrm{tr}\, W_b P_{bb}^{-1} W_b^T, \qquad
        W \leftarrow W - W_b P_{bb}^{-1} P_{b:}, \qquad P \leftarrow P - P_{:b} P_{bb}^{-1} P_{b:}.

    The costs add up to the error against the layer as given. Every removal is exact; only the work is put off. With
    :math:`P_{bb} = L L^T`, :math:`U = L^{-1} P_{b:}`, :math:`G = W^T W` and
    :math:`A = L^{-1} G_{b:} - \tfrac12 L^{-1} G_{bb} L^{-T} U`, a removal subtracts :math:`U^T U` from P and
    :math:`A^T U + U^T A` from G. Only the diagonal blocks are kept up to date; the rows of the next unit come from the
    U and A stored so far. Once a share of the channels is gone, or a removal would lose too many digits, P and the
    refitted W are computed anew from H, so no rounding error outlives that. For n neurons and m outputs this takes
    about ``2 n^3 + 13 n^2 m`` operations.

    Hassibi and Stork 1993 (OBS); for blocks: Kurtic et al. 2023 (ZipLM, eq. 3).

    Args:
        gram: H, the inputs' products summed over tokens, centred if the layer has a bias to refit, plus any ridge
            (which then counts as error too): ``(units * size, units * size)``. If rounding makes it singular or
            indefinite, a ridge as small as will do is added.
        weight: W: ``(outputs, units * size)``.
        size: Channels of a unit: 1 for neurons, the head's width for heads.

    Returns:
        Order and costs.

    Raises:
        torch.linalg.LinAlgError: H is not finite.
    """
    channels = weight.shape[1]
    gram, weight = gram.detach().double(), weight.detach().double()
    left = torch.arange(channels, device=gram.device).view(-1, size)
    order: list[int] = []
    costs: list[float] = []
    while len(left):
        gone = _remove_some(*_refit(gram, weight, left.flatten()), size)
        places = [place for place, _ in gone]
        order += (left[places, 0] // size).tolist()
        costs += [cost for _, cost in gone]
        stays = torch.ones(len(left), dtype=torch.bool, device=left.device)
        stays[places] = False
        left = left[stays]
    return Elimination(tuple(order), torch.tensor(costs, dtype=torch.float64))


def _refit(gram: Tensor, weight: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """P and G of the channels that are left, their weights refitted to the output of all."""
    gone = torch.ones(len(gram), dtype=torch.bool, device=gram.device)
    gone[left] = False
    rows, refitted = gram[left], weight[:, left]
    factor = _factor(rows[:, left])
    if gone.any():
        refitted += torch.cholesky_solve(rows[:, gone] @ weight[:, gone].T, factor).T
    return torch.cholesky_inverse(factor), refitted.T @ refitted


def _factor(matrix: Tensor) -> Tensor:
    """Cholesky factor of a matrix, to which it adds as much of a ridge as rounding makes necessary (zeros: 1e-12)."""
    largest = float(matrix.abs().max())
    for ridge in (0.0, 1e-12, 1e-8, 1e-4, 1.0, len(matrix)):
        matrix.diagonal().add_(ridge * largest or ridge)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not failed:
            return factor
    raise torch.linalg.LinAlgError("The Gram matrix is not finite.")


def _remove_some(inverse: Tensor, product: Tensor, size: int) -> list[tuple[int, float]]:
    """The next removals, as far as it pays to put the work off: places and costs."""
    channels = len(inverse)
    units = channels // size
    share = _SHARE_OF_NEURONS if size == 1 else _SHARE_OF_BLOCKS
    count = min(units, max(1, int(max(_LEAST, share * channels)) // size))
    panel_u, panel_a = inverse.new_empty(2, count * size, channels)
    blocks_p, blocks_g = _diagonal_blocks(inverse, size), _diagonal_blocks(product, size)
    before = inverse.diagonal()
    present = torch.ones(units, dtype=torch.bool, device=inverse.device)
    gone: list[tuple[int, float]] = []
    while len(gone) < count:
        place = int(_costs(blocks_p, blocks_g).where(present, torch.inf).argmin())
        block = slice(place * size, (place + 1) * size)
        done = len(gone) * size
        past_u, past_a = panel_u[:done], panel_a[:done]
        row_p = inverse[block] - past_u[:, block].T @ past_u
        factor, failed = torch.linalg.cholesky_ex(row_p[:, block], check_errors=not gone)
        if gone and (failed or bool((row_p[:, block].diagonal() < _SHRUNK * before[block]).any())):
            break
        row_g = product[block] - past_a[:, block].T @ past_u - past_u[:, block].T @ past_a
        u, g = torch.linalg.solve_triangular(factor, torch.stack((row_p, row_g)), upper=False)
        inner = torch.linalg.solve_triangular(factor, g[:, block].T, upper=False)
        a = g - inner @ u / 2
        panel_u[done : done + size], panel_a[done : done + size] = u, a
        gone.append((place, max(0.0, float(inner.trace()))))
        u, a = (rows.view(size, units, size).transpose(0, 1) for rows in (u, a))
        mixed = a.mT @ u
        blocks_p -= u.mT @ u
        blocks_g -= mixed + mixed.mT
        present[place] = False
        blocks_p[place] = torch.eye(size, dtype=inverse.dtype, device=inverse.device)
    return gone


def _diagonal_blocks(matrix: Tensor, size: int) -> Tensor:
    """Blocks along the diagonal: ``(units, size, size)``."""
    units = len(matrix) // size
    return matrix.view(units, size, units, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone()


def _costs(inverse: Tensor, product: Tensor) -> Tensor:
    """Trace of ``P_bb^-1 G_bb`` for every block, at least 0."""
    if inverse.shape[1] == 1:
        return (product / inverse).flatten().clamp_min(0)
    return torch.linalg.solve_ex(inverse, product)[0].diagonal(dim1=1, dim2=2).sum(1).clamp_min(0)
