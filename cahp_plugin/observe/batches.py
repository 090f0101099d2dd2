"""Checks the batches before any work is done, and brings them into one form."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from cahp_plugin.architectures.positions import max_positions
from cahp_plugin.errors import DataError

logger = logging.get_logger(__name__)

_LABEL_KEYS = ("labels", "label")


@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch: what the model takes, the labels, and which tokens are real.

    Attributes:
        inputs: Arguments of the model's forward call, without labels.
        labels: Class of each example, int64 of shape ``(batch,)``.
        mask: Real tokens, bool of shape ``(batch, tokens)``.
    """

    inputs: dict[str, Any]
    labels: Tensor
    mask: Tensor

    def inputs_on(self, device: torch.device) -> dict[str, Any]:
        """The model's arguments on its device."""
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in self.inputs.items()}

    def rows(self, chosen: Tensor) -> Batch:
        """The examples at the indices ``chosen``, without the columns at the end that are padding in all of them."""
        width = int(self.mask[chosen].any(dim=0).nonzero().max()) + 1
        batch, tokens = self.mask.shape
        inputs = {}
        for name, value in self.inputs.items():
            if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch:
                value = value[chosen]
                if value.dim() == 2 and value.shape[1] == tokens:
                    value = value[:, :width]
            inputs[name] = value
        return Batch(inputs, self.labels[chosen], self.mask[chosen, :width])


