"""CAHP with something else in the place of its class separation: whether the separation matters at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from cahp_plugin.errors import SelectionError
from cahp_plugin.observe import PreparedBatches
from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.conditioning import LABEL
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
        config, batches = view.evidence.config, view.prepared(LABEL)
        signatures = Signatures(view.model, view.layers, config.signature_size or 2, batches.classes)
        accumulate(view.model, ShuffledLabels(batches, seed=seed), [signatures], "Observing heads")
        mean, variance = signatures.finish(batches.classes)
        separation = separation_matrix(mean.numpy(), variance.numpy(), variance_floor=config.variance_floor)
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

    Args:
        batches: Labelled batches.
        seed: Seed of the shuffling.
    """

    def __init__(self, batches: PreparedBatches, *, seed: int) -> None:
        self._batches, self.num_batches = batches, batches.num_batches
        flat = torch.cat([batch.labels for batch in batches])
        self._labels = flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))]

    def walk(self, chosen: Callable[[int], bool]) -> Iterator[tuple[int, Batch]]:
        """The positions that are chosen, ascending, and their batches."""
        for position, batch in self._batches.walk(chosen):
            labels = self._labels[batch.first : batch.first + len(batch)]
            yield position, dataclasses.replace(batch, labels=labels)
