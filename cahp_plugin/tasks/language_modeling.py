"""What two kinds of language models share: texts without labels, perplexity."""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from transformers.utils import logging

from cahp_plugin.errors import DataError
from cahp_plugin.tasks.base import TOKENS, Options
from cahp_plugin.tasks.decoder_inputs import IGNORED
from cahp_plugin.tasks.examples import Examples
from cahp_plugin.tasks.text import Padding, check_texts, length_limit, taken_apart
from cahp_plugin.tasks.token_outputs import TokenOutputs

logger = logging.get_logger(__name__)


class LanguageModeling(TokenOutputs):
    """Texts in, distributions of tokens out; long texts are taken apart.

    Attributes:
        first: Place of the first token that can be predicted.
    """

    text_columns = (("text",), ("content",), ("sentence",), ("review",))
    labelled = False
    metrics = ("perplexity",)
    outputs = {"logits": TOKENS}  # noqa: RUF012
    first: ClassVar[int] = 0

    def encode(self, data: Any, model: Any, processor: Any, options: Options) -> Examples:
        """See the base class."""
        (column,) = self.columns(data, options).text
        check_texts(data, [column])
        limit = length_limit(processor, model, options.max_length, chunks=True)

        def encoded(batch: dict[str, Any], indices: list[int]) -> dict[str, list[Any]]:
            pieces: dict[str, list[Any]] = {"input_ids": [], "attention_mask": [], "row": [], "labels": []}
            parts: Counter[int] = Counter()
            for sample, ids in _pieces(processor, batch[column], limit):
                row = indices[sample]
                ids, labels = self.labels(ids, row * 100_003 + parts[row], processor)
                parts[row] += 1
                if any(label != IGNORED for label in labels[self.first :]):
                    for name, value in zip(pieces, (ids, [1] * len(ids), row, labels), strict=True):
                        pieces[name].append(value)
            return pieces

        examples, rows, lengths, told = taken_apart(data, encoded, limit)
        if not rows:
            raise DataError(f"Column {column!r}: no text has two tokens, so there is nothing to predict.")
        left = len(data) - len(set(rows))
        if left:
            logger.warning(f"{left} of {len(data)} texts have no token to predict and do not count.")
        head = model.get_output_embeddings()
        width = 0 if head is None else int(head.weight.shape[0])
        references = list(data.with_format(None)[column])
        return Examples(
            self, examples, Padding(processor, model, side="right"), lengths, references, rows, width, told
        )

    @abc.abstractmethod
    def labels(self, ids: list[int], seed: int, tokenizer: Any) -> tuple[list[int], list[int]]:
        """What the model reads, and what it is to predict: token ids, -100 where nothing."""

    def outcomes(self, output: Any, features: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any]) -> list[Any]:
        """The most likely token at each place; what texts are compared by is the loss."""
        found: list[Any] = output.logits.argmax(dim=-1).tolist()
        return [tokens[: len(feature["input_ids"])] for tokens, feature in zip(found, features, strict=True)]

    def predictions(self, examples: Examples, outcomes: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The most likely tokens of each text, and the texts."""
        found: list[list[int]] = [[] for _ in examples.references]
        for row, tokens in zip(examples.rows, outcomes, strict=True):
            found[row].extend(tokens)
        return found, list(examples.references)


def _pieces(tokenizer: Any, texts: Sequence[str], limit: int) -> Iterator[tuple[int, list[int]]]:
    """Number of the text and token ids of each piece."""
    if getattr(tokenizer, "is_fast", False):
        found = tokenizer(texts, truncation=True, max_length=limit, return_overflowing_tokens=True)
        yield from zip(found["overflow_to_sample_mapping"], found["input_ids"], strict=True)
        return
    room = limit - tokenizer.num_special_tokens_to_add()
    for sample, ids in enumerate(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]):
        for start in range(0, max(1, len(ids)), room):
            yield sample, tokenizer.build_inputs_with_special_tokens(ids[start : start + room])
