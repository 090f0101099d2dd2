"""Encoder-decoders: a text from a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from transformers.utils import logging

from cahp_plugin.tasks.base import TARGETS, Options
from cahp_plugin.tasks.decoder_inputs import add_decoder_inputs
from cahp_plugin.tasks.examples import Examples
from cahp_plugin.tasks.text import Padding, check_texts, length_limit, tokenized
from cahp_plugin.tasks.token_outputs import TokenOutputs

logger = logging.get_logger(__name__)


class Text2Text(TokenOutputs):
    """A text from another: translation, summaries. Reported is the loss of a token; texts are made where asked for."""

    name = "text2text-generation"
    about = "encoder-decoders: a text from a text"
    auto = "AutoModelForSeq2SeqLM"
    suffixes: ClassVar[tuple[str, ...]] = ("ForConditionalGeneration", "MTModel")
    text_columns: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("source",),
        ("input",),
        ("document",),
        ("article",),
        ("dialogue",),
        ("text",),
        ("en",),
    )
    label_columns: ClassVar[tuple[str, ...]] = (
        "target",
        "output",
        "summary",
        "highlights",
        "translation",
        "label",
        "labels",
    )
    metrics: ClassVar[tuple[str, ...]] = ("token_loss",)
    more_metrics: ClassVar[tuple[str, ...]] = ("rouge1", "rouge2", "rougeL", "chrf", "wer")
    compared = "the next token of the target, at every token"
    outputs = {"logits": TARGETS}  # noqa: RUF012
    two_graphs = True

    def encode(self, data: Any, model: Any, processor: Any, options: Options) -> Examples:
        """See the base class."""
        columns = self.columns(data, options)
        limit = length_limit(processor, model, options.max_length)
        encoded, lengths, told = tokenized(data, columns.text, processor, model, options.max_length)
        check_texts(data, [columns.label])
        targets = list(data.with_format(None)[columns.label])
        found = cut_targets(processor(text_target=targets, verbose=False)["input_ids"], processor, targets, limit)
        encoded = encoded.add_column("labels", found)
        lengths = [length + len(own) for length, own in zip(lengths, found, strict=True)]
        width = int(model.get_output_embeddings().weight.shape[0])
        collate, extra = DecoderPadding(processor, model), {"tokenizer": processor}
        return Examples(self, encoded, collate, lengths, targets, range(len(targets)), width, told, extra=extra)

    def outcomes(self, output: Any, features: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any]) -> list[Any]:
        """Token ids: of texts that were generated, or else the likeliest at each place."""
        return output.logits.argmax(dim=-1).tolist() if hasattr(output, "logits") else output.tolist()

    def predictions(self, examples: Examples, outcomes: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """See the base class."""
        return super().predictions(
            examples, examples.extra["tokenizer"].batch_decode(outcomes, skip_special_tokens=True)
        )


def cut_targets(found: list[Any], tokenizer: Any, targets: Sequence[str], limit: int) -> list[Any]:
    """Tokens of the targets, those of too long ones without what is beyond the limit."""
    long = sum(len(ids) > limit for ids in found)
    if not long:
        return found
    logger.warning(f"{long} of {len(found)} targets are longer than {limit} tokens and were cut.")
    return tokenizer(text_target=targets, truncation=True, max_length=limit)["input_ids"]


class DecoderPadding(Padding):
    """Pads texts and their targets, and makes what the decoder reads of the targets.

    Args:
        tokenizer: Pads.
        model: Says what a decoder starts from.
    """

    def __init__(self, tokenizer: Any, model: Any) -> None:
        super().__init__(tokenizer, model)
        self._model = model

    def __call__(self, rows: list[Mapping[str, Any]]) -> dict[str, Any]:
        """See the base class."""
        batch = super().__call__([{name: row[name] for name in row if name != "labels"} for row in rows])
        return self.with_targets(batch, [row["labels"] for row in rows])

    def with_targets(self, batch: dict[str, Any], targets: Sequence[Any]) -> dict[str, Any]:
        """Adds the targets, padded on the right, as labels and as what the decoder reads."""
        labels = self.labels(targets, side="right")
        mask = batch.get("attention_mask", torch.ones(len(targets), 0)).bool()
        inputs, _ = add_decoder_inputs(self._model, batch, labels, mask, 0)
        return inputs | {"labels": labels}
