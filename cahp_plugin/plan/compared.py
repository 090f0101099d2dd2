"""How far a pruned model's outputs are from the dense model's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor

from cahp_plugin.errors import ConfigError
from cahp_plugin.observe.batches import Batch
from cahp_plugin.tasks import known_task
from cahp_plugin.tasks.losses import divergence_of_classes

#: Outputs that are compared in models of no known task, in this order.
_OUTPUTS = ("logits", "last_hidden_state")


@dataclasses.dataclass(frozen=True)
class Compared:
    """What is compared, and how.

    Attributes:
        told: The same in words.
        of: Outputs of the pruned model, of the dense one, and their batch -> the distance of each example,
            ``(batch,)``.
    """

    told: str
    of: Callable[[Any, Any, Batch], Tensor]


def compared_of(model: Any, output: str | None = None) -> Compared:
    """What a model's outputs are compared by: as its task has it, or by one of its outputs.

    Distributions by their Kullback-Leibler divergence in nat, features by 1 less their cosine.

    Args:
        model: The model.
        output: Name of one of its outputs: scores of classes where ``logits`` is part of it, else features. The
            model's task says it without it; of a model of no known task, ``logits`` or ``last_hidden_state``.
    """
    task = known_task(model) if output is None else None
    if task is not None:
        return Compared(task.compared, lambda ours, theirs, batch: task.divergence(
            ours, theirs, batch.inputs, batch.labels))  # fmt: skip

    def distance(ours: Any, theirs: Any, batch: Batch) -> Tensor:
        name = output or next((name for name in _OUTPUTS if name in theirs), None)
        if name is None or name not in theirs or not isinstance(theirs[name], Tensor):
            raise ConfigError(
                f"{type(model).__name__} has the outputs {', '.join(theirs)}, and none of them is known to be what it "
                'is for. Name the one that is to stay as it is: `output="..."`.'
            )
        if "logits" in name:
            found = divergence_of_classes(ours[name], theirs[name])
        else:
            found = 1 - (ours[name] * theirs[name]).sum(-1) / (ours[name].norm(dim=-1) * theirs[name].norm(dim=-1))
        masks = (mask for mask in (batch.decoder_mask, batch.mask) if mask is not None and mask.shape == found.shape)
        mask = next(masks, None)
        if mask is not None:
            mask = mask.to(found.device)
            return found.masked_fill(~mask, 0).sum(1) / mask.sum(1)
        return found.reshape(len(found), -1).mean(1)

    return Compared(f"its output `{output}`" if output else "its main output", distance)
