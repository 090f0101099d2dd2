"""CAHP with something else in the place of its class separation: whether the separation matters at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from cahp_plugin.errors import SelectionError
from cahp_plugin.observe import PreparedBatches
from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.classes import classes_of
from cahp_plugin.observe.conditioning import LABEL, Conditioning
from cahp_plugin.observe.head_maps import Signatures
from cahp_plugin.observe.sums import accumulate
from cahp_plugin.selectors.base import Needs, View
from cahp_plugin.selectors.cahp.evidence import Evidence
from cahp_plugin.selectors.cahp.separation import separation_matrix
from cahp_plugin.selectors.complementary import Complementary, FittedEvidence

Array = np.ndarray[Any, Any]


class Noise(Complementary):
    """CAHP's selection from pure noise in place of X; heads and salience stay as measured."""

    name = "noise"
    needs = Complementary.needs | Needs.CLASSES

    def _fit(self, view: View, seed: int) -> FittedEvidence:
        return FittedEvidence(with_noise(view.evidence, seed), seed=seed)


class Shuffled(Complementary):
    """CAHP's selection from an X that was measured on shuffled labels: the maps are real, the classes are not.

    Heads and salience (by the true labels) stay as measured.
    """

    name = "shuffled"
    needs = Complementary.needs | Needs.CLASSES | Needs.LABELS

    def _fit(self, view: View, seed: int) -> FittedEvidence:
        how, config = view.conditioning_of(self.needs), view.evidence.config
        kind, batches = classes_of(how), view.prepared(how)
        signatures = Signatures(view.model, view.layers, config.signature_size or 2, batches.classes, how)
        accumulate(view.model, ShuffledLabels(batches, how, seed=seed), [signatures], "Observing heads")
        mean, variance = (found.numpy() for found in signatures.finish(kind.groups(batches.classes)))
        pairs = kind.pairs(len(batches.classes))
        separation = separation_matrix(mean, variance, variance_floor=config.variance_floor, pairs=pairs)
        return FittedEvidence(dataclasses.replace(view.evidence, separation=separation), seed=seed)


def with_noise(evidence: Evidence, seed: int) -> Evidence:
    """Evidence with standard normal noise of the shape of its X, float32.

    Raises:
        SelectionError: It has no X.
    """
    if evidence.separation is None:
        raise SelectionError("There is no separation matrix: the heads were compared without classes. Select again.")
    noise = np.random.default_rng(seed).standard_normal(evidence.separation.shape)
    return dataclasses.replace(evidence, separation=np.asarray(noise, dtype=np.float32))


class ShuffledLabels:
    """Batches with their labels dealt out anew: as many of each class as before.

    Labels of tokens are dealt out among the labelled tokens, sets of labels among the examples, each as a whole.

    Args:
        batches: Labelled batches.
        conditioning: What has a label.
        seed: Seed of the shuffling.
    """

    def __init__(self, batches: PreparedBatches, conditioning: Conditioning = LABEL, *, seed: int) -> None:
        self._batches, self._kind = batches, classes_of(conditioning)
        rows = [self._kind.of_rows(batch.labels) for batch in batches]
        flat = torch.cat(rows)
        flat = flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))]
        self._rows = flat.split([len(found) for found in rows])

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch, rows in zip(self._batches, self._rows, strict=True):
            yield dataclasses.replace(batch, labels=self._kind.dealt(batch.labels, rows))
