from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from cahp_plugin import CAHPConfig
from cahp_plugin.selectors.cahp.clustering import assign, build_order, fasterpam, sweep_kmedoids
from cahp_plugin.selectors.cahp.graph_space import embed_heads
from cahp_plugin.selectors.cahp.hierarchical import sweep_hierarchical, with_medoids


def plane(count, seed=0):
    return squareform(pdist(np.random.default_rng(seed).normal(size=(count, 2))))


def best_deviation(distances, k):
    return min(distances[:, list(medoids)].min(axis=1).sum() for medoids in combinations(range(len(distances)), k))


@pytest.mark.parametrize("seed", range(5))
def test_the_sweep_finds_the_optimum_of_small_planes(seed):
    distances = plane(9, seed)
    for k, found in sweep_kmedoids(distances).items():
        assert found.deviation(distances) == pytest.approx(best_deviation(distances, k))


def test_by_hand():
    # Points 0, 1, 2 and 10, 11, 12 on a line: two clusters around the middle ones.
    points = np.array([0.0, 1, 2, 10, 11, 12])
    distances = np.abs(points[:, None] - points)
    found = fasterpam(distances, build_order(distances)[:2])
    assert found.medoids.tolist() == [1, 4] and found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.deviation(distances) == 4
    assert build_order(distances)[:2].tolist() == [
        2,
        4,
    ]  # 2 and 3 tie for the centre: the lower row; then the most gain


@given(st.integers(3, 25), st.integers(0, 1000), st.booleans(), st.data())
@settings(max_examples=60, deadline=None)
def test_no_single_swap_is_better(count, seed, duplicates, data):
    points = np.random.default_rng(seed).normal(size=(count, 2))
    if duplicates:
        points[count // 2 :] = points[: count - count // 2]
    distances = squareform(pdist(points))
    k = data.draw(st.integers(2, count - 1))
    start = np.random.default_rng(seed + 1).choice(count, size=k, replace=False)
    found = fasterpam(distances, start)
    total = found.deviation(distances)
    assert total <= assign(distances, start).deviation(distances) + 1e-9
    assert len(set(found.medoids.tolist())) == k and (found.labels[found.medoids] == np.arange(k)).all()
    nearest = distances[:, found.medoids].min(axis=1)
    np.testing.assert_allclose(distances[np.arange(count), found.medoids[found.labels]], nearest)
    for position in range(k):
        for candidate in set(range(count)) - set(found.medoids.tolist()):
            swapped = found.medoids.copy()
            swapped[position] = candidate
            assert distances[:, swapped].min(axis=1).sum() >= total - 1e-9 * max(total, 1)


def spaces():
    rng = np.random.default_rng(3)
    layers = rng.normal(size=(6, 40)).repeat(12, axis=0) + 0.7 * rng.normal(size=(72, 40))
    yield "plane of 72", plane(72, 1)
    yield "t-SNE of 72", squareform(pdist(embed_heads(layers, CAHPConfig(seed=1))))
    yield "plane of 144", plane(144, 2)


@pytest.mark.parametrize(("name", "distances"), spaces())
def test_deviation_against_the_oracle_for_every_k(name, distances):
    oracle = pytest.importorskip("kmedoids", reason="the GPL package kmedoids, the oracle, is not installed")
    for k, found in sweep_kmedoids(distances).items():
        expected = oracle.fasterpam(distances, k, random_state=0).loss
        assert found.deviation(distances) <= 1.005 * expected, (name, k)


def test_the_sweep_is_deterministic_and_covers_every_k():
    distances = plane(30)
    first, second = sweep_kmedoids(distances), sweep_kmedoids(distances.copy())
    assert sorted(first) == list(range(2, 30))
    assert all((first[k].labels == second[k].labels).all() for k in first)
    assert sweep_kmedoids(plane(2)) == {}


def test_equal_points_make_no_endless_swaps():
    found = sweep_kmedoids(np.zeros((8, 8)))
    assert all(clustering.deviation(np.zeros((8, 8))) == 0 for clustering in found.values())


def test_hierarchical_cuts_one_tree():
    points = np.array([0.0, 0.1, 1.0, 1.1, 9.0])
    distances = np.abs(points[:, None] - points)
    found = sweep_hierarchical(distances)
    assert sorted(found) == [2, 3, 4]
    assert found[2].labels.tolist() == [0, 0, 0, 0, 1] and found[3].labels.tolist() == [0, 0, 1, 1, 2]
    assert with_medoids(distances, np.array([0, 0, 0, 0, 1])).medoids.tolist() == [1, 4]
    assert sweep_hierarchical(np.zeros((2, 2))) == {}


def test_graph_space_on_one_seed_is_one_plane():
    separation = np.random.default_rng(0).random((24, 30))
    first = embed_heads(separation, CAHPConfig(seed=1))
    assert first.shape == (24, 2) and np.isfinite(first).all()
    assert (first == embed_heads(separation, CAHPConfig(seed=1))).all()
    assert not any(embed_heads(values, CAHPConfig()).any() for values in (separation[:2], np.ones((9, 4))))
    assert embed_heads(separation[:4], CAHPConfig(perplexity=10)).shape == (4, 2)
