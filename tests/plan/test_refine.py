"""The refinement, where it is known what the whole model loses."""

import dataclasses
import itertools

import numpy as np
import pytest
from plans import even_plan

from cahp_plugin import Budget
from cahp_plugin.config import PlanSettings
from cahp_plugin.plan.refine import refine


def run(weights, *, refine_by=16, noise=0.0, minutes=None):
    """What the refinement makes of it where the layers' losses count so much in the whole model."""
    own, budget = even_plan(), Budget(macs=0.6, multiple_of=1)
    costs = own.costs("macs", budget)
    calls = []

    def divergences(sizes):
        calls.append(tuple(sizes))
        total = sum(weight * (10 - size) ** 2 for weight, size in zip(weights, sizes, strict=True))
        spread = np.random.default_rng(len(calls)).normal(size=200)
        return total + noise * spread

    settings = PlanSettings(refine=refine_by, refine_minutes=minutes)
    found = refine(own, lambda tilt: own.solve(costs, 0.6 * 120, budget, list(tilt)), divergences, settings)
    return found, calls, divergences


@pytest.mark.parametrize(
    "weights", [[4.0] * 3 + [1.0] * 9, [1.0] * 9 + [0.25] * 3, [2.0] * 6 + [1.0] * 6, [1.0, 1, 1, 1, 1, 8] + [1.0] * 6]
)
def test_it_finds_what_counts_more_in_the_whole_model(weights):
    found, calls, divergences = run(weights, refine_by=60)
    assert len(calls) == len(set(calls)) == found.trials + 1  # none is tried twice
    assert found.after < found.before and found.complete
    assert sum(found.sizes) <= 0.6 * 120
    assert found.after == pytest.approx(divergences(found.sizes).mean())
    # No two sizes of the same cost are better by an exchange of much.
    best = even_plan().solve(even_plan().costs("macs", Budget(macs=1.0)), 72, Budget(macs=1.0, multiple_of=1), weights)
    assert found.after - divergences(best).mean() <= 0.35 * (found.before - divergences(best).mean())


def test_where_the_plan_is_right_it_stays_and_noise_is_not_followed():
    found, _, _ = run([1.0] * 12)
    assert found.sizes == run([1.0] * 12, refine_by=0)[0].sizes and found.before == found.after
    noisy, _, _ = run([1.0] * 12, noise=1e-9)
    assert noisy.sizes == found.sizes


def test_it_ends_by_its_number_or_its_time():
    found, calls, _ = run([4.0] * 3 + [1.0] * 9, refine_by=5)
    assert found.trials == 5 and len(calls) == 6
    none, calls, _ = run([4.0] * 3 + [1.0] * 9, refine_by=0)
    assert none.trials == 0 and len(calls) == 1 and none.before == none.after
    stopped, calls, _ = run([4.0] * 3 + [1.0] * 9, minutes=0.0)
    assert not stopped.complete and len(calls) == 1
    again = run([4.0] * 3 + [1.0] * 9)[0]
    first = run([4.0] * 3 + [1.0] * 9)[0]
    assert dataclasses.replace(first, seconds=0.0) == dataclasses.replace(again, seconds=0.0)
    assert list(itertools.chain(first.sizes)) != list(none.sizes)
