"""Attention signatures: maps resized to a common square, and their moments for each class."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


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


def resize_maps(maps: Tensor, operator: Tensor, key_operator: Tensor | None = None) -> Tensor:
    """Crops and resizes the attention maps of one layer as two batched matrix products, ``W_q A W_k^T``.

    Args:
        maps: Attention maps, shape ``(batch, heads, queries, keys)``.
        operator: From :func:`batch_operator` for the queries, shape ``(batch, size, queries)``, of the same type and
            device.
        key_operator: The same for the keys, where they are other tokens than the queries (cross attention).

    Returns:
        Resized maps of shape ``(batch, size, heads, size)``: query cell, head, key cell. The second product leaves
        them in this order; :meth:`ClassMoments.finish` puts the head first, once.
    """
    batch, heads, queries, keys = maps.shape
    size = operator.shape[1]
    key_operator = operator if key_operator is None else key_operator
    half = torch.bmm(maps.reshape(batch, heads * queries, keys), key_operator.transpose(1, 2))
    half = half.view(batch, heads, queries, size).transpose(1, 2).reshape(batch, queries, heads * size)
    return torch.bmm(operator, half).view(batch, size, heads, size)


class ClassMoments:
    """Running mean and unbiased variance of each cell, for each class, over batches.

    Sums are taken of the deviations from a fixed reference (the first batch's mean), so that nothing cancels, and are
    added up in float64: an exact merge, whatever the batch size and order. Memory does not grow with the examples.

    Args:
        num_classes: Number of classes C; :meth:`grow` adds more.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._counts: dict[int, Tensor] = {}
        self._reference: dict[int, Tensor] = {}
        self._sums: dict[int, Tensor] = {}
        self._squares: dict[int, Tensor] = {}
        self._shapes: dict[int, tuple[int, int]] = {}

    @property
    def counts(self) -> Tensor:
        """Examples of each class, float64 of shape ``(C,)``."""
        return self._counts[min(self._counts)] if self._counts else torch.zeros(self.num_classes, dtype=torch.float64)

    def grow(self, num_classes: int) -> None:
        """Makes room for more classes, which have no example so far."""
        more = num_classes - self.num_classes
        self.num_classes = num_classes
        for found in (self._counts, self._sums, self._squares):
            for layer, values in found.items():
                found[layer] = torch.cat([values, values.new_zeros(more, *values.shape[1:])])

    def update(self, layer: int, resized: Tensor, one_hot: Tensor) -> None:
        """Adds a batch of one layer.

        Args:
            layer: Position of the layer among those observed, from 0.
            resized: From :func:`resize_maps`, shape ``(batch, size, heads, size)``; overwritten.
            one_hot: Classes of the examples, shape ``(C, batch)``, type and device of ``resized``.
        """
        batch, size, heads, _ = resized.shape
        cells = resized.view(batch, -1)
        if layer not in self._reference:
            place = "cpu" if cells.device.type == "mps" else cells.device  # MPS has no float64
            self._reference[layer] = cells.mean(dim=0)
            self._sums[layer] = torch.zeros(self.num_classes, cells.shape[1], dtype=torch.float64, device=place)
            self._squares[layer] = torch.zeros_like(self._sums[layer])
            self._counts[layer] = torch.zeros(self.num_classes, dtype=torch.float64)
            self._shapes[layer] = size, heads
        cells.sub_(self._reference[layer])
        self._sums[layer].add_((one_hot @ cells).to(self._sums[layer].device))
        self._squares[layer].add_((one_hot @ cells.square_()).to(self._squares[layer].device))
        self._counts[layer] += one_hot.sum(dim=1).to("cpu", torch.float64)

    def is_finite(self, layer: int) -> bool:
        """Whether all sums of a layer are numbers."""
        return bool(self._squares[layer].isfinite().all())

    def finish(self, classes: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Returns mean and unbiased variance, each float64 of shape ``(C, N, size * size)``, on the CPU.

        N counts the heads of all layers in order. A class with fewer than two examples has variance NaN.

        Args:
            classes: Rows of the classes to return; all without it.
        """
        rows = list(range(self.num_classes)) if classes is None else list(classes)
        means: list[Tensor] = []
        variances: list[Tensor] = []
        for layer in sorted(self._reference):
            size, heads = self._shapes[layer]
            count = self._counts[layer][rows][:, None]
            shift = self._sums[layer].cpu()[rows] / count
            mean = self._reference[layer].to("cpu", torch.float64) + shift
            squares = self._squares[layer].cpu()[rows]
            variance = ((squares - count * shift.square()) / (count - 1)).clamp_(min=0)
            for values, found in ((mean, means), (variance, variances)):
                heads_first = values.view(-1, size, heads, size).transpose(1, 2)
                found.append(heads_first.reshape(-1, heads, size * size))
        return torch.cat(means, dim=1), torch.cat(variances, dim=1)
