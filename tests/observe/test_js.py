import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from cahp_plugin.observe import js
from cahp_plugin.observe.js import MAX_DISTANCE, MeanDistances, js_distance_sums


def distributions(queries, heads, keys, dtype=torch.float64, *, sharpness=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(queries, heads, keys, generator=generator, dtype=torch.float64)
    return logits.softmax(dim=-1).to(dtype)


def plain_loop(rows):
    """SciPy's distance, one query and one pair at a time."""
    queries, heads, _ = rows.shape
    total = np.zeros((heads, heads))
    for query in range(queries):
        for a in range(heads):
            for b in range(heads):
                if a != b:
                    total[a, b] += jensenshannon(rows[query, a], rows[query, b])
    return total


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("block", [1, 40, 1000, 1 << 16])
def test_sums_equal_scipy_in_a_plain_loop(dtype, tolerance, block, monkeypatch):
    monkeypatch.setattr(js, "_BLOCK_CPU", block)
    rows = distributions(5, 7, 11, dtype)
    rows[:, :, 8:] *= torch.tensor([0.0, 1, 1, 0, 1])[:, None, None].to(dtype)  # keys that no head looks at
    rows[2, 3] = torch.eye(11)[4]  # all on one key: 0 ln 0
    expected = plain_loop(rows.double().numpy())
    np.testing.assert_allclose(js_distance_sums(rows.clone()).numpy(), expected, rtol=tolerance, atol=tolerance)


def test_causal_rows_equal_scipy():
    rows = distributions(9, 5, 9)
    rows *= torch.ones(9, 9, dtype=torch.float64).tril()[:, None]
    expected = plain_loop(rows.numpy())
    np.testing.assert_allclose(js_distance_sums(rows.clone()).numpy(), expected, atol=1e-9)


def test_by_hand():
    # Nothing in common: ln 2. (1, 0) and (1/2, 1/2): H(3/4, 1/4) - H(1/2, 1/2) / 2.
    rows = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]], dtype=torch.float64)
    found = js_distance_sums(rows)
    half = math.sqrt(-0.75 * math.log(0.75) - 0.25 * math.log(0.25) - 0.5 * math.log(2))
    expected = [[0, MAX_DISTANCE, half], [MAX_DISTANCE, 0, half], [half, half, 0]]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_heads_are_at_exactly_zero(dtype):
    rows = distributions(20, 3, 50, dtype)
    assert (js_distance_sums(torch.cat([rows, rows], dim=1)).diagonal(3) == 0).all()


def test_rows_are_scaled_to_sum_to_one():
    rows = distributions(3, 4, 6)
    scaled = rows * torch.tensor([0.5, 2.0, 3.0, 1.0], dtype=torch.float64)[:, None]
    torch.testing.assert_close(js_distance_sums(scaled), js_distance_sums(rows))


def test_it_is_a_metric():
    found = js_distance_sums(distributions(1, 12, 8)).numpy()
    assert (found == found.T).all() and (np.diag(found) == 0).all() and found.max() <= MAX_DISTANCE
    assert (found[:, None] <= found[:, :, None] + found[None] + 1e-12).all()  # of one query: the triangle inequality


def test_float32_noise_of_nearly_equal_heads_is_as_documented():
    rows = distributions(50, 1, 500)
    near = rows * (1 + 1e-6 * distributions(50, 1, 500, seed=1))
    found = js_distance_sums(torch.cat([rows, near], dim=1).float())[0, 1] / 50
    assert found < 5e-4


@pytest.mark.parametrize("bad", [0.0, float("nan")])
def test_what_is_no_distribution_is_not_a_number(bad):
    rows = distributions(2, 3, 4)
    rows[1, 2] = bad
    found = js_distance_sums(rows)
    assert not found[2].isfinite().all() and found[0, 1].isfinite()


def test_means_over_examples_of_any_length_and_groups_apart():
    distances = MeanDistances(["self", "cross", "self", "cross", "self", "lonely"])
    short, long, cross = distributions(2, 3, 4), distributions(6, 3, 9, seed=1), distributions(3, 2, 5, seed=2)
    assert distances.add("self", short.clone()) and distances.add("self", long.clone())
    assert distances.add("cross", cross.clone()) and distances.add("lonely", distributions(1, 1, 2))
    found = distances.finish().numpy()
    expected = np.full((6, 6), MAX_DISTANCE)
    expected[np.ix_([0, 2, 4], [0, 2, 4])] = (plain_loop(short.numpy()) + plain_loop(long.numpy())) / 8
    expected[np.ix_([1, 3], [1, 3])] = plain_loop(cross.numpy()) / 3
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_no_heads_and_no_queries():
    assert js_distance_sums(torch.ones(0, 3, 2)).tolist() == [[0.0] * 3] * 3
    assert js_distance_sums(torch.ones(2, 1, 2)).tolist() == [[0.0]]
