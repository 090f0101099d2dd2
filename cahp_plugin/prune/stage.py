"""One state of a model on its way: dense, pruned, recovered."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from cahp_plugin.files import from_plain
from cahp_plugin.tasks.metrics import Score, score_cells, scores_from_dict, scores_to_dict


@dataclasses.dataclass(frozen=True)
class Stage:
    """One state of the model.

    Attributes:
        name: ``"dense"``, ``"one-shot"``, ``"bias"`` or ``"least-squares"``, ``"recovered"`` after fine-tuning.
        heads: Attention heads present.
        parameters: Number of parameters.
        loss: Mean loss on the evaluation set, nat; ``None`` for a task without one.
        scores: How it does on the evaluation set; the first is the task's number.
        num_examples: Evaluation examples; ``None`` where there are none, or an older report does not say.
        neurons: Feed-forward neurons present; ``None`` where an older report does not say.
    """

    name: str
    heads: int
    parameters: int
    loss: float | None
    scores: tuple[Score, ...]
    num_examples: int | None = None
    neurons: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the stage as plain JSON values, each score by its name as well."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "scores"}
        return {"name": self.name} | scores_to_dict(self.scores) | own

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Stage:
        """Builds a stage from what :meth:`to_dict` returned, or from an older report's accuracy and loss.

        Raises:
            KeyError: A part is missing.
            TypeError: A part is of another type.
        """
        scores = scores_from_dict(values) if values.get("scores") != [] else ()
        return from_plain(cls, {**values, "scores": scores})


def stage_rows(stages: Sequence[Stage]) -> list[dict[str, str]]:
    """Stages as rows of a table: heads, neurons where some went, parameters, scores, loss and number of examples."""
    losses = any(stage.loss is not None for stage in stages)
    neurons = len({stage.neurons for stage in stages}) > 1
    counts = any(stage.num_examples is not None for stage in stages)
    return [
        {
            "model": stage.name,
            "heads": f"{stage.heads}",
            **({"neurons": "-" if stage.neurons is None else f"{stage.neurons:,}"} if neurons else {}),
            "parameters": f"{stage.parameters:,}",
            "of dense": f"{100 * stage.parameters / max(stages[0].parameters, 1):.1f} %",
            **cells,
            **({"loss": "-" if stage.loss is None else f"{stage.loss:.3f}"} if losses else {}),
            **({"examples": "-" if stage.num_examples is None else f"{stage.num_examples:,}"} if counts else {}),
        }
        for stage, cells in zip(stages, score_cells([stage.scores for stage in stages]), strict=True)
    ]
