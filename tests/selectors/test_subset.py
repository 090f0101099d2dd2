import itertools
import math

import numpy as np
import pytest
import torch

from cahp_plugin.errors import ConfigError
from cahp_plugin.selectors import make_selector
from cahp_plugin.selectors.subset import SubsetPruning, relaxed_top_k


def soft_top_k_by_loops(scores, k, temperature):
    r, total = list(scores), [0.0] * len(scores)
    for _ in range(k):
        powers = [math.exp(value / temperature) for value in r]
        shares = [power / sum(powers) for power in powers]
        total = [a + b for a, b in zip(total, shares, strict=True)]
        r = [value + math.log(1 - share) for value, share in zip(r, shares, strict=True)]
    return total


@pytest.mark.parametrize(("k", "temperature"), [(1, 1.0), (3, 0.5), (5, 2.0)])
def test_relaxed_top_k_equals_the_recursion_by_loops(k, temperature):
    scores = torch.tensor([0.3, -1.0, 2.0, 0.0, 0.9, -0.2], dtype=torch.float64)
    found = relaxed_top_k(scores, k, temperature)
    np.testing.assert_allclose(found, soft_top_k_by_loops(scores.tolist(), k, temperature), rtol=1e-12)
    assert float(found.sum()) == pytest.approx(k)


def test_relaxed_top_k_becomes_the_hard_one():
    scores = torch.tensor([0.3, -1.0, 2.0, 0.0, 0.9, -0.2], dtype=torch.float64)
    np.testing.assert_allclose(relaxed_top_k(scores, 3, 1e-3), [1, 0, 1, 0, 1, 0], atol=1e-9)
    assert relaxed_top_k(scores, 0, 1.0).tolist() == [0] * 6
    np.testing.assert_allclose(relaxed_top_k(scores, 6, 1e-3), [1] * 6, atol=1e-9)


def test_a_cold_draw_is_one_without_replacement():
    """How often each gate opens, against the sum over all ordered pairs (Plackett and Luce)."""
    weights = np.array([1.0, 2.0, 3.0, 6.0])
    expected = np.zeros(4)
    for first, second in itertools.permutations(range(4), 2):
        chance = weights[first] / weights.sum() * weights[second] / (weights.sum() - weights[first])
        expected[[first, second]] += chance
    gates, generator = SubsetPruning(temperatures=(1e-3, 1e-3)), torch.Generator().manual_seed(0)
    scores = torch.tensor(weights).log()
    found = sum(gates.sample(scores, 2, 0.5, generator) for _ in range(4000)) / 4000
    np.testing.assert_allclose(found, expected, atol=0.03)


@pytest.mark.parametrize("temperatures", [(1.0, 0.0), (-1.0, 1.0)])
def test_bad_temperatures(temperatures):
    with pytest.raises(ConfigError, match="`temperatures` must be above 0"):
        make_selector("dsp", temperatures=temperatures)
