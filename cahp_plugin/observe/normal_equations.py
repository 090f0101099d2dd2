"""Linear least squares from sums: the data are seen once, a part at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from cahp_plugin.observe.sums import Sums, exact


class NormalEquations(Sums):
    """Sums of ``min |y - W x - b|^2`` over rows ``(x, y)``, in float64.

    They are on the device of the rows until they are read, which moves them to the CPU.
    """

    @property
    def count(self) -> int:
        """Rows seen."""
        return int(self.state.get("count", 0))

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Adds rows: ``inputs`` of shape ``(rows, num_inputs)`` and ``outputs`` of shape ``(rows, num_outputs)``.

        Either may be of width 0. Nothing can be read before there are rows.
        """
        x, y = exact(inputs.detach()), exact(outputs.detach())
        products = {"x": x.sum(0), "y": y.sum(0), "xx": x.T @ x, "yx": y.T @ x, "yy": y.square().sum()}
        for name, value in products.items():
            self.plus(name, value)
        self.plus("count", len(x))

    def _sums(self) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
        """Sums of x, y, ``x x^T``, ``y x^T`` and ``|y|^2``, on the CPU."""
        self.state = self.cpu().state
        x, y, xx, yx, yy = (self.state[name] for name in ("x", "y", "xx", "yx", "yy"))
        return x, y, xx, yx, float(yy)

    def centred(self) -> tuple[Tensor, float]:
        """Sums around the means: of ``x x^T``, of shape ``(num_inputs, num_inputs)``, and of ``|y|^2``."""
        x, y, xx, _, yy = self._sums()
        x, y = x / self.count, y / self.count
        return xx - self.count * torch.outer(x, x), yy - self.count * float(y.square().sum())

    def solve(self, ridge: float, *, intercept: bool = True) -> tuple[Tensor, Tensor]:
        """Minimises ``|y - W x - b|^2 + ridge * s * |W|^2``; ``s`` is the mean over channels of x's centred squares.

        Without an intercept b is 0 and nothing is centred. Without a ridge, directions that x does not vary in get
        weight 0 (the solution of least norm).

        Returns:
            W of shape ``(num_outputs, num_inputs)`` and b of shape ``(num_outputs,)``, float64.
        """
        x, y, xx, yx, _ = self._sums()
        x, y = (x / self.count, y / self.count) if intercept else (torch.zeros_like(x), torch.zeros_like(y))
        if not len(x):
            return yx, y
        gram = xx - self.count * torch.outer(x, x)
        cross = yx - self.count * torch.outer(y, x)
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
        x, y, xx, yx, _ = self._sums()
        weight = weight.detach().double().cpu()
        shift = torch.zeros_like(y) if bias is None else bias.detach().double().cpu()
        left = self.new()
        left.state = self.state | {
            "y": y - weight @ x - self.count * shift,
            "yx": yx - weight @ xx - torch.outer(shift, x),
            "yy": torch.tensor(self.error(weight, shift), dtype=torch.float64),
        }
        return left

    def error(self, weight: Tensor | None = None, bias: Tensor | None = None) -> float:
        """Sum of squares of ``y - W x - b`` over the rows; of ``y`` without W and b."""
        x, y, xx, yx, yy = self._sums()
        if weight is None or bias is None:
            return yy
        fitted = (weight @ xx * weight).sum() + self.count * bias.square().sum()
        mixed = (weight * yx).sum() + bias @ y - bias @ weight @ x
        return max(0.0, float(yy + fitted - 2 * mixed))
