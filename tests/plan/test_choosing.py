"""Sizes under a budget of time, on a machine whose times are known."""

import contextlib
import types

import numpy as np
import pytest
from plans import even_plan

from cahp_plugin import Budget
from cahp_plugin.config import PlanSettings
from cahp_plugin.cost.times import Speed, TimeTable
from cahp_plugin.errors import BudgetError
from cahp_plugin.plan.choosing import Clocks, SizeChooser

OWN = even_plan()  # twelve layers of ten units


def choose(budget, really, units=1.0, rest=10.0):
    """What is chosen where a table gives each unit ``units`` ms, and whole models take ``really(units left)``."""
    table = TimeTable(rest + 120 * units, tuple(tuple(units * size for size in layer.sizes) for layer in OWN.layers))
    seen = []

    def speed(sizes):
        seen.append(sum(sizes))
        ratio = really(120) / really(sum(sizes))
        return Speed(ratio, ratio, ratio, really(120), really(sum(sizes)), "by the book")

    alike = types.SimpleNamespace(divergences=lambda sizes: np.zeros(4), known={})
    _, outcome = SizeChooser(OWN, budget, PlanSettings(refine=0), alike).by_time(Clocks(table, speed))
    return outcome, seen


def test_a_table_that_is_right_needs_no_correction():
    outcome, seen = choose(Budget(speedup=1.985, multiple_of=1), lambda left: 10 + left)
    assert outcome.speed.corrections == 0 and seen == [55] and outcome.speed.ratio == 2.0
    outcome, seen = choose(Budget(latency_ms=40, multiple_of=1), lambda left: 10 + left)
    assert seen == [30] and outcome.speed.pruned_ms == 40


@pytest.mark.parametrize("factor", [0.8, 1.3])
def test_a_table_that_is_wrong_is_corrected(factor):
    """Units that take more, or less, than the table says."""
    outcome, seen = choose(Budget(latency_ms=60, multiple_of=1), lambda left: 10 + factor * left)
    assert 1 <= outcome.speed.corrections == len(seen) - 1 <= 2
    assert outcome.speed.pruned_ms == pytest.approx(60, rel=0.03)


def test_a_model_that_is_too_fast_comes_before_one_that_is_too_slow():
    """A machine with two speeds: nearer to 1.05 is the dense model, which is no faster than itself."""
    outcome, seen = choose(Budget(speedup=1.05, multiple_of=1), lambda left: 130.0 if left > 119 else 100.0)
    assert 120 in seen and outcome.speed.ratio == 1.3 and outcome.macs.layers < 1


def test_what_no_size_reaches_is_said():
    with pytest.raises(BudgetError, match=r"smallest model takes about 10.00 ms of the dense one's 130.00 ms \(13.00"):
        choose(Budget(speedup=14, multiple_of=1), lambda left: 10 + left)


@pytest.mark.parametrize(("loses", "taken"), [(0.5, True), (2.0, False)])
def test_refined_sizes_that_lose_too_much_are_neither_taken_nor_told(loses, taken):
    """The plan's own sizes lose a point at 60 % of the work and two below; others seem to be nearer."""
    own = OWN.sizes_for(Budget(macs=0.6, multiple_of=1))

    def divergences(sizes):
        return np.full(4, 1.0) if tuple(sizes) == own else np.full(4, 0.5)

    def lost(sizes):
        if tuple(sizes) not in {OWN.sizes_for(Budget(macs=share / 100, multiple_of=1)) for share in range(1, 100)}:
            return loses, None, None
        return (1.0 if sum(sizes) >= sum(own) else 2.0), None, None

    trials = types.SimpleNamespace(divergences=divergences, known={}, as_saved=contextlib.nullcontext)
    chooser = SizeChooser(OWN, Budget(max_drop=1.5, multiple_of=1), PlanSettings(refine=4), trials)
    kept, outcome = chooser.by_drop(lost)
    assert (kept != OWN.kept(own)) == taken == (outcome.refined is not None)
    assert outcome.drops[-1].value == (0.5 if taken else 1.0)
