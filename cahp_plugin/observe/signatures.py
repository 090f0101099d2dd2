"""Attention signatures: maps resized to a common square, and their moments for each class."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from cahp_plugin.observe.sums import Sums, exact


@functools.lru_cache(maxsize=2048)
def resize_operator(size: int, length: int) -> Tensor:
    """Builds W of shape ``(size, length)`` so that ``W A W^T`` is the bilinear resizing of a square A.

    Half-pixel centres, ``align_corners=False``, no antialiasing: the same as ``torch.nn.functional.interpolate``. Row
    ``i`` samples the place ``(i + 1/2) length / size - 1/2`` between its two neighbours.

    Args:
        size: Side B of the resized map, in cells.
        length: Side S of the map, in tokens.

    Returns:
        Float64 tensor of shape ``(size, length)``; its rows sum to 1. Cached: do not write to it.
    """
    place = ((torch.arange(size, dtype=torch.float64) + 0.5) * length / size - 0.5).clamp_(min=0)
    low = place.floor().long().clamp_(max=length - 1)
    high = (low + 1).clamp_(max=length - 1)
    weight = place - low
    operator = torch.zeros(size, length, dtype=torch.float64)
    rows = torch.arange(size)
    operator.index_put_((rows, low), 1 - weight, accumulate=True)
    operator.index_put_((rows, high), weight, accumulate=True)
    return operator


def batch_operator(mask: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Builds the resizing operator of each example of a padded batch; the columns of padding are zero.

    Cropping to the real tokens and resizing then is one product, wherever the padding is.

    Args:
        mask: Real tokens, shape ``(batch, tokens)``, nonzero where real; at least one a row.
        size: Side B of the resized map, in cells.
        dtype: Type of the result.

    Returns:
        Tensor of shape ``(batch, size, tokens)`` on the CPU.
    """
    real = mask.to("cpu", torch.bool)
    operator = torch.zeros(real.shape[0], real.shape[1], size, dtype=dtype)
    lengths = real.sum(dim=1).tolist()
    operator[real] = torch.cat([resize_operator(size, length).T for length in lengths]).to(dtype)
    return operator.transpose(1, 2).contiguous()


def resize_maps(maps: Tensor, operator: Tensor, key_operator: Tensor) -> Tensor:
    """Crops and resizes the attention maps of one layer as two batched matrix products, ``W_q A W_k^T``.

    Args:
        maps: Attention maps, shape ``(batch, heads, queries, keys)``.
        operator: From :func:`batch_operator` for the queries, shape ``(batch, size, queries)``, of the same type and
            device.
        key_operator: The same for the keys.

    Returns:
        Resized maps of shape ``(batch, size, heads, size)``: query cell, head, key cell. The second product leaves
        them in this order; :meth:`ClassMoments.finish` puts the head first, once.
    """
    batch, heads, queries, keys = maps.shape
    size = operator.shape[1]
    half = torch.bmm(maps.reshape(batch, heads * queries, keys), key_operator.transpose(1, 2))
    half = half.view(batch, heads, queries, size).transpose(1, 2).reshape(batch, queries, heads * size)
    return torch.bmm(operator, half).view(batch, size, heads, size)


def resize_rows(maps: Tensor, chosen: Tensor, key_operator: Tensor) -> Tensor:
    """Crops and resizes some rows of the attention maps of one layer along the keys, ``A W_k^T``.

    Args:
        maps: Attention maps, shape ``(batch, heads, queries, keys)``.
        chosen: The rows' queries, bool of shape ``(batch, queries)``.
        key_operator: From :func:`batch_operator` for the keys, shape ``(batch, size, keys)``.

    Returns:
        Resized rows of shape ``(rows, 1, heads, size)``, as of maps with one query cell.
    """
    batch, heads, queries, keys = maps.shape
    rows = torch.bmm(maps.reshape(batch, heads * queries, keys), key_operator.transpose(1, 2))
    return rows.view(batch, heads, queries, -1).transpose(1, 2)[chosen.to(maps.device)][:, None]


class ClassMoments(Sums):
    """Running mean and unbiased variance of each cell, for each class, over batches.

    Sums are taken of the deviations from a fixed reference (the first batch's mean), so that nothing cancels, and are
    added up in float64, whatever the batch size and order. Memory does not grow with the examples.
    """

    def add(self, layer: int, resized: Tensor, members: Tensor, classes: Sequence[int]) -> None:
        """Adds a batch of one layer.

        Args:
            layer: Number of the layer.
            resized: From :func:`resize_maps`, shape ``(batch, size, heads, size)``, or from :func:`resize_rows`;
                overwritten.
            members: Which of the batch are in which class, bool of shape ``(C, batch)``, on the CPU: in one, several
                or none.
            classes: Names of the C classes.
        """
        cells = resized.view(len(resized), resized.shape[1:].numel())
        if layer not in self.fixed:
            reference = cells.mean(dim=0) if len(cells) else cells.new_zeros(cells.shape[1])
            self.fixed[layer] = reference.view(resized.shape[1:])
        cells.sub_(self.fixed[layer].to(cells).flatten())
        one_hot = members.to(cells)
        sums, squares = exact(one_hot @ cells), exact(one_hot @ cells.square_())
        for row, count in enumerate(members.sum(dim=1).tolist()):
            if count:
                label = int(classes[row])
                self.plus((layer, label, "count"), count)
                self.plus((layer, label, "sum"), sums[row].clone())
                self.plus((layer, label, "squares"), squares[row].clone())

    def counts(self) -> dict[int, int]:
        """Class -> its examples, for the classes that have any, ascending."""
        first = min(self.fixed, default=0)
        found = {key[1]: value for key, value in self.state.items() if key[::2] == (first, "count")}
        return dict(sorted(found.items()))

    def finish(self, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Returns mean and unbiased variance, each float64 of shape ``(C, N, cells)``, on the CPU.

        N counts the heads of all layers in order. A class with fewer than two examples has variance NaN.

        Args:
            classes: The classes to return, each with an example at least.
        """
        found = []
        for label in classes:
            parts = []
            for layer in sorted(self.fixed):
                reference = self.fixed[layer]
                rows, heads, size = reference.shape
                count, total, squares = (self.state[layer, label, name] for name in ("count", "sum", "squares"))
                shift = total.cpu() / count
                mean = reference.to("cpu", torch.float64).flatten() + shift
                spread = squares.cpu() - count * shift.square()
                variance = (spread / (count - 1)).clamp_(min=0) if count > 1 else torch.full_like(mean, torch.nan)
                heads_first = torch.stack([mean, variance]).view(2, rows, heads, size).transpose(1, 2)
                parts.append(heads_first.reshape(2, heads, rows * size))
            found.append(torch.cat(parts, dim=1))
        mean, variance = torch.stack(found, dim=1)
        return mean, variance
