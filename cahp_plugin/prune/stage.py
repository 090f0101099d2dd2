"""One state of a model on its way: dense, pruned, recovered."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Stage:
    """One state of the model.

    Attributes:
        name: ``"dense"``, ``"one-shot"``, ``"bias"`` or ``"least-squares"``, ``"recovered"`` after fine-tuning.
        heads: Attention heads present.
        parameters: Number of parameters.
        accuracy: Share of evaluation examples classified right, in [0, 1].
        loss: Mean cross-entropy on the evaluation set, nat.
    """

    name: str
    heads: int
    parameters: int
    accuracy: float
    loss: float
