"""Texts, or pairs of texts, of any number of labels each."""

from __future__ import annotations

from typing import Any

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
    read_labels = staticmethod(encode_label_sets)
    loss = staticmethod(of_sets)
    apart = staticmethod(divergence_of_sets)
    predicted = staticmethod(lambda logits: (logits > 0).int())

    def fits(self, class_name: str, config: Any) -> bool:
        """See the base class."""
        return super().fits(class_name, config) and getattr(config, "problem_type", None) == self.problem_type
