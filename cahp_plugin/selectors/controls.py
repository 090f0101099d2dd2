"""CAHP with something else in the place of its class separation: whether the separation matters at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from cahp_plugin.errors import ConfigError, DataError, SelectionError
from cahp_plugin.selectors.cahp.representatives import select_from_separation
from cahp_plugin.selectors.cahp.selection import HeadSelection
from cahp_plugin.selectors.cahp.separation import separation_matrix
from cahp_plugin.observe.signatures import ClassMoments
from cahp_plugin.observe import prepare_batches
from cahp_plugin.observe.head_maps import add_signatures
from cahp_plugin.observe.observation import frozen_eval
from cahp_plugin.prune import CAHPImportance
from cahp_plugin.units import attention_layers

Array = np.ndarray[Any, Any]


class SeparationImportance(CAHPImportance):
    """What CAHP keeps where its separation matrix X is another one; heads and salience stay as measured.

    Args:
        selection: A selection on the model.
        separation: In place of its X, shape ``(N, features)``.
        num_heads: Heads to keep, a count or a share in (0, 1).
        seed: Seed of t-SNE.

    Attributes:
        selection: The selection that it leads to.
        kept: The heads to keep.

    Raises:
        SelectionError: X has another number of rows than there are heads, or the number of heads can't be had.
    """

    def __init__(self, selection: HeadSelection, separation: Array, num_heads: int | float, *, seed: int = 0) -> None:
        if len(separation) != len(selection.heads):
            raise SelectionError(
                f"`separation` has {len(separation)} rows; the selection is of {len(selection.heads)} heads."
            )
        config = dataclasses.replace(selection.config, num_heads=num_heads, seed=seed)
        self.selection = select_from_separation(
            separation,
            selection.heads,
            selection.salience,
            config,
            num_examples=selection.num_examples,
            group_size=selection.group_size,
        )
        super().__init__(self.selection)


class NoiseImportance(SeparationImportance):
    """CAHP's selection from pure noise in place of X.

    Args:
        selection: A selection on the model, with its X.
        num_heads: Heads to keep, a count or a share in (0, 1).
        seed: Seed of the noise and of t-SNE.

    Raises:
        SelectionError: The selection has no X (one read back from a file has none), or the number can't be had.
    """

    def __init__(self, selection: HeadSelection, num_heads: int | float, *, seed: int = 0) -> None:
        super().__init__(selection, gaussian_like(selection, seed), num_heads, seed=seed)


class ShuffledLabelImportance(SeparationImportance):
    """CAHP's selection from an X that was measured on shuffled labels: the maps are real, the classes are not.

    Args:
        model: The model of the selection; unchanged.
        dataloader: Its training set, labelled dict batches.
        selection: A selection on the model, for its salience (measured with the true labels) and its settings.
        num_heads: Heads to keep, a count or a share in (0, 1).
        seed: Seed of the shuffling and of t-SNE.

    Raises:
        ConfigError: The selection was made without classes.
        DataError: The data can't be used.
        SelectionError: The number can't be had.
    """

    def __init__(
        self,
        model: Any,
        dataloader: Iterable[Mapping[str, Any]],
        selection: HeadSelection,
        num_heads: int | float,
        *,
        seed: int = 0,
    ) -> None:
        separation = shuffled_separation(model, dataloader, selection, seed=seed)
        super().__init__(selection, separation, num_heads, seed=seed)


def gaussian_like(selection: HeadSelection, seed: int) -> Array:
    """Standard normal noise of the shape of a selection's X, float32.

    Raises:
        SelectionError: The selection has no X.
    """
    if selection.separation is None:
        raise SelectionError(
            "The selection has no separation matrix: it was read from a file, or made without. Select again."
        )
    return np.asarray(np.random.default_rng(seed).standard_normal(selection.separation.shape), dtype=np.float32)


def shuffled_separation(
    model: Any, dataloader: Iterable[Mapping[str, Any]], selection: HeadSelection, *, seed: int
) -> Array:
    """Measures X with the labels dealt out anew among the examples; one pass, signatures only.

    Args:
        model: The model of the selection; unchanged.
        dataloader: Its training set, labelled dict batches.
        selection: A selection on the model, for its settings.
        seed: Seed of the shuffling.

    Returns:
        X, float32 of shape ``(N, features)``.

    Raises:
        ConfigError: The selection was made without classes.
        DataError: The data can't be used.
    """
    layers, config = attention_layers(model), selection.config
    size = config.signature_size
    if size is None:
        raise ConfigError(
            "With conditioning 'none' heads are compared without classes, so there are no labels to shuffle. Select "
            "with conditioning 'label'."
        )
    batches = prepare_batches(ShuffledLabels(dataloader, seed=seed), model)
    moments = ClassMoments(len(batches.classes))
    with frozen_eval(model):
        for batch in logging.tqdm(batches, total=batches.num_batches, desc="Observing heads", unit="batch"):
            add_signatures(model, layers, batch, batches.classes, moments, size=size)
    mean, variance = moments.finish()
    return separation_matrix(mean.numpy(), variance.numpy(), variance_floor=config.variance_floor)


class ShuffledLabels:
    """Batches with their labels dealt out anew: as many of each class as before.

    Args:
        dataloader: Labelled dict batches, to be walked through more than once.
        seed: Seed of the shuffling.
    """

    def __init__(self, dataloader: Iterable[Mapping[str, Any]], *, seed: int) -> None:
        self._source = dataloader if iter(dataloader) is not dataloader else list(dataloader)
        labels = [torch.as_tensor(batch["labels"]) for batch in self._source if "labels" in batch]
        if not labels:
            raise DataError("There are no labels to shuffle: the dataloader gave no batch with `labels`.")
        flat = torch.cat(labels)
        self._labels = flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        start = 0
        for batch in self._source:
            count = len(batch["input_ids"])
            yield {**batch, "labels": self._labels[start : start + count]}
            start += count
