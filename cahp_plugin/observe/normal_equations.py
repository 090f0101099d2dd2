"""Linear least squares from sums: the data are seen once, a part at a time."""

from __future__ import annotations

import torch
from torch import Tensor


class NormalEquations:
    """Sums of ``min |y - W x - b|^2`` over rows ``(x, y)``, in float64 on the CPU.

    Args:
        num_inputs: Width of x; may be 0.
        num_outputs: Width of y.

    Attributes:
        count: Rows seen.
    """

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        self.count = 0
        self._x = torch.zeros(num_inputs, dtype=torch.float64)
        self._y = torch.zeros(num_outputs, dtype=torch.float64)
        self._xx = torch.zeros(num_inputs, num_inputs, dtype=torch.float64)
        self._yx = torch.zeros(num_outputs, num_inputs, dtype=torch.float64)
        self._yy = 0.0

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Adds rows: ``inputs`` of shape ``(rows, num_inputs)`` and ``outputs`` of shape ``(rows, num_outputs)``."""
        x, y = inputs.detach().double(), outputs.detach().double()
        self.count += len(x)
        self._x += x.sum(0).cpu()
        self._y += y.sum(0).cpu()
        self._xx += (x.T @ x).cpu()
        self._yx += (y.T @ x).cpu()
        self._yy += float(y.square().sum())

    def centred(self) -> tuple[Tensor, float]:
        """Sums around the means: of ``x x^T``, of shape ``(num_inputs, num_inputs)``, and of ``|y|^2``."""
        x, y = self._x / self.count, self._y / self.count
        return self._xx - self.count * torch.outer(x, x), self._yy - self.count * float(y.square().sum())

    def solve(self, ridge: float, *, intercept: bool = True) -> tuple[Tensor, Tensor]:
        """Minimises ``|y - W x - b|^2 + ridge * s * |W|^2``; ``s`` is the mean over channels of x's centred squares.

        Without an intercept b is 0 and nothing is centred. Without a ridge, directions that x does not vary in get
        weight 0 (the solution of least norm).

        Returns:
            W of shape ``(num_outputs, num_inputs)`` and b of shape ``(num_outputs,)``, float64.
        """
        x, y = self._x / self.count, self._y / self.count
        if not intercept:
            x, y = torch.zeros_like(x), torch.zeros_like(y)
        if not len(x):
            return self._yx, y
        gram = self._xx - self.count * torch.outer(x, x)
        cross = self._yx - self.count * torch.outer(y, x)
        strength = ridge * float(gram.diagonal().mean())
        factor, failed = torch.linalg.cholesky_ex(gram + strength * torch.eye(len(x), dtype=gram.dtype))
        if strength > 0 and not failed:
            weight = torch.cholesky_solve(cross.T, factor).T
        else:
            values, vectors = torch.linalg.eigh(gram)
            least = max(float(values[-1]), 0.0) * len(x) * torch.finfo(torch.float64).eps
            inverse = torch.where(values > least, 1 / (values + strength).clamp_min(1e-300), torch.zeros_like(values))
            weight = (cross @ vectors) * inverse @ vectors.T
        return weight, y - weight @ x

    def less(self, weight: Tensor, bias: Tensor | None) -> NormalEquations:
        """The sums of ``(x, y - W x - b)``: what is left for a change of W and b to explain."""
        weight = weight.detach().double().cpu()
        shift = torch.zeros_like(self._y) if bias is None else bias.detach().double().cpu()
        left = NormalEquations(len(self._x), len(self._y))
        left.count, left._x, left._xx = self.count, self._x, self._xx
        left._y = self._y - weight @ self._x - self.count * shift
        left._yx = self._yx - weight @ self._xx - torch.outer(shift, self._x)
        left._yy = self.error(weight, shift)
        return left

    def error(self, weight: Tensor | None = None, bias: Tensor | None = None) -> float:
        """Sum of squares of ``y - W x - b`` over the rows; of ``y`` without W and b."""
        if weight is None or bias is None:
            return self._yy
        fitted = (weight @ self._xx * weight).sum() + self.count * bias.square().sum()
        mixed = (weight * self._yx).sum() + bias @ self._y - bias @ weight @ self._x
        return max(0.0, float(self._yy + fitted - 2 * mixed))
