"""Checks the batches before any work is done, and brings them into one form."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from cahp_plugin.errors import DataError
from cahp_plugin.observe.classes import classes_of
from cahp_plugin.observe.conditioning import LABEL, Conditioning, conditioning_of
from cahp_plugin.processes import processes
from cahp_plugin.tasks import known_task
from cahp_plugin.tasks.decoder_inputs import add_decoder_inputs, takes_decoder_inputs
from cahp_plugin.units.positions import max_positions

logger = logging.get_logger(__name__)

_LABEL_KEYS = ("labels", "label")


@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch: what the model takes, the labels, and which tokens are real.

    Attributes:
        inputs: Arguments of the model's forward call, without labels.
        labels: Class of each example, int64 of shape ``(batch,)``; of each token, ``(batch, tokens)``; or 0 and 1 of
            shape ``(batch, labels)``. Where none are needed also anything else as it came, or ``None``.
        mask: Real tokens, bool of shape ``(batch, tokens)``. Images and audio features, whose tokens the model makes
            and never pads, have a width of 0.
        decoder_mask: Real tokens of the decoder's input, where the model takes one.
        first: Number of its first example in the data set.
        label_sets: Whether labels are 0 and 1 of shape ``(batch, labels)``: no column of them is a token's.
    """

    inputs: dict[str, Any]
    labels: Any
    mask: Tensor
    decoder_mask: Tensor | None = None
    first: int = 0
    label_sets: bool = False

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def given(self) -> dict[str, Any]:
        """The batch as a data loader gives it: inputs, and labels where there are any."""
        return self.inputs | ({} if self.labels is None else {"labels": self.labels})

    def inputs_on(self, device: torch.device) -> dict[str, Any]:
        """The model's arguments on its device."""
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in self.inputs.items()}

    def rows(self, chosen: Tensor) -> Batch:
        """The examples at the indices ``chosen``, without the columns at the end that are padding in all of them."""

        def pick(value: Any) -> Any:
            return value[chosen] if isinstance(value, Tensor) and value.dim() and len(value) == len(self) else value

        mask, decoder_mask = self.mask[chosen], pick(self.decoder_mask)
        inputs = {name: pick(value) for name, value in self.inputs.items()}
        batch = Batch(inputs, pick(self.labels), mask, decoder_mask, label_sets=self.label_sets)
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
        if _is_of_tokens(labels, target) and not self.label_sets and not labels.is_floating_point():
            labels = labels[:, window if decoder_mask is None else decoder_window]
        if decoder_mask is not None:
            decoder_mask = decoder_mask[:, decoder_window]
        return Batch(inputs, labels, self.mask[:, window], decoder_mask, label_sets=self.label_sets)


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
        classes: Labels that heads are compared by, ascending; empty where no labels were asked for.
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
    def num_examples(self) -> int:
        """Number of examples."""
        return sum(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Batch]:
        first = 0
        for position, (raw, size) in enumerate(zip(self.source, self.sizes, strict=False)):
            yield dataclasses.replace(self.reader.read(raw, position), first=first)
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
        conditioning: Where it compares labelled classes, ``labels`` are needed and checked: whole numbers of shape
            ``(batch,)``; of shape ``(batch, tokens)``, -100 where a token has none; or 0 and 1 of shape
            ``(batch, labels)``. Else they may be absent, or labels of tokens.

    Raises:
        DataError: No example; labels missing, of another shape or type, or none of the model's; a single class; a
            class with fewer than two examples, which has no variance (of tokens, and of several labels, it is left out
            with a warning while others are there); an example without tokens; no input for the decoder.
    """
    source = dataloader if iter(dataloader) is not dataloader else list(dataloader)
    reader, kind = Reader(model, conditioning), classes_of(conditioning)
    config: Any = model.config
    num_labels = int(config.num_labels)
    lengths: list[int] = []
    counts = torch.zeros((), dtype=torch.long)
    sizes: list[int] = []
    digest = hashlib.sha256()
    for position, batch in enumerate(reader.all(source)):
        if reader.classes:
            counts = counts + kind.count(batch.labels, batch.mask, num_labels, position)
        if batch.mask.shape[1]:
            lengths.extend(batch.mask.sum(dim=1).tolist())
        sizes.append(len(batch))
        if processes().size > 1:
            for value in (batch.inputs[reader.main], batch.labels, batch.mask):
                digest.update(value.cpu().numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
    if reader.limit is not None and reader.longest > reader.limit:
        logger.warning(
            f"Batches of up to {reader.longest} tokens are truncated to the {reader.limit} that the model has "
            "positions for."
        )
    classes = kind.labelled(counts) if reader.classes else ()
    return PreparedBatches(source, tuple(lengths), classes, tuple(sizes), reader, digest.hexdigest()[:16])


def read_inputs(dataloader: Iterable[Mapping[str, Any]], model: nn.Module, *, labels: bool = False) -> Iterator[Batch]:
    """Reads batches for what needs no labels; the decoder's input is made of them where it has none.

    Args:
        dataloader: Any iterable of dict batches, labelled or not.
        model: The model that will see them.
        labels: Whether labels are handed on, as they are; they are left out without it.

    Raises:
        DataError: There is no batch, one is malformed, or an example has no real token.
    """
    task = known_task(model)
    reader = Reader(model, conditioning_of("none", "examples" if task is None else task.classes_of))
    for batch in reader.all(dataloader):
        yield batch if labels else dataclasses.replace(batch, labels=None)


def largest_first(batches: Iterable[Batch]) -> list[Batch]:
    """Batches by the size of their inputs, so that memory that one gives back is enough for the next.

    The other way round, each finds all that was given back too small, and the process grows with every batch.
    """

    def size(batch: Batch) -> int:
        return sum(value.numel() for value in batch.inputs.values() if isinstance(value, Tensor))

    return sorted(batches, key=size, reverse=True)


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
        conditioning: Which labels every batch must have, if any.

    Attributes:
        longest: Most tokens of a batch so far, before it was truncated; 0 for images and audio.
    """

    def __init__(self, model: nn.Module, conditioning: Conditioning) -> None:
        self.classes = conditioning.labelled
        self.conditioning = conditioning
        self.limit, self.longest = max_positions(model), 0
        self.main = str(getattr(model, "main_input_name", "input_ids"))
        self._model = model if takes_decoder_inputs(model) else None

    def all(self, source: Iterable[Mapping[str, Any]]) -> Iterator[Batch]:
        """Reads one batch after the other.

        Raises:
            DataError: There is none, or one is malformed.
        """
        position = -1
        for position, raw in enumerate(source):
            yield self.read(raw, position)
        if position < 0:
            raise DataError("The data set is empty: the dataloader gave no batch.")

    def read(self, raw: Mapping[str, Any], position: int) -> Batch:
        """Checks one batch and separates inputs, labels and masks.

        Raises:
            DataError: It is malformed, or an example has no real token.
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
        labels = _read_labels(labels, main.shape, position, self.conditioning)
        if not len(main):
            raise DataError(f"Batch {position} has 0 examples.")
        mask, sets = _token_mask(inputs, len(main)), self.conditioning.of == "labels"
        batch = Batch(inputs, labels, mask, label_sets=sets)
        if self._model is not None:
            inputs, decoder_mask = add_decoder_inputs(self._model, inputs, labels, batch.mask, position)
            batch = dataclasses.replace(batch, inputs=inputs, decoder_mask=decoder_mask)
        self.longest = max(self.longest, mask.shape[1])
        batch = batch if self.limit is None else _truncate(batch, self.limit)
        if batch.mask.shape[1] and not bool(batch.mask.any(dim=1).all()):
            raise DataError(f"Batch {position} has an example without a single real token (attention mask all zero).")
        if batch.decoder_mask is not None and not bool(batch.decoder_mask.any(dim=1).all()):
            raise DataError(f"Batch {position} has an example without a single real token for the decoder.")
        return batch


_SHAPES = {
    "input_ids": "(batch, tokens)",
    "pixel_values": "(batch, channels, height, width)",
    "input_features": "(batch, features, frames)",
}


def _read_labels(labels: Any, shape: torch.Size, position: int, conditioning: Conditioning) -> Any:
    if labels is None:
        return None
    if conditioning.labelled or isinstance(labels, (list, tuple)):
        try:
            labels = torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"Batch {position}: `labels` make no tensor: {error}.") from error
    if not isinstance(labels, Tensor):
        return labels
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    fault = classes_of(conditioning).fault(labels, shape) if conditioning.labelled else None
    if fault:
        raise DataError(
            f"Batch {position}: `labels` must be {fault}, got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    if labels.dim() == 0 or len(labels) != shape[0]:
        got = "a single" if labels.dim() == 0 else str(len(labels))
        raise DataError(f"Batch {position} has {shape[0]} examples and {got} labels.")
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
