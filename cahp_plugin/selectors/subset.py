"""Heads kept by differentiable subset pruning."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from cahp_plugin.errors import ConfigError
from cahp_plugin.selectors.gates import TrainedGates


def relaxed_top_k(scores: Tensor, k: int, temperature: float) -> Tensor:
    """Soft indicator of the k highest scores.

    ``p_1 = softmax(r / t)``, ``r <- r + ln(1 - p_j)``, ``p_{j+1} = softmax(r / t)``; the sum of ``p_1`` to ``p_k`` is
    the indicator (Ploetz and Roth, "Neural Nearest Neighbors Networks", NeurIPS 2018; with Gumbel noise a relaxed draw
    of a subset: Xie and Ermon, IJCAI 2019). As ``t -> 0`` it becomes 1 for the k highest and 0 for the others.

    Args:
        scores: Shape ``(N,)``.
        k: How many, 0 to N.
        temperature: t, above 0.

    Returns:
        Shape ``(N,)``; sums to k.
    """
    total = torch.zeros_like(scores)
    least = torch.finfo(scores.dtype).tiny
    for _ in range(k):
        share = torch.softmax(scores / temperature, dim=0)
        total = total + share
        scores = scores + (1 - share).clamp_min(least).log()
    return total


@dataclasses.dataclass(frozen=True)
class SubsetPruning(TrainedGates):
    """Heads of the highest importance variables, trained by differentiable subset pruning.

    Li, Cotterell, Sachan, "Differentiable Subset Pruning of Transformer Heads", TACL 2021, in its pipelined
    form: the fine-tuned model stands still, and importance variables are trained through a Gumbel soft top-k whose
    temperature falls geometrically; at the end the k highest are kept. The number of heads is a constraint that always
    holds, so there is no penalty.

    Note:
        The temperature falls from 10 to 0.1, not from 1000 to 1e-8 over 8333 steps as in the authors' MNLI runs:
        training sets of a few hundred steps leave no time for the flat beginning, and behind 0.1 no gradient is left.

    Args:
        epochs: Passes over the training set, a fraction included.
        learning_rate: Adam's.
        temperatures: First and last temperature of the soft top-k.

    Raises:
        ConfigError: A number is out of its range.
    """

    learning_rate: float = 0.2
    temperatures: tuple[float, float] = (10.0, 0.1)

    name = "dsp"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(temperature > 0 for temperature in self.temperatures):
            raise ConfigError(f"`temperatures` must be above 0; got {self.temperatures}.")

    def sample(self, scores: Tensor, wanted: int, progress: float, generator: torch.Generator) -> Tensor:
        """Draws a relaxed subset: Gumbel noise makes the top k a draw without replacement."""
        first, last = self.temperatures
        uniform = torch.rand(len(scores), generator=generator, dtype=torch.float64).clamp_min(1e-12)
        gumbel = -(-uniform.log()).log()
        return relaxed_top_k(scores + gumbel, wanted, first * (last / first) ** progress).clamp(max=1)
