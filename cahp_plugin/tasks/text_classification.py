"""Texts, or pairs of texts, of one class each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from cahp_plugin.data.columns import LABEL_COLUMNS, TEXT_COLUMNS
from cahp_plugin.data.labels import encode_labels
from cahp_plugin.errors import UnsupportedModelError
from cahp_plugin.tasks.base import BATCH, Options, Task
from cahp_plugin.tasks.examples import Examples
from cahp_plugin.tasks.losses import divergence_of_classes, of_classes
from cahp_plugin.tasks.text import Padding, tokenized


class TextClassification(Task):
    """One class for a text or a pair.

    Attributes:
        problem_type: What transformers calls it.
        read_labels: Data set, its column and the config -> what is right for each row, as the loss takes it.
        loss: Logits and labels -> the loss of each example.
        apart: Logits of two models -> how far the first are from the second, for each example.
        predicted: Logits -> what the model predicts for each example.
    """

    name = "text-classification"
    about = "one class for a text or a pair of texts"
    auto = "AutoModelForSequenceClassification"
    suffixes: ClassVar[tuple[str, ...]] = ("ForSequenceClassification",)
    label_columns: ClassVar[tuple[str, ...]] = LABEL_COLUMNS
    conditioning: ClassVar[Literal["label", "prediction", "none"]] = "label"
    text_columns: ClassVar[tuple[tuple[str, ...], ...]] = TEXT_COLUMNS
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    compared = "the classes"
    outputs = {"logits": BATCH}  # noqa: RUF012
    problem_type: ClassVar[str] = "single_label_classification"
    read_labels: Any = staticmethod(encode_labels)
    loss: Any = staticmethod(of_classes)
    apart: Any = staticmethod(divergence_of_classes)
    predicted: Any = staticmethod(lambda logits: logits.argmax(dim=-1))

    def settle(self, model: Any) -> None:
        """See the base class; transformers takes the loss from the note in the config."""
        super().settle(model)
        if (model.config.num_labels == 1) != (self.problem_type == "regression"):
            raise UnsupportedModelError(
                f"{type(model).__name__} gives {model.config.num_labels} logit(s); {self.name} takes "
                f"{'one' if self.problem_type == 'regression' else 'two or more'}. Leave `task` out, or load the "
                "model with another `num_labels` and train its head first."
            )
        model.config.problem_type = self.problem_type

    def encode(self, data: Any, model: Any, processor: Any, options: Options) -> Examples:
        """See the base class."""
        columns = self.columns(data, options)
        labels = self.read_labels(data, columns.label, model.config) if columns.label else [0] * len(data)
        decoder = not getattr(model.config, "is_encoder_decoder", False) and processor.pad_token is None
        if decoder and getattr(model.config, "pad_token_id", None) is None:
            raise UnsupportedModelError(
                f"{type(model).__name__} looks for the last token of each text, and neither its config nor its "
                "tokenizer names a padding token. Set `pad_token_id` in config.json and the tokenizer's `pad_token`."
            )
        encoded, lengths, told = tokenized(data, columns.text, processor, model, options.max_length)
        encoded = encoded.add_column("labels", labels)
        return Examples(self, encoded, Padding(processor, model), lengths, labels, range(len(labels)), told=told)

    def losses(self, output: Any, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """See the base class."""
        return self.loss(output.logits, labels)

    def outcomes(self, output: Any, features: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any]) -> list[Any]:
        """See the base class."""
        return self.predicted(output.logits).tolist()

    def divergence(self, ours: Any, theirs: Any, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """See the base class."""
        return self.apart(ours.logits, theirs.logits)
