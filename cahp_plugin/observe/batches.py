"""Checks the batches before any work is done, and brings them into one form."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from cahp_plugin.errors import DataError
from cahp_plugin.observe.conditioning import LABEL, Conditioning
from cahp_plugin.processes import processes
from cahp_plugin.tasks.decoder_inputs import add_decoder_inputs, takes_decoder_inputs
from cahp_plugin.units.positions import max_positions

logger = logging.get_logger(__name__)

_LABEL_KEYS = ("labels", "label")


@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch: what the model takes, the labels, and which tokens are real.

    Attributes:
        inputs: Arguments of the model's forward call, without labels.
        labels: Class of each example, int64 of shape ``(batch,)``; where none are needed also labels of tokens,
            ``(batch, tokens)``, anything else as it came, or ``None``.
        mask: Real tokens, bool of shape ``(batch, tokens)``. Images and audio features, whose tokens the model makes
            and never pads, have a width of 0.
        decoder_mask: Real tokens of the decoder's input, where the model takes one.
        first: Number of its first example in the data set.
    """

    inputs: dict[str, Any]
    labels: Any
    mask: Tensor
    decoder_mask: Tensor | None = None
    first: int = 0

    def __len__(self) -> int:
        return len(self.mask)

    def inputs_on(self, device: torch.device) -> dict[str, Any]:
        """The model's arguments on its device."""
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in self.inputs.items()}

    def rows(self, chosen: Tensor) -> Batch:
        """The examples at the indices ``chosen``, without the columns at the end that are padding in all of them."""

        def pick(value: Any) -> Any:
            return value[chosen] if isinstance(value, Tensor) and value.dim() and len(value) == len(self) else value

        mask, decoder_mask = self.mask[chosen], pick(self.decoder_mask)
        batch = Batch(
            {name: pick(value) for name, value in self.inputs.items()}, pick(self.labels), mask, decoder_mask
        )
        width, decoder_width = _width(mask), 0 if decoder_mask is None else _width(decoder_mask)
        return batch.columns(slice(0, width), slice(0, decoder_width))

    def columns(self, window: slice, decoder_window: slice) -> Batch:
        """The tokens in a window of the columns, and the decoder's in another."""
        inputs = dict(self.inputs)
        for name, value in inputs.items():
            decodes = name.startswith("decoder_")
            mask = self.decoder_mask if decodes else self.mask
            if mask is not None and _is_of_tokens(value, mask):
                inputs[name] = value[:, decoder_window if decodes else window]
        labels, decoder_mask = self.labels, self.decoder_mask
        target = self.mask if decoder_mask is None else decoder_mask
        if _is_of_tokens(labels, target):
            labels = labels[:, window if decoder_mask is None else decoder_window]
        if decoder_mask is not None:
            decoder_mask = decoder_mask[:, decoder_window]
        return Batch(inputs, labels, self.mask[:, window], decoder_mask)


def _is_of_tokens(value: Any, mask: Tensor) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2 and value.shape == mask.shape and mask.shape[1] > 0


def _width(mask: Tensor) -> int:
    """Columns up to the last one with a real token."""
    used = mask.any(dim=0).nonzero()
    return int(used.max()) + 1 if len(used) else 0


@dataclasses.dataclass(frozen=True)
class PreparedBatches:
    """Checked batches, to be walked through as often as needed.

    Attributes:
        source: The batches as given (or, for an iterator that can be walked through only once, their list).
        lengths: Number of real tokens of each example, in the order of the first walk; empty for images and audio.
        classes: Labels that occur, ascending; empty where no labels were asked for.
        sizes: Examples of each batch.
        reader: How a batch is read.
        digest: Where several processes are at work, what tells other data or another order from these.
    """

    source: Iterable[Mapping[str, Any]]
    lengths: tuple[int, ...]
    classes: tuple[int, ...]
    sizes: tuple[int, ...]
    reader: Reader
    digest: str = ""

    @property
    def num_batches(self) -> int:
        """Number of batches."""
        return len(self.sizes)

    @property
    def num_examples(self) -> int:
        """Number of examples."""
        return sum(self.sizes)

    def __iter__(self) -> Iterator[Batch]:
        return (batch for _, batch in self.walk())

    def walk(self, chosen: Callable[[int], bool] = lambda position: True) -> Iterator[tuple[int, Batch]]:
        """The positions that are chosen, ascending, and their batches; the others are not read."""
        first = 0
        for position, (raw, size) in enumerate(zip(self.source, self.sizes, strict=False)):
            if chosen(position):
                yield position, dataclasses.replace(self.reader.read(raw, position), first=first)
            first += size


