"""Heads removed a few at a time, with their salience measured anew and the rest repaired in between."""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Any

from cahp_plugin.errors import ConfigError
from cahp_plugin.observe import prepare_batches
from cahp_plugin.observe.batches import Batch, first_examples
from cahp_plugin.observe.observation import Salience
from cahp_plugin.observe.sums import accumulate
from cahp_plugin.selectors.base import Fitted, Needs, Selector, View
from cahp_plugin.selectors.ranking import over_layer_norm
from cahp_plugin.units import KeptSet, attention_layers
from cahp_plugin.units.counts import Head, HeadUnits


@dataclasses.dataclass(frozen=True)
class IterativeSalience(Selector):
    """Iterative pruning by salience over the l2 norm of its layer's.

    Michel, Levy, Neubig, "Are Sixteen Heads Really Better than One?", NeurIPS 2019, section 4: the least salient
    heads go, a few at a time, and the salience (eq. 2, normalised in each layer) is measured anew before each round.
    Between rounds a copy of the model, pruned so far, is repaired by the view's ``shrink`` with the dense model for
    its target; the paper repairs nothing. Only the choice of heads comes out: the repair after the last round is the
    caller's.

    Args:
        step: Heads removed in a round.
        num_examples: Examples that each salience is measured on and each repair fitted on.

    Raises:
        ConfigError: A number is out of its range.
    """

    step: int = 6
    num_examples: int = 384

    name = "salience-iterative"
    needs = Needs.DATA | Needs.LABELS | Needs.SHRINK
    seeded = True

    def __post_init__(self) -> None:
        if self.step < 1 or self.num_examples < 2:
            raise ConfigError(
                f"`step` must be at least 1 and `num_examples` at least 2; got {self.step} and {self.num_examples}."
            )

    def _fit(self, view: View, seed: int) -> SalienceWalk:
        batches = prepare_batches(view.shuffled(seed), view.model)
        return SalienceWalk(view, first_examples(batches, self.num_examples), self.step)


class SalienceWalk(Fitted):
    """The rounds, gone as far as was asked: fewer heads go on from where it stands.

    Args:
        view: What may be looked at.
        batches: The examples.
        step: Heads removed in a round.
    """

    def __init__(self, view: View, batches: list[Batch], step: int) -> None:
        self._view, self._batches, self._step = view, batches, -(-step // view.units.group_size)
        self._pruned: Any = copy.deepcopy(view.model)
        self._gone: list[Head] = []
        self._seconds: list[float] = []

    def keep(self, num_heads: int | float) -> KeptSet:
        """See the base class.

        Raises:
            DataError: The loss is not a number.
            PruningError: Activations are not finite.
        """
        units = self._view.units
        removed = len(units.firsts) - units.count(num_heads)
        needed = -(-removed // self._step)
        self.spared = sum(self._seconds[:needed])
        while len(self._gone) < removed:
            self._round()
        gone = set(self._gone[:removed])
        return units.kept(row for row, place in enumerate(units.firsts) if place not in gone)

    def _round(self) -> None:
        view, start = self._view, time.perf_counter()
        if self._gone:
            units = view.units
            left = units.kept(row for row, place in enumerate(units.firsts) if place not in self._gone)
            assert view.shrink is not None  # it was checked
            view.shrink(self._pruned, view.model, left, self._batches)
        layers = attention_layers(self._pruned)
        salience = Salience(self._pruned, layers)
        accumulate(self._pruned, self._batches, [salience], "Measuring salience")
        units = HeadUnits.of(layers, view.units.min_heads_per_layer)
        order = units.by_score(over_layer_norm(salience.finish(), units.layers))
        self._gone += [units.firsts[row] for row in order[: -self._step - 1 : -1]]
        self._seconds.append(time.perf_counter() - start)
