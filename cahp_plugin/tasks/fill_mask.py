"""Masked language models: tokens that are hidden from them."""

from __future__ import annotations

from typing import Any

import torch

from cahp_plugin.errors import DataError
from cahp_plugin.tasks.decoder_inputs import IGNORED
from cahp_plugin.tasks.language_modeling import LanguageModeling

_SHARE = 0.15


class FillMask(LanguageModeling):
    """Hidden tokens of a text: 15 % of it, drawn once for each text, so that every model sees the same ones."""

    name = "fill-mask"
    about = "masked language models: tokens that are hidden"
    auto = "AutoModelForMaskedLM"
    suffixes = ("ForMaskedLM",)
    compared = "the tokens that are hidden"

    def labels(self, ids: list[int], seed: int, tokenizer: Any) -> tuple[list[int], list[int]]:
        """See the base class.

        Raises:
            DataError: The tokenizer has no token to hide others by.
        """
        if tokenizer.mask_token_id is None:
            raise DataError(f"{type(tokenizer).__name__} has no mask token, so that no token can be hidden.")
        special = set(tokenizer.all_special_ids)
        places = [place for place, token in enumerate(ids) if token not in special]
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed)).tolist()
        hidden = {places[index] for index in order[: max(1, round(_SHARE * len(places)))]}
        read = [tokenizer.mask_token_id if place in hidden else token for place, token in enumerate(ids)]
        return read, [token if place in hidden else IGNORED for place, token in enumerate(ids)]