def prepare_batches(
    dataloader: Iterable[Mapping[str, Any]], model: nn.Module, conditioning: Conditioning = LABEL
) -> PreparedBatches:
    """Walks through the batches once, without the model, and checks what would spoil the selection later.

    Args:
        dataloader: Any iterable of dict batches as a ``Trainer`` makes them: the model's main input (``input_ids``,
            ``pixel_values`` or ``input_features``), ``attention_mask`` (all tokens are real without it), what else the
            model takes, and labels. An iterator is read into memory.
        model: The model that will see them.
        conditioning: Where it compares labelled classes, ``labels`` of shape ``(batch,)`` are needed and checked;
            else they may be absent, or labels of tokens.

    Raises:
        DataError: No example; labels missing, not whole numbers, outside the model's classes; a single class; a class
            with fewer than two examples, which has no variance; an example without tokens; no input for the decoder.
    """
    source = dataloader if iter(dataloader) is not dataloader else list(dataloader)
    reader = Reader(model, classes=conditioning.labelled)
    config: Any = model.config
    num_labels = int(config.num_labels)
    lengths: list[int] = []
    counts = torch.zeros(num_labels, dtype=torch.long)
    sizes: list[int] = []
    longest = 0
    digest = hashlib.sha256()
    for position, raw in enumerate(source):
        batch = reader.read(raw, position)
        longest = max(longest, _raw_width(raw))
        if reader.classes:
            low, high = int(batch.labels.min()), int(batch.labels.max())
            if low < 0 or high >= num_labels:
                raise DataError(
                    f"Batch {position} has the label {low if low < 0 else high}; the model has {num_labels} classes, "
                    f"so labels go from 0 to {num_labels - 1}. Map the labels or load the model with the right "
                    "`num_labels`."
                )
            counts += torch.bincount(batch.labels, minlength=num_labels)
        _check_tokens(batch, position)
        if batch.mask.shape[1]:
            lengths.extend(batch.mask.sum(dim=1).tolist())
        sizes.append(len(batch))
        if processes().size > 1:
            for value in (batch.inputs[reader.main], batch.labels, batch.mask):
                digest.update(value.cpu().numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
    if not sizes:
        raise DataError("The data set is empty: the dataloader gave no batch.")
    if reader.limit is not None and longest > reader.limit:
        logger.warning(
            f"Batches of up to {longest} tokens are truncated to the {reader.limit} that the model has positions for."
        )
    if reader.classes:
        _check_counts(counts)
    classes = tuple(int(label) for label in counts.nonzero().flatten())
    return PreparedBatches(source, tuple(lengths), classes, tuple(sizes), reader, digest.hexdigest()[:16])


def _check_counts(counts: Tensor) -> None:
    present = counts.nonzero().flatten().tolist()
    if len(present) < 2:
        raise DataError(
            f"All {int(counts.sum())} examples have the label {present[0]}. The method compares classes: it needs "
            'examples of at least two; or compare the heads themselves with `conditioning="none"`.'
        )
    scarce = [label for label in present if counts[label] < 2]
    if scarce:
        raise DataError(
            f"Class {', '.join(map(str, scarce))} has a single example. A variance takes at least two of each class: "
            "add examples or leave the class out."
        )


def _check_tokens(batch: Batch, position: int) -> None:
    if batch.mask.shape[1] and not bool(batch.mask.any(dim=1).all()):
        raise DataError(f"Batch {position} has an example without a single real token (attention mask all zero).")
    if batch.decoder_mask is not None and not bool(batch.decoder_mask.any(dim=1).all()):
        raise DataError(f"Batch {position} has an example without a single real token for the decoder.")


def _raw_width(raw: Mapping[str, Any]) -> int:
    ids = raw.get("input_ids")
    return int(ids.shape[1]) if isinstance(ids, Tensor) and ids.dim() == 2 else 0


def read_inputs(dataloader: Iterable[Mapping[str, Any]], model: nn.Module) -> Iterator[Batch]:
    """Reads batches for what needs no labels; they are left out, but for what the decoder's input is made of.

    Args:
        dataloader: Any iterable of dict batches, labelled or not.
        model: The model that will see them.

    Raises:
        DataError: There is no batch, one is malformed, or an example has no real token.
    """
    reader, position = Reader(model, classes=False), -1
    for position, raw in enumerate(dataloader):
        batch = reader.read(raw, position)
        _check_tokens(batch, position)
        yield dataclasses.replace(batch, labels=None)
    if position < 0:
        raise DataError("The data set is empty: the dataloader gave no batch.")


def first_examples(batches: Iterable[Batch], count: int) -> list[Batch]:
    """The first examples of a data set, in its batches; no more of it is read."""
    found: list[Batch] = []
    for batch in batches:
        found.append(batch if len(batch) <= count else batch.rows(torch.arange(count)))
        count -= len(found[-1])
        if not count:
            break
    return found


class Reader:
    """Reads dict batches for a model.

    Args:
        model: The model.
        classes: Whether every batch must have labels of shape ``(batch,)``.
    """

    def __init__(self, model: nn.Module, *, classes: bool) -> None:
        self.classes = classes
        self.limit = max_positions(model)
        self.main = str(getattr(model, "main_input_name", "input_ids"))
        self._model = model if takes_decoder_inputs(model) else None

    def read(self, raw: Mapping[str, Any], position: int) -> Batch:
        """Checks one batch and separates inputs, labels and masks.

        Raises:
            DataError: It is malformed.
        """
        if not isinstance(raw, Mapping):
            raise DataError(
                f"Batch {position} is a {type(raw).__name__}; expected a dict of tensors such as a `DataLoader` with "
                "`DataCollatorWithPadding` makes."
            )
        inputs = dict(raw)
        labels = next((inputs.pop(key) for key in _LABEL_KEYS if key in inputs), None)
        keys = ", ".join(sorted(map(str, raw)))
        if labels is None and self.classes:
            raise DataError(
                f"Batch {position} has no `labels`; its keys are {keys}. Without labels, use "
                '`conditioning="prediction"` (classes as the model predicts them) or `conditioning="none"`.'
            )
        main, shape = inputs.get(self.main), _SHAPES.get(self.main, "(batch, ...)")
        if not isinstance(main, Tensor) or main.dim() != 1 + shape.count(","):
            raise DataError(f"Batch {position} has no `{self.main}` of shape {shape}; its keys: {keys}.")
        labels = _read_labels(labels, len(main), position, classes=self.classes)
        if not len(main):
            raise DataError(f"Batch {position} has 0 examples.")
        batch = Batch(inputs, labels, _token_mask(inputs, len(main)))
        if self._model is not None:
            inputs, decoder_mask = add_decoder_inputs(self._model, inputs, labels, batch.mask, position)
            batch = dataclasses.replace(batch, inputs=inputs, decoder_mask=decoder_mask)
        return batch if self.limit is None else _truncate(batch, self.limit)


_SHAPES = {
    "input_ids": "(batch, tokens)",
    "pixel_values": "(batch, channels, height, width)",
    "input_features": "(batch, features, frames)",
}


def _read_labels(labels: Any, count: int, position: int, *, classes: bool) -> Any:
    if labels is None:
        return None
    if classes or isinstance(labels, (list, tuple)):
        labels = torch.as_tensor(labels)
    if not isinstance(labels, Tensor):
        return labels
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    if classes and (labels.dim() != 1 or not whole):
        raise DataError(
            f"Batch {position}: `labels` must be whole numbers of shape (batch,), got {labels.dtype} of shape "
            f"{tuple(labels.shape)}."
        )
    if labels.dim() == 0 or len(labels) != count:
        got = "a single" if labels.dim() == 0 else str(len(labels))
        raise DataError(f"Batch {position} has {count} examples and {got} labels.")
    return labels.to("cpu", torch.long) if whole else labels.cpu()


def _token_mask(inputs: Mapping[str, Any], count: int) -> Tensor:
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor) or ids.dim() != 2:
        return torch.ones(count, 0, dtype=torch.bool)
    mask = inputs.get("attention_mask")
    return torch.ones_like(ids, dtype=torch.bool).cpu() if mask is None else mask.bool().cpu()


def _truncate(batch: Batch, limit: int) -> Batch:
    """Cuts the columns beyond the limit, on the side where the padding is."""
    windows = []
    for mask in (batch.mask, batch.decoder_mask):
        tokens = 0 if mask is None else mask.shape[1]
        left_padded = mask is not None and tokens > 0 and not bool(mask[:, 0].all())
        windows.append(slice(max(0, tokens - limit), tokens) if left_padded else slice(0, limit))
    return batch.columns(*windows)
