"""Chooses heads once for each method, number of heads and seed, whatever recoveries follow."""

from __future__ import annotations

import time
from collections.abc import Mapping

from cahp_plugin.compare.runs import RunLog
from cahp_plugin.processes import processes
from cahp_plugin.selectors import Fitted, Needs, Selector, View
from cahp_plugin.units import KeptSet


class Chooser:
    """Choices of heads on one model, looked up among the runs that are there before they are made.

    Args:
        log: Runs that are there.
        view: The model and its training set.
        selectors: The ways of choosing, by name.
    """

    def __init__(self, log: RunLog, view: View, selectors: Mapping[str, Selector]) -> None:
        self._log, self._view, self._selectors = log, view, selectors
        self._fitted: dict[tuple[str, int], tuple[Fitted, float]] = {}

    def choose(self, method: str, count: int, seed: int) -> tuple[KeptSet, float]:
        """Chooses heads.

        Args:
            method: Name of a selector.
            count: Heads to keep.
            seed: Seed of whatever is drawn.

        Returns:
            The heads to keep, in every layer, and the seconds that this choice took when it was made: it may be that
            of an earlier run, of any seed for methods without one. The shared observation is not in them; a
            measurement of the method's own is, even if it was made for another choice.
        """
        selector = self._selectors[method]
        for run in self._log.runs.values():
            if (run.method, run.num_heads) == (method, count) and (run.seed == seed or not selector.seeded):
                kept = KeptSet(heads={int(layer): heads for layer, heads in run.kept.items()})
                return kept, run.seconds.get("choose", 0.0)
        if Needs.EVIDENCE in selector.needs:
            _ = self._view.evidence  # before the clock starts
        key = (method, seed if selector.seeded else 0)
        start = time.perf_counter()
        if key not in self._fitted:
            fitted = selector.fit(self._view, seed=seed)
            self._fitted[key] = fitted, time.perf_counter() - start
        fitted, fitting = self._fitted[key]
        start = time.perf_counter()
        found = fitted.keep(count)
        seconds = fitting + time.perf_counter() - start + fitted.spared
        return processes().share(lambda: (found, seconds))
