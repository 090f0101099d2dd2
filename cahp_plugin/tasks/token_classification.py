"""A class for each word: entities, parts of speech."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cahp_plugin.data.labels import encode_tags
from cahp_plugin.errors import DataError
from cahp_plugin.tasks.base import TOKENS, Options, first_tokens
from cahp_plugin.tasks.decoder_inputs import IGNORED
from cahp_plugin.tasks.examples import Examples
from cahp_plugin.tasks.processors import load_processor
from cahp_plugin.tasks.text import Padding, length_limit, taken_apart
from cahp_plugin.tasks.token_outputs import TokenOutputs

_TAG = re.compile(r"[BIESLU]-.+")  # of BIO, BIOES, BILOU


class TokenClassification(TokenOutputs):
    """A class for each word of a text that comes as words; the first token of a word stands for it."""

    name = "token-classification"
    about = "a class for each word: entities, parts of speech"
    auto = "AutoModelForTokenClassification"
    suffixes = ("ForTokenClassification",)
    text_columns = (("tokens",), ("words",))
    label_columns = ("ner_tags", "tags", "labels", "label", "pos_tags", "chunk_tags")
    conditioning = "label"
    classes_of = "tokens"
    metrics = ("f1_entities", "word_accuracy")
    compared = "the classes of each labelled token"
    outputs = {"logits": TOKENS}  # noqa: RUF012

    def load_processor(self, name: str) -> Any:
        """See the base class; tokenizers of bytes (RoBERTa's) have to put a space before each word."""
        found = load_processor(name)
        return load_processor(name, add_prefix_space=True) if _needs_spaces(found) else found

    def encode(self, data: Any, model: Any, processor: Any, options: Options) -> Examples:
        """See the base class."""
        if not getattr(processor, "is_fast", False):
            raise DataError(
                f"{type(processor).__name__} does not say which word a token is of; words need a fast tokenizer "
                "(`tokenizer.json`)."
            )
        if _needs_spaces(processor):
            raise DataError(
                f"{type(processor).__name__} takes words apart only if loaded with `add_prefix_space=True`."
            )
        columns = self.columns(data, options)
        words = _read_words(data, columns.text[0])
        tags: list[list[int]] = [[0] * len(own) for own in words]
        names: dict[int, str] = {0: "O"}
        if columns.label:
            tags, names = encode_tags(data, columns.label, words, model.config)
        limit = length_limit(processor, model, options.max_length)

        def encoded(batch: dict[str, Any], indices: list[int]) -> dict[str, list[Any]]:
            found = processor(
                [words[index] for index in indices],
                is_split_into_words=True,
                truncation=True,
                max_length=limit,
                return_overflowing_tokens=True,
            )
            rows = [indices[sample] for sample in found.pop("overflow_to_sample_mapping")]
            labels, places, seen = [], [], dict.fromkeys(indices, -1)
            for position, row in enumerate(rows):
                own, at = [], []
                for token, word in enumerate(found.word_ids(position)):
                    first = word is not None and word > seen[row]
                    if first:
                        seen[row] = word
                        at.append([token, word])
                    own.append(tags[row][word] if first else IGNORED)
                labels.append(own)
                places.append(at)
            return {**{name: found[name] for name in found}, "labels": labels, "row": rows, "words": places}

        examples, rows, lengths, told = taken_apart(data, encoded, limit)
        references, extra = [[names[tag] for tag in row] for row in tags], {"names": names}
        return Examples(self, examples, Padding(processor, model), lengths, references, rows, told=told, extra=extra)

    def outcomes(self, output: Any, features: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any]) -> list[Any]:
        """See the base class."""
        found, shifts = [], first_tokens(inputs).tolist()
        for feature, classes, shift in zip(features, output.logits.argmax(dim=-1).tolist(), shifts, strict=True):
            found.append([[word, classes[token + shift]] for token, word in feature["words"]])
        return found

    def predictions(self, examples: Examples, outcomes: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """See the base class."""
        names: Mapping[int, str] = examples.extra["names"]
        found = [["O"] * len(reference) for reference in examples.references]  # a word without a token stays "O"
        for row, words in zip(examples.rows, outcomes, strict=True):
            for word, tag in words:
                found[row][word] = names[tag]
        return found, list(examples.references)

    def metrics_of(self, examples: Examples) -> tuple[str, ...]:
        """Entities where the tags say where they begin; else words."""
        tags = set(examples.extra["names"].values()) - {"O"}
        return self.metrics if all(map(_TAG.fullmatch, tags)) else self.metrics[1:]


def _needs_spaces(tokenizer: Any) -> bool:
    """Whether its class knows of the space before a word, and it was loaded without."""
    known = "add_prefix_space" in inspect.signature(type(tokenizer).__init__).parameters
    return known and getattr(tokenizer, "add_prefix_space", None) is False


def _read_words(data: Any, column: str) -> list[list[str]]:
    """The words of each row.

    Raises:
        DataError: A row is no list of words, or has none.
    """
    found = list(data.with_format(None)[column])
    for row, words in enumerate(found):
        if not isinstance(words, (list, tuple)) or not words or not all(isinstance(word, str) for word in words):
            raise DataError(f"Column {column!r}, row {row}: expected a list of words, got {words!r}.")
    return found