@dataclasses.dataclass(frozen=True)
class PreparedBatches:
    """Checked batches, to be walked through as often as needed.

    Attributes:
        source: The batches as given (or, for an iterator that can be walked through only once, their list).
        lengths: Number of real tokens of each example, in the order of the first walk.
        classes: Labels that occur, ascending.
        num_batches: Number of batches.
        limit: Longest sequence that the model takes, in tokens, or ``None``.
    """

    source: Iterable[Mapping[str, Any]]
    lengths: tuple[int, ...]
    classes: tuple[int, ...]
    num_batches: int
    limit: int | None

    @property
    def num_examples(self) -> int:
        """Number of examples."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[Batch]:
        for position, batch in enumerate(self.source):
            yield _read(batch, position, self.limit)


def prepare_batches(dataloader: Iterable[Mapping[str, Any]], model: nn.Module) -> PreparedBatches:
    """Walks through the batches once, without the model, and checks what would spoil the selection later.

    Args:
        dataloader: Any iterable of dict batches as a ``Trainer`` makes them: ``input_ids``, ``attention_mask``
            (all tokens are real without it), ``labels`` of shape ``(batch,)``. An iterator is read into memory.
        model: The classifier that will see them.

    Raises:
        DataError: No example; labels missing, not whole numbers, outside the model's classes; a single class; a class
            with fewer than two examples, which has no variance; an example without tokens.
    """
    source = dataloader if iter(dataloader) is not dataloader else list(dataloader)
    limit = max_positions(model)
    config: Any = model.config
    num_labels = int(config.num_labels)
    lengths: list[int] = []
    counts = torch.zeros(num_labels, dtype=torch.long)
    num_batches, longest = 0, 0
    for position, raw in enumerate(source):
        longest = max(longest, _width(raw))
        batch = _read(raw, position, limit)
        low, high = int(batch.labels.min()), int(batch.labels.max())
        if low < 0 or high >= num_labels:
            raise DataError(
                f"Batch {position} has the label {low if low < 0 else high}; the model has {num_labels} classes, so "
                f"labels go from 0 to {num_labels - 1}. Map the labels or load the model with the right `num_labels`."
            )
        counts += torch.bincount(batch.labels, minlength=num_labels)
        real = batch.mask.sum(dim=1)
        if int(real.min()) == 0:
            raise DataError(f"Batch {position} has an example without a single real token (attention mask all zero).")
        lengths.extend(real.tolist())
        num_batches += 1
    if not lengths:
        raise DataError("The data set is empty: the dataloader gave no batch.")
    if limit is not None and longest > limit:
        logger.warning(
            f"Batches of up to {longest} tokens are truncated to the {limit} that the model has positions for."
        )
    _check_counts(counts)
    classes = tuple(int(label) for label in counts.nonzero().flatten())
    return PreparedBatches(source, tuple(lengths), classes, num_batches, limit)


def _check_counts(counts: Tensor) -> None:
    present = counts.nonzero().flatten().tolist()
    if len(present) < 2:
        raise DataError(
            f"All {int(counts.sum())} examples have the label {present[0]}. The method compares classes: it needs "
            "examples of at least two."
        )
    scarce = [label for label in present if counts[label] < 2]
    if scarce:
        raise DataError(
            f"Class {', '.join(map(str, scarce))} has a single example. A variance takes at least two of each class: "
            "add examples or leave the class out."
        )


def _width(raw: Mapping[str, Any]) -> int:
    ids = raw.get("input_ids") if isinstance(raw, Mapping) else None
    return int(ids.shape[1]) if isinstance(ids, Tensor) and ids.dim() == 2 else 0


def read_inputs(dataloader: Iterable[Mapping[str, Any]], model: nn.Module) -> Iterator[Batch]:
    """Reads batches for what needs no labels; all labels are -1.

    Args:
        dataloader: Any iterable of dict batches, labelled or not.
        model: The model that will see them.

    Raises:
        DataError: There is no batch, one is malformed, or an example has no real token.
    """
    limit, position = max_positions(model), -1
    for position, raw in enumerate(dataloader):
        ids = raw.get("input_ids") if isinstance(raw, Mapping) else None
        unlabelled = raw
        if isinstance(ids, Tensor):
            unlabelled = {name: value for name, value in raw.items() if name not in _LABEL_KEYS}
            unlabelled["labels"] = torch.full((len(ids),), -1)
        batch = _read(unlabelled, position, limit)
        if not bool(batch.mask.any(dim=1).all()):
            raise DataError(f"Batch {position} has an example without a single real token (attention mask all zero).")
        yield batch
    if position < 0:
        raise DataError("The data set is empty: the dataloader gave no batch.")


def _read(raw: Mapping[str, Any], position: int, limit: int | None) -> Batch:
    if not isinstance(raw, Mapping):
        raise DataError(
            f"Batch {position} is a {type(raw).__name__}; expected a dict of tensors such as a `DataLoader` with "
            "`DataCollatorWithPadding` makes."
        )
    inputs = dict(raw)
    labels = next((inputs.pop(key) for key in _LABEL_KEYS if key in inputs), None)
    if labels is None:
        raise DataError(f"Batch {position} has no `labels`; its keys are {', '.join(sorted(raw))}.")
    labels = torch.as_tensor(labels)
    if labels.dim() != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise DataError(
            f"Batch {position}: `labels` must be whole numbers of shape (batch,), got {labels.dtype} of shape "
            f"{tuple(labels.shape)}."
        )
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor) or ids.dim() != 2:
        raise DataError(
            f"Batch {position} has no `input_ids` of shape (batch, tokens); its keys: {', '.join(sorted(raw))}."
        )
    if len(labels) != len(ids) or not len(ids):
        raise DataError(f"Batch {position} has {len(ids)} examples and {len(labels)} labels.")
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    batch = Batch(inputs, labels.to("cpu", torch.long), mask.cpu())
    return batch if limit is None or ids.shape[1] <= limit else _truncate(batch, limit)


def _truncate(batch: Batch, limit: int) -> Batch:
    """Cuts the columns beyond the limit, on the side where the padding is."""
    tokens = batch.mask.shape[1]
    left_padded = not bool(batch.mask[:, 0].all())
    window = slice(tokens - limit, tokens) if left_padded else slice(0, limit)
    inputs = {
        name: value[:, window]
        if isinstance(value, Tensor) and value.dim() == 2 and value.shape[1] == tokens
        else value
        for name, value in batch.inputs.items()
    }
    return Batch(inputs, batch.labels, batch.mask[:, window])
