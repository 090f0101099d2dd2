"""Chooses heads once for each method, number of heads and seed, whatever recoveries follow."""

from __future__ import annotations

import functools
import time
from typing import Any

from transformers.utils import logging

from cahp_plugin.compare.methods import METHODS, UNSEEDED, Candidate, Measurements
from cahp_plugin.compare.runs import RunLog
from cahp_plugin.config import CAHPConfig
from cahp_plugin.data import by_length, make_dataloader
from cahp_plugin.selectors.cahp.selection import HeadSelection
from cahp_plugin.selectors.complementary import select_heads
from cahp_plugin.units import KeptSet, attention_layers, resolve

logger = logging.get_logger(__name__)


class Chooser:
    """Choices of heads on one model, looked up among the runs that are there before they are made.

    Args:
        log: Runs that are there.
        model: The dense model.
        encoded: Training set, from ``encode``.
        tokenizer: Pads the batches.
        config: Settings of CAHP and of the observation.
        batch_size: Examples a batch for methods that train gates.
        gate_epochs: Their passes over the training set.
    """

    def __init__(
        self,
        log: RunLog,
        model: Any,
        encoded: Any,
        tokenizer: Any,
        config: CAHPConfig,
        *,
        batch_size: int,
        gate_epochs: float,
    ) -> None:
        self._log, self._model, self._encoded, self._tokenizer = log, model, encoded, tokenizer
        self._config, self._batch_size, self._gate_epochs = config, batch_size, gate_epochs
        self._train = make_dataloader(by_length(encoded), tokenizer)  # no order is better for the one walk over all
        self._measurements = Measurements()

    @functools.cached_property
    def observed(self) -> HeadSelection:
        """A selection on the model: the observation that the methods share."""
        return select_heads(self._model, self._train, self._config)

    def choose(self, method: str, count: int, seed: int) -> tuple[KeptSet, float]:
        """Chooses heads.

        Args:
            method: Name from :data:`METHODS`.
            count: Heads to keep.
            seed: Seed of whatever is drawn.

        Returns:
            The heads to keep, in every layer, and the seconds that this choice took
            when it was made: it may be that of an earlier run, of any seed for methods without one. The shared
            observation is not in them; a measurement of the method's own is, even if it was made for another choice.
        """
        for run in self._log.runs.values():
            if (run.method, run.num_heads) == (method, count) and (run.seed == seed or method in UNSEEDED):
                kept = KeptSet(heads={int(layer): heads for layer, heads in run.kept.items()})
                return kept, run.seconds.get("choose", 0.0)
        candidate = Candidate(
            model=self._model,
            observed=self.observed,
            train=self._train,
            shuffled_batches=functools.partial(
                make_dataloader,
                self._encoded,
                self._tokenizer,
                batch_size=self._batch_size,
                shuffle=True,
                seed=seed,
            ),
            num_heads=count,
            seed=seed,
            gate_epochs=self._gate_epochs,
            measurements=self._measurements,
        )
        saved, start = self._measurements.saved, time.perf_counter()
        importance = METHODS[method](candidate)
        seconds = time.perf_counter() - start + self._measurements.saved - saved
        return resolve(importance.kept, attention_layers(self._model)), seconds
