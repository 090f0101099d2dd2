"""What tasks share whose models give a distribution for each token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
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
        found = divergence_of_classes(ours.logits, theirs.logits)
        if labels is None:  # of texts without labels, all real tokens count
            labels = torch.where(_real(inputs, found), 0, IGNORED)
        found, own = self.at(found, labels, inputs)
        return mean_over(found, own != IGNORED)


def _real(inputs: Mapping[str, Any], values: Tensor) -> Tensor:
    """Real tokens among those that a model has outputs for, bool of shape ``(batch, tokens)``."""
    masks = (inputs.get(name) for name in ("decoder_attention_mask", "attention_mask"))
    fitting = (mask for mask in masks if mask is not None and mask.shape == values.shape)
    return next(fitting, torch.ones_like(values, dtype=torch.bool)).bool()
