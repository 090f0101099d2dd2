"""Sizes under a budget of time, on a machine whose times are known."""

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
    _, outcome = SizeChooser(OWN, budget, PlanSettings(refine=0), alike).choose(Clocks(table, speed))
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
