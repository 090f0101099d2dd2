"""Heads kept by trained hard-concrete gates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cahp_plugin.selectors.gates import TrainedGates

#: Interval that the concrete distribution is stretched to before it is clipped (Louizos et al. 2018, section 4).
STRETCH = (-0.1, 1.1)
#: Temperature of the concrete distribution (Voita et al.'s own code; Louizos et al. take 2/3).
TEMPERATURE = 1 / 3


#: lambda for a gap of one head, nat.
STRENGTH = 0.1


def expected_open(log_alpha: Tensor) -> Tensor:
    """Probability of each gate to be other than zero (Louizos et al. 2018, eq. 12)."""
    low, high = STRETCH
    return torch.sigmoid(log_alpha - TEMPERATURE * math.log(-low / high))


def hard_concrete(log_alpha: Tensor, uniform: Tensor) -> Tensor:
    """Turns uniform draws in (0, 1) into hard-concrete ones (Louizos et al. 2018, eqs. 10 and 11)."""
    low, high = STRETCH
    concrete = torch.sigmoid((uniform.log() - (-uniform).log1p() + log_alpha) / TEMPERATURE)
    return (concrete * (high - low) + low).clamp(0, 1)


class HardConcrete(TrainedGates):
    """Heads whose trained gates are most probably open.

    Voita, Talbot, Moiseev, Sennrich, Titov, "Analyzing Multi-Head Self-Attention", ACL 2019, section 6: each head's
    output is multiplied by a hard-concrete gate, trained on the task's loss plus lambda times the expected number of
    open gates.

    With ``u`` uniform in (0, 1): ``s = sigmoid((ln u - ln(1 - u) + ln alpha) / beta)``, ``z = clip(s (zeta - gamma) +
    gamma, 0, 1)`` (Louizos, Welling, Kingma, ICLR 2018, eqs. 10 and 11). The expected number of gates that are not
    zero is ``sum sigmoid(ln alpha - beta ln(-gamma / zeta))`` (eq. 12). The scores are ln alpha.

    The penalty is ``lambda E|z|_0`` with a lambda that is proportional to how far the expected number is from a target
    (it becomes negative below it): the gradient of ``strength / 2 (E|z|_0 - target)^2``. The target falls from all
    heads to the wanted number over the first half of the training, and the expected number follows.

    Note:
        In the paper the model is trained along with its gates and lambda decides the number of heads. Here the
        weights stand still, as in pipelined DSP, because every way of choosing heads gets the same recovery
        afterwards; lambda is led so that the expected number tends to ``num_heads``, and the gates' rank makes it
        exact.
    """

    name = "voita"
    first = 2.0

    def sample(self, scores: Tensor, wanted: int, progress: float, generator: torch.Generator) -> Tensor:
        """Draws the gates."""
        uniform = torch.rand(len(scores), generator=generator, dtype=torch.float64)
        return hard_concrete(scores, uniform.clamp(1e-6, 1 - 1e-6))

    def penalty(self, scores: Tensor, wanted: int, progress: float) -> Tensor:
        """What holds the number of open gates."""
        target = wanted + (len(scores) - wanted) * max(0.0, 1 - 2 * progress)
        return STRENGTH / 2 * (expected_open(scores).sum() - target).square()
