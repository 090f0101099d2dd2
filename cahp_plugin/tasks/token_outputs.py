"""What tasks share whose models give a distribution for each token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cahp_plugin.tasks.base import Task
from cahp_plugin.tasks.decoder_inputs import IGNORED
from cahp_plugin.tasks.losses import divergence_of_classes, mean_over, of_tokens


class TokenOutputs(Task):
    """Distributions of classes or of tokens, at the tokens whose label is not -100."""

    def at(self, values: Tensor, labels: Tensor, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Outputs of shape ``(batch, tokens, ...)`` and the labels that they are about."""
        return values, labels

    def losses(self, output: Any, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """See the base class."""
        return of_tokens(*self.at(output.logits, labels, inputs), name=f"The {self.name} model")

    def weights(self, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """See the base class."""
        return (self.at(labels, labels, inputs)[1] != IGNORED).sum(dim=1).cpu()

    def divergence(self, ours: Any, theirs: Any, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """See the base class."""
        found, own = self.at(divergence_of_classes(ours.logits, theirs.logits), labels, inputs)
        return mean_over(found, own != IGNORED)
