"""Texts, or pairs of texts, of any number of labels each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from cahp_plugin.data.labels import encode_label_sets
from cahp_plugin.tasks.losses import divergence_of_sets, of_sets
from cahp_plugin.tasks.text_classification import TextClassification


class MultiLabel(TextClassification):
    """Any number of labels for a text or a pair."""

    name = "multi-label-classification"
    about = "any number of labels for a text or a pair of texts"
    label_columns = ("labels", "label", "classes", "tags", "target")
    classes_of = "labels"
    metrics = ("f1_micro", "f1_macro")
    compared = "each label, present or not"
    optimum = "text-classification"
    problem_type = "multi_label_classification"

    def fits(self, class_name: str, config: Any) -> bool:
        """See the base class."""
        return super().fits(class_name, config) and getattr(config, "problem_type", None) == self.problem_type

    def read_labels(self, data: Any, column: str, config: Any) -> list[Any]:
        """See the base class."""
        return encode_label_sets(data, column, config)

    def losses(self, output: Any, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """See the base class."""
        return of_sets(output.logits, labels)

    def outcomes(self, output: Any, features: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any]) -> list[Any]:
        """See the base class."""
        return (output.logits > 0).int().tolist()

    def divergence(self, ours: Any, theirs: Any, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """See the base class."""
        return divergence_of_sets(ours.logits, theirs.logits)
