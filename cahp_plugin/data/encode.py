"""From text and labels to batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from cahp_plugin.data.columns import Columns
from cahp_plugin.data.labels import encode_labels
from cahp_plugin.errors import DataError
from cahp_plugin.units.positions import max_positions

logger = logging.get_logger(__name__)


def encode(dataset: Any, columns: Columns, tokenizer: Any, model: Any, *, max_length: int | None = None) -> Any:
    """Tokenizes a data set for a sequence classifier.

    Args:
        dataset: A ``datasets.Dataset``.
        columns: Its text and label columns.
        tokenizer: The model's tokenizer.
        model: The classifier: its positions bound the length, its classes the labels.
        max_length: Tokens that examples are truncated to; the model's limit without it.

    Returns:
        A ``datasets.Dataset`` with what the tokenizer gives and integer ``labels``.

    Raises:
        DataError: A text is no string, or a label is missing, unknown or out of range; see ``encode_labels``.
    """
    labels = encode_labels(dataset, columns.label, model.config)
    return tokenize(dataset, columns.text, tokenizer, model, max_length=max_length).add_column("labels", labels)


def tokenize(
    dataset: Any, text_columns: Sequence[str], tokenizer: Any, model: Any, *, max_length: int | None = None
) -> Any:
    """Tokenizes the texts of a data set, labelled or not.

    Args:
        dataset: A ``datasets.Dataset``.
        text_columns: One text column, or two for pairs.
        tokenizer: The model's tokenizer.
        model: The model, whose positions bound the length.
        max_length: Tokens that examples are truncated to; the model's limit without it.

    Returns:
        A ``datasets.Dataset`` with what the tokenizer gives.

    Raises:
        DataError: A text is no string, or ``max_length`` is out of range.
    """
    limit = _length_limit(tokenizer, model, max_length)
    for name in text_columns:
        bad = next((row for row, text in enumerate(dataset[name]) if not isinstance(text, str)), None)
        if bad is not None:
            raise DataError(f"Column {name!r}, row {bad}: expected text, got {dataset[name][bad]!r}.")

    cut = 0

    def encoded(batch: dict[str, list[Any]]) -> dict[str, Any]:
        nonlocal cut
        texts = [batch[name] for name in text_columns]
        found = tokenizer(*texts, truncation=False, verbose=False)
        long = sum(len(ids) > limit for ids in found["input_ids"])
        if long:
            cut += long
            found = tokenizer(*texts, truncation=True, max_length=limit)
        return dict(found)

    tokenized = dataset.map(
        encoded,
        batched=True,
        remove_columns=dataset.column_names,
        keep_in_memory=True,
        load_from_cache_file=False,
        desc="Tokenizing",
    )
    if cut:
        logger.warning(f"{cut} of {len(dataset)} examples are longer than {limit} tokens and were truncated.")
    return tokenized


def _length_limit(tokenizer: Any, model: Any, max_length: int | None) -> int:
    limits = [limit for limit in (max_positions(model), tokenizer.model_max_length) if limit]
    limit = int(min(limits))
    if max_length is None:
        return limit
    if max_length < 3:
        raise DataError(f"`max_length` must be at least 3 tokens, got {max_length}.")
    if max_length > limit:
        raise DataError(f"`max_length` is {max_length}; the model takes at most {limit} tokens.")
    return max_length


def by_length(encoded: Any) -> Any:
    """Sorts an encoded data set by the number of tokens, so that batches hold little padding: half the time, often.

    Args:
        encoded: From :func:`encode` or :func:`tokenize`.

    Returns:
        The same examples, the shortest first; equally long ones stay in their order.
    """
    return encoded.select(np.argsort([len(ids) for ids in encoded["input_ids"]], kind="stable"))


def make_dataloader(
    encoded: Any,
    tokenizer: Any,
    *,
    batch_size: int = 32,
    shuffle: bool = False,
    group_by_length: bool = False,
    seed: int = 0,
) -> torch.utils.data.DataLoader[Any]:
    """Makes padded dict batches of an encoded data set.

    Args:
        encoded: From :func:`encode`.
        tokenizer: Pads the batches.
        batch_size: Examples a batch.
        shuffle: Whether the order is drawn anew at each walk.
        group_by_length: Whether examples about as long share a batch when shuffled, as transformers' ``Trainer`` has
            it: the batches' order is drawn, the longest examples come first.
        seed: Seed of that order.
    """
    from transformers import DataCollatorWithPadding

    generator = torch.Generator().manual_seed(seed)
    sampler = None
    if shuffle and group_by_length:
        from transformers.trainer_pt_utils import LengthGroupedSampler

        lengths = [len(ids) for ids in encoded["input_ids"]]
        sampler = LengthGroupedSampler(batch_size, lengths=lengths, generator=generator)
    return torch.utils.data.DataLoader(
        encoded.with_format(None),
        batch_size=batch_size,
        sampler=sampler,
        shuffle=shuffle and sampler is None,
        collate_fn=DataCollatorWithPadding(tokenizer),
        generator=generator,
    )
