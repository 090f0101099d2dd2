"""Encoded examples of a task: in order, in batches, in part."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cahp_plugin.tasks.base import Task

Collate = Callable[[list[Any]], dict[str, Any]]

#: Numbers that the outputs of a batch may hold: 256 MiB in fp32. Logits of a vocabulary fill the memory otherwise.
_LARGEST_OUTPUT = 2**26
#: What an example holds that its model does not see.
_UNSEEN = ("labels", "row", "offsets")


@dataclasses.dataclass(frozen=True)
class Examples:
    """Rows of a data set as a model of a task takes them.

    A long text may be several examples, and a pair of texts two.

    Attributes:
        task: The task.
        encoded: A ``datasets.Dataset``, one row an example: what ``collate`` makes a batch of.
        collate: Makes a batch of such rows: the model's inputs, padded, and ``labels``.
        lengths: Tokens of each example.
        references: What is right for each row of the data set, as the metrics take it.
        rows: Row of the data set that each example is from.
        width: Numbers that the model gives for each token, where that is a vocabulary; else 0.
        told: What was done to the texts, in a sentence; empty for nothing.
        targets: Outputs of the dense model, where these are the labels; of shape ``(examples, ...)``.
        extra: What else the task needs to make predictions of outcomes.
        labelled: Whether the labels are the data's; others only fill their place.
    """

    task: Task
    encoded: Any
    collate: Collate
    lengths: Sequence[int]
    references: Sequence[Any]
    rows: Sequence[int]
    width: int = 0
    told: str = ""
    targets: torch.Tensor | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    labelled: bool = True

    def __len__(self) -> int:
        return len(self.encoded)

    def features(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Rows of the encoded data set."""
        return [self.encoded[int(index)] for index in indices]

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """The batch of some examples."""
        return self.collated(self.features(indices), indices)

    def collated(self, features: list[dict[str, Any]], indices: Sequence[int]) -> dict[str, Any]:
        """The batch of some examples, whose rows have been read."""
        batch = self.collate(features)
        return batch if self.targets is None else batch | {"labels": self.targets[list(indices)]}

    def select(self, indices: Sequence[int] | np.ndarray[Any, Any]) -> Examples:
        """Some examples; their rows' references stay as they are."""
        chosen = [int(index) for index in indices]
        return dataclasses.replace(
            self,
            encoded=self.encoded.select(chosen),
            lengths=[self.lengths[index] for index in chosen],
            rows=[self.rows[index] for index in chosen],
            targets=None if self.targets is None else self.targets[chosen],
        )

    def by_length(self) -> Examples:
        """The same examples, the shortest first: batches hold little padding, half the time often.

        Equally long ones stay in their order. The references are sorted along where each row is one example.
        """
        order = self._order()
        found = self.select(order)
        if list(self.rows) != list(range(len(self))):
            return found
        references = [self.references[index] for index in order]
        return dataclasses.replace(found, rows=range(len(self)), references=references)

    def _order(self) -> list[int]:
        return np.argsort(self.lengths, kind="stable").tolist()

    def groups_by_length(self, batch_size: int) -> list[list[int]]:
        """Batches in which examples are about as long, the shortest first."""
        return list(self.groups(self._order(), batch_size))

    def groups(self, order: Sequence[int], batch_size: int) -> Iterator[list[int]]:
        """Cuts an order of examples into batches, smaller ones where the outputs would fill the memory."""
        group: list[int] = []
        longest = 0
        for index in order:
            longest = max(longest, self.lengths[index])
            if group and (len(group) == batch_size or (len(group) + 1) * longest * self.width > _LARGEST_OUTPUT):
                yield group
                group, longest = [], self.lengths[index]
            group.append(index)
        if group:
            yield group

    def batches(
        self, batch_size: int = 32, *, shuffle: bool = False, group_by_length: bool = False, seed: int = 0
    ) -> torch.utils.data.DataLoader[Any]:
        """A data loader of padded dict batches.

        Args:
            batch_size: Examples a batch at most.
            shuffle: Whether the order is drawn anew at each walk.
            group_by_length: Whether examples about as long share a batch when shuffled, as transformers' ``Trainer``
                has it: the batches' order is drawn, the longest examples come first.
            seed: Seed of that order.
        """
        generator = torch.Generator().manual_seed(seed)
        places: Any = range(len(self))
        sampler = places
        if shuffle and group_by_length:
            from transformers.trainer_pt_utils import LengthGroupedSampler

            sampler = LengthGroupedSampler(batch_size, lengths=list(self.lengths), generator=generator)
        elif shuffle:
            sampler = torch.utils.data.RandomSampler(places, generator=generator)
        groups = _Groups(self, sampler, batch_size)
        return torch.utils.data.DataLoader(places, batch_sampler=groups, collate_fn=self.batch, generator=generator)

    def fingerprint(self) -> str:
        """First 16 digits of the SHA-256 of the examples."""
        digest = hashlib.sha256()
        for row in self.encoded.with_format(None):
            plain = "input_ids" in row and isinstance(row.get("labels"), int)
            told = [row["input_ids"], row["labels"]] if plain else row
            digest.update(json.dumps(told, default=_text_of, sort_keys=not plain).encode())
        return digest.hexdigest()[:16]

    def input_hashes(self) -> list[str]:
        """SHA-256 of what the model sees of each example: all but labels; images and recordings by what they hold."""
        found = []
        for row in self.encoded.with_format(None):
            told = {name: _content(value) for name, value in row.items() if name not in _UNSEEN}
            found.append(hashlib.sha256(json.dumps(told, default=_text_of, sort_keys=True).encode()).hexdigest())
        return found


class _Groups:
    """Lists of indices, in the order of a sampler."""

    def __init__(self, examples: Examples, sampler: Any, batch_size: int) -> None:
        self._examples, self._sampler, self._batch_size = examples, sampler, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        yield from self._examples.groups(list(self._sampler), self._batch_size)  # drawn when it is first asked for

    def __len__(self) -> int:
        return sum(1 for _ in self._examples.groups(range(len(self._examples)), self._batch_size))


def _content(value: Any) -> Any:
    """The bytes of an image or a recording that is told by its file; others as they are."""
    path = value.get("path") if isinstance(value, Mapping) else None
    if path is None or value.get("bytes") is not None:
        return value.get("bytes") if isinstance(value, Mapping) and "bytes" in value else value
    return Path(path).read_bytes() if Path(path).is_file() else value


def _text_of(value: Any) -> str:
    """Bytes of images and recordings, and whatever else JSON does not know, for a fingerprint."""
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)
