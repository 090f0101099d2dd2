"""One size a layer: against all choices, one by one."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cahp_plugin.plan.knapsack import allocate

numbers = st.integers(0, 40)


@given(
    st.lists(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=4), min_size=1, max_size=5),
    st.integers(0, 160),
)
def test_it_finds_what_a_search_of_all_choices_finds(layers, capacity):
    costs = [np.array([cost for cost, _ in layer], dtype=float) for layer in layers]
    losses = [np.array([loss for _, loss in layer], dtype=float) for layer in layers]
    found = allocate(costs, losses, float(capacity), bins=max(1, capacity - int(sum(own.min() for own in costs))))
    allowed = [
        sum(own[place] for own, place in zip(losses, choice, strict=True))
        for choice in itertools.product(*(range(len(layer)) for layer in layers))
        if sum(own[place] for own, place in zip(costs, choice, strict=True)) <= capacity
    ]
    if not allowed:
        assert found is None
        return
    assert sum(own[place] for own, place in zip(costs, found, strict=True)) <= capacity
    assert sum(own[place] for own, place in zip(losses, found, strict=True)) == min(allowed)


def test_of_equal_choices_it_takes_the_first_and_nothing_fits_below_the_cheapest():
    same = [np.zeros(3), np.zeros(3)]
    assert allocate(same, same, 1.0) == [0, 0]
    assert allocate([np.array([3.0, 1.0])], [np.array([0.0, 1.0])], 0.5) is None


@pytest.mark.parametrize("capacity", [1.0, 17.3, 40.0])
def test_the_capacity_is_never_passed_however_costs_fall_between_bins(capacity):
    generator = np.random.default_rng(0)
    costs = [np.sort(generator.random(8))[::-1] * 10 for _ in range(5)]
    losses = [np.sort(generator.random(8)) for _ in range(5)]
    found = allocate(costs, losses, capacity, bins=50)
    least = sum(float(own.min()) for own in costs)
    assert (found is None) == (least > capacity)
    if found is not None:
        assert sum(own[place] for own, place in zip(costs, found, strict=True)) <= capacity + 1e-9
