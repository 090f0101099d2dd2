"""A number for a text or a pair: grades, similarities, rerankers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

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

    def fits(self, class_name: str, config: Any) -> bool:
        """See the base class."""
        one = getattr(config, "num_labels", None) == 1 or getattr(config, "problem_type", None) == self.problem_type
        return super().fits(class_name, config) and one

    def read_labels(self, data: Any, column: str, config: Any) -> list[Any]:
        """See the base class."""
        return encode_numbers(data, column)

    def losses(self, output: Any, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """See the base class."""
        return of_numbers(output.logits, labels)

    def outcomes(self, output: Any, features: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any]) -> list[Any]:
        """See the base class."""
        return output.logits.float()[:, 0].tolist()

    def divergence(self, ours: Any, theirs: Any, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """See the base class."""
        return of_numbers(ours.logits, theirs.logits)
