"""Causal language models: each token from those before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cahp_plugin.tasks.base import real_tokens
from cahp_plugin.tasks.decoder_inputs import IGNORED
from cahp_plugin.tasks.language_modeling import LanguageModeling


class TextGeneration(LanguageModeling):
    """The next token of a text."""

    name = "text-generation"
    about = "causal language models: the next token"
    auto = "AutoModelForCausalLM"
    suffixes = ("ForCausalLM", "LMHeadModel")
    compared = "the next token, at every token"
    first = 1  # the first token has nothing to predict it from

    def labels(self, ids: list[int], seed: int, tokenizer: Any) -> tuple[list[int], list[int]]:
        """See the base class."""
        return ids, list(ids)

    def at(self, values: Tensor, labels: Tensor, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Each token's output is about the next; behind padding on the left, the first is predicted from nothing."""
        if not isinstance(labels, Tensor) or labels.dim() != 2:
            labels = inputs["input_ids"].masked_fill(~real_tokens(inputs), IGNORED)
        if labels.shape[:2] != values.shape[:2]:
            return values, labels
        real = real_tokens(inputs)[:, :-1].to(labels.device)
        return values[:, :-1], labels[:, 1:].masked_fill(~real, IGNORED)
