"""A number for a text or a pair: grades, similarities, rerankers."""

from __future__ import annotations

from typing import Any

from cahp_plugin.data.columns import LABEL_COLUMNS
from cahp_plugin.data.labels import encode_numbers
from cahp_plugin.tasks.losses import of_numbers
from cahp_plugin.tasks.text_classification import TextClassification


class Regression(TextClassification):
    """One number for a text or a pair."""

    name = "text-regression"
    about = "a number for a text or a pair of texts: grades, similarity, rerankers with one logit"
    label_columns = ("score", *LABEL_COLUMNS, "similarity_score", "relevance")
    conditioning = "none"
    metrics = ("spearman", "mean_squared_error")
    compared = "the number: squared difference"
    optimum = "text-classification"
    problem_type = "regression"
    read_labels = staticmethod(lambda data, column, config: encode_numbers(data, column))
    loss = apart = staticmethod(of_numbers)
    predicted = staticmethod(lambda logits: logits.float()[:, 0])

    def fits(self, class_name: str, config: Any) -> bool:
        """See the base class."""
        one = getattr(config, "num_labels", None) == 1 or getattr(config, "problem_type", None) == self.problem_type
        return super().fits(class_name, config) and one
