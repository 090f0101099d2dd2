"""Jensen-Shannon distances between heads: how differently they spread the same queries over the same keys."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from cahp_plugin.observe.sums import Sums

#: Largest Jensen-Shannon distance, of distributions without a common key: the square root of ln 2 nats.
MAX_DISTANCE = math.sqrt(math.log(2.0))

#: Elements of a block, so that its buffers stay in a CPU core's cache; and on an accelerator, to keep it busy.
_BLOCK_CPU = 1 << 16
_BLOCK_DEVICE = 1 << 24
#: Added to each half, so that the logarithm of an empty cell is finite: 0 ln 0 = 0.
_TINY = {torch.float32: 1e-37, torch.float64: 1e-300}


def js_distance_sums(rows: Tensor) -> Tensor:
    """Sums the Jensen-Shannon distances of every pair of heads over queries.

    For the distributions p and q of two heads the distance is ``sqrt(H((p + q) / 2) - (H(p) + H(q)) / 2)`` with the
    entropy H in nats (Endres and Schindelin 2003; ``scipy.spatial.distance.jensenshannon``). A pair takes one
    logarithm a key. Equal distributions are at exactly 0.

    Note:
        In float32 the divergence carries rounding of about 1e-7 nats, so distances below about 5e-4 are noise.

    Args:
        rows: Attention of each query, head and key, nonnegative, float32 or float64 of shape ``(queries, N, keys)``;
            each row is scaled to sum to 1, like SciPy does. Overwritten.

    Returns:
        Float64 sums of shape ``(N, N)``, symmetric, zero on the diagonal; NaN where a row is zero or not a number.
    """
    queries, count, _ = rows.shape
    place = "cpu" if rows.device.type == "mps" else rows.device  # MPS has no float64
    total = torch.zeros(count, count, dtype=torch.float64, device=place)
    if queries == 0 or count < 2:
        return total
    extents = _extents(rows)
    rows.mul_(0.5 / rows.sum(dim=-1, keepdim=True)).add_(_TINY[rows.dtype])
    block = _BLOCK_CPU if rows.device.type == "cpu" else _BLOCK_DEVICE
    order = torch.argsort(extents)
    extents = extents[order]
    start = 0
    while start < queries:
        # Queries that reach about as far are done together; causal maps end at their query, which halves the work.
        step = max(1, block // (count * int(extents[start])))
        last = min(start + step, queries) - 1
        stop = min(start + max(1, block // (count * int(extents[last]))), last + 1)
        _add_chunk(rows[order[start:stop].to(rows.device), :, : int(extents[stop - 1])], total, block)
        start = stop
    return total + total.T


def _extents(rows: Tensor) -> Tensor:
    """Number of keys up to the last one that any head looks at, for each query."""
    used = (rows != 0).any(dim=1)
    places = torch.arange(1, used.shape[1] + 1, device=rows.device)
    return (used * places).amax(dim=1).clamp_(min=1).cpu()


def _add_chunk(halves: Tensor, total: Tensor, block: int) -> None:
    """Adds the distances of the upper triangle; ``halves`` holds p / 2, shape ``(queries, N, keys)``."""
    queries, count, keys = halves.shape
    halves = halves.contiguous()
    width = max(1, min(count, block // (queries * keys)))
    mixed, logs = (torch.empty(queries * width * keys, dtype=halves.dtype, device=halves.device) for _ in range(2))
    negative_entropy = torch.empty(queries, count, dtype=halves.dtype, device=halves.device)

    def sum_of(first: Tensor, others: slice) -> None:
        second = halves[:, others]
        size = second.numel()
        mixture, logarithm = mixed[:size].view(second.shape), logs[:size].view(second.shape)
        torch.add(second, first, out=mixture)
        torch.log(mixture, out=logarithm)
        torch.sum(logarithm.mul_(mixture), dim=-1, out=negative_entropy[:, others])

    blocks = [slice(low, min(low + width, count)) for low in range(0, count, width)]
    for part in blocks:  # p / 2 + p / 2: the same path as the mixtures', so that equal rows cancel exactly
        sum_of(halves[:, part], part)
    own = negative_entropy.clone()
    for row in range(count - 1):
        for low in range(row + 1, count, width):
            sum_of(halves[:, row : row + 1], slice(low, min(low + width, count)))
        rest = slice(row + 1, count)
        divergence = (own[:, rest] + own[:, row : row + 1]).mul_(0.5).sub_(negative_entropy[:, rest])
        total[row, rest] += divergence.clamp_(min=0).sqrt_().sum(dim=0).to(total)


class MeanDistances(Sums):
    """Mean Jensen-Shannon distance of every pair of heads, over the queries of all examples, one example at a time.

    Heads of different groups see other queries or other keys; nothing compares them, and their distance is the largest
    there is, ``sqrt(ln 2)``. Memory is ``O(N^2)``, whatever the number of examples.

    Args:
        groups: Group of each head, length N.
    """

    def __init__(self, groups: Sequence[Hashable]) -> None:
        super().__init__()
        self.groups = list(groups)

    def add(self, group: Hashable, rows: Tensor) -> bool:
        """Adds queries of one group.

        Args:
            group: The group.
            rows: As :func:`js_distance_sums` takes them, one head for each member, in order. Overwritten.

        Returns:
            Whether all distances are numbers.
        """
        sums = js_distance_sums(rows)
        self.plus((group, "sum"), sums)
        self.plus((group, "queries"), rows.shape[0])
        return bool(sums.isfinite().all())

    def finish(self) -> Tensor:
        """Returns the mean distances, float64 of shape ``(N, N)``, in [0, sqrt(ln 2)], on the CPU."""
        result = torch.full((len(self.groups),) * 2, MAX_DISTANCE, dtype=torch.float64)
        for group in dict.fromkeys(self.groups):
            rows = torch.tensor([row for row, other in enumerate(self.groups) if other == group])
            if self.state.get((group, "queries")):
                means = self.state[group, "sum"].cpu() / self.state[group, "queries"]
                result[rows[:, None], rows] = means.clamp_(max=MAX_DISTANCE)
        return result.fill_diagonal_(0.0)
