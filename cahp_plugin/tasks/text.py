"""From texts to tokens, and from tokens to padded batches: what the tasks of text share."""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.utils import logging

from cahp_plugin.errors import DataError
from cahp_plugin.tasks.decoder_inputs import IGNORED
from cahp_plugin.units.positions import max_positions

logger = logging.get_logger(__name__)

#: Tokens of a piece of text at most where `max_length` leaves it open and long texts are taken apart: attention maps
#: grow with its square.
LONGEST_CHUNK = 1024


def length_limit(tokenizer: Any, model: Any, max_length: int | None, *, chunks: bool = False) -> int:
    """Tokens that an example may have.

    Args:
        tokenizer: The model's tokenizer.
        model: The model.
        max_length: What was asked for.
        chunks: Whether longer texts are taken apart.

    Raises:
        DataError: ``max_length`` is out of range.
    """
    limits = [limit for limit in (max_positions(model), tokenizer.model_max_length) if limit]
    limit = int(min([*limits, 2**30]))  # a tokenizer without a limit says 1e30, which none takes as `max_length`
    if max_length is None:
        return min(limit, LONGEST_CHUNK) if chunks else limit
    if max_length < 3:
        raise DataError(f"`max_length` must be at least 3 tokens, got {max_length}.")
    if max_length > limit:
        raise DataError(f"`max_length` is {max_length}; the model takes at most {limit} tokens.")
    return max_length


def check_texts(dataset: Any, columns: Sequence[str]) -> None:
    """Checks that columns hold texts, and that some of them are not empty.

    Raises:
        DataError: One is no text, or all are empty.
    """
    empty: set[int] = set()
    for name in columns:
        found = dataset.with_format(None)[name]
        for row, text in enumerate(found):
            if not isinstance(text, str):
                raise DataError(f"Column {name!r}, row {row}: expected text, got {text!r}.")
            if not text.strip():
                empty.add(row)
        if len(found) and len(empty) == len(found):
            raise DataError(f"All {len(found)} texts of column {name!r} are empty.")
    if empty:
        rows = ", ".join(map(str, sorted(empty)[:5])) + (", ..." if len(empty) > 5 else "")
        logger.warning(f"{len(empty)} of {len(dataset)} texts are empty (rows {rows}).")


def tokenized(
    dataset: Any, columns: Sequence[str], tokenizer: Any, model: Any, max_length: int | None
) -> tuple[Any, list[int], str]:
    """Tokenizes one text or a pair a row, and cuts what is longer than :func:`length_limit`.

    Args:
        dataset: A ``datasets.Dataset``.
        columns: One or two text columns.
        tokenizer: The model's tokenizer.
        model: The model.
        max_length: The limit that was asked for: to this, all may be cut.

    Returns:
        A ``datasets.Dataset`` with what the tokenizer gives, the tokens of each row, and what was cut in a sentence.

    Raises:
        DataError: A text is no string, all are empty, have no token, or are longer than the model's limit; or
            ``max_length`` is out of range.
    """
    limit, long = length_limit(tokenizer, model, max_length), 0
    check_texts(dataset, columns)

    def encoded(batch: dict[str, list[Any]]) -> dict[str, Any]:
        nonlocal long
        texts = [batch[name] for name in columns]
        found = tokenizer(*texts, truncation=False, verbose=False)
        over = sum(len(ids) > limit for ids in found["input_ids"])
        if over:
            long += over
            found = tokenizer(*texts, truncation=True, max_length=limit)
        return dict(found)

    found = mapped(dataset, encoded)
    lengths = [len(ids) for ids in found["input_ids"]]
    if 0 in lengths:
        row = lengths.index(0)
        raise DataError(f"Row {row} has no token: {[dataset[row][name] for name in columns]!r}. Leave it out.")
    told = f"{long} of {len(dataset)} examples are longer than {limit} tokens and were truncated." if long else ""
    if long == len(dataset) and max_length is None:
        raise DataError(
            f"All {long} examples are longer than the {limit} tokens that the model takes: the end of each would be "
            f"lost. Give shorter texts, or cut them on purpose with `max_length` ({limit} or less)."
        )
    if told:
        logger.warning(told)
    return found, lengths, told


def mapped(dataset: Any, function: Any, **options: Any) -> Any:
    """A data set made batch by batch from another; where that lies on disk, so does this."""
    return dataset.with_format(None).map(
        function,
        batched=True,
        remove_columns=dataset.column_names,
        keep_in_memory=not getattr(dataset, "spooled", False),
        load_from_cache_file=False,
        desc="Tokenizing",
        **options,
    )


def taken_apart(
    dataset: Any, function: Callable[[dict[str, Any], list[int]], dict[str, list[Any]]], limit: int
) -> tuple[Any, list[int], list[int], str]:
    """Makes examples of texts, several of a long one.

    Args:
        dataset: A ``datasets.Dataset``.
        function: A batch of rows and their numbers -> columns of examples, with ``input_ids`` and, as ``row``, the
            number of the row that each is from.
        limit: Tokens of an example at most.

    Returns:
        A ``datasets.Dataset`` of the examples, the row and the tokens of each, and how many texts were taken apart, in
        a sentence, which is said too.
    """
    examples = mapped(dataset, function, with_indices=True)
    rows = list(examples["row"]) if len(examples) else []  # an empty data set has no columns
    lengths = [len(ids) for ids in examples["input_ids"]] if rows else []
    taken, told = sum(count > 1 for count in Counter(rows).values()), ""
    if taken:
        told = f"{taken} of {len(dataset)} texts are longer than {limit} tokens and were taken apart: "
        told += f"{len(rows)} examples."
        logger.info(told)
    return examples, rows, lengths, told


class Padding:
    """Makes padded batches of rows of token ids and labels.

    Args:
        tokenizer: Pads; one without a padding token pads with the end of a text, which the mask hides.
        model: What does not take an input that the tokenizer makes is not given it.
        side: Side of the padding; the tokenizer's without it.
    """

    def __init__(self, tokenizer: Any, model: Any, *, side: str | None = None) -> None:
        taken = inspect.signature(type(model).forward).parameters
        self._names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in taken]
        self._tokenizer = tokenizer
        if tokenizer.pad_token is None or (side or tokenizer.padding_side) != tokenizer.padding_side:
            self._tokenizer = copy.deepcopy(tokenizer)
            self._tokenizer.padding_side = side or tokenizer.padding_side
            if tokenizer.pad_token is None:
                self._tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)

    def __call__(self, rows: list[Mapping[str, Any]]) -> dict[str, Any]:
        """Pads the token ids and masks of the rows, and labels of tokens along with them."""
        from transformers import DataCollatorWithPadding

        names = [name for name in self._names if name in rows[0]]
        batch = dict(DataCollatorWithPadding(self._tokenizer)([{name: row[name] for name in names} for row in rows]))
        if "labels" in rows[0]:
            batch["labels"] = self.labels([row["labels"] for row in rows])
        return batch

    def labels(self, labels: Sequence[Any], side: str | None = None) -> torch.Tensor:
        """Labels of examples, or of tokens: those are padded by -100 on the side of the inputs' padding."""
        tensors = [torch.as_tensor(value) for value in labels]
        if not tensors[0].dim():
            return torch.stack(tensors)
        left = (side or self._tokenizer.padding_side) == "left"
        flipped = [value.flip(0) for value in tensors] if left else tensors
        padded = pad_sequence(flipped, batch_first=True, padding_value=IGNORED)
        return padded.flip(1) if left else padded
