import warnings

import numpy as np
import pytest
from kneed import KneeLocator

from cahp_plugin.selectors.cahp.clustering import Clustering
from cahp_plugin.selectors.cahp.knee import find_knee
from cahp_plugin.selectors.cahp.silhouette import mean_simplified_silhouette

K = np.arange(2, 72)
CURVE = 1 - 0.6 / np.sqrt(K)


@pytest.mark.parametrize("degree", range(2, 11))
def test_the_knee_is_kneeds(degree):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = KneeLocator(
            K, CURVE, curve="concave", direction="increasing", interp_method="polynomial", polynomial_degree=degree
        ).knee
    found = find_knee(K, CURVE, degree=degree)
    assert found.knee == found.num_clusters == expected and f"k = {expected}" in found.note
    assert found.smoothed.shape == K.shape


def test_a_higher_degree_finds_an_earlier_knee():
    knees = [find_knee(K, CURVE, degree=degree).knee for degree in (2, 3, 4, 6)]
    assert knees == sorted(knees, reverse=True) and knees[0] > 1.5 * knees[-1]


@pytest.mark.parametrize(
    ("curve", "number", "words"),
    [
        (np.full(70, 0.5), 2, "2 clusters suffice"),
        (np.linspace(0, 1, 70) ** 2, None, "never bends over"),
        (np.full(70, np.nan), None, "not finite"),
        (np.linspace(0, 1, 70), None, "never bends over"),
        (np.linspace(1, 0, 70) ** 2, None, "never bends over"),
    ],
)
def test_curves_without_a_knee_are_defined(curve, number, words):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find_knee(K, curve, degree=4)
    assert found.num_clusters == number and found.knee is None
    assert words in found.note


def test_the_fallback_is_the_place_farthest_above_the_chord():
    # Sensitivity 1000 puts Kneedle's threshold out of reach; the place it looks at is still there.
    found = find_knee(K, CURVE, degree=4, sensitivity=1000)
    reference = find_knee(K, CURVE, degree=4)
    assert found.knee is None and found.num_clusters == reference.knee
    assert "farthest above its chord" in found.note


@pytest.mark.parametrize("points", [0, 1, 2, 3])
def test_short_curves_are_defined(points):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find_knee(K[:points], CURVE[:points], degree=6)
    assert found.num_clusters is None or found.num_clusters in K[:points]
    assert "every head is kept" in found.note.lower() or points > 2
    if points == 3:
        assert "allow degree 2" in found.note


def test_silhouette_by_hand():
    # On a line at 0, 1 | 10, 12; medoids 0 and 10. Heads 1 and 12: a = 1, b = 9; a = 2, b = 12.
    points = np.array([0.0, 1, 10, 12])
    distances = np.abs(points[:, None] - points)
    clustering = Clustering(np.array([0, 2]), np.array([0, 0, 1, 1]))
    expected = [8 / 9, 10 / 12]
    assert mean_simplified_silhouette(distances, clustering) == pytest.approx(np.mean(expected))
    assert mean_simplified_silhouette(distances, clustering, "paper") == pytest.approx(np.mean([1, *expected, 1]))


def test_silhouette_takes_the_mean_over_the_other_medoids():
    points = np.array([0.0, 1, 5, 11])
    distances = np.abs(points[:, None] - points)
    clustering = Clustering(np.array([0, 2, 3]), np.array([0, 0, 1, 2]))
    assert mean_simplified_silhouette(distances, clustering) == pytest.approx(1 - 1 / 7)  # b = (4 + 10) / 2


def test_silhouette_of_a_head_that_sits_in_the_wrong_cluster():
    points = np.array([0.0, 8, 10])
    distances = np.abs(points[:, None] - points)
    clustering = Clustering(np.array([0, 2]), np.array([0, 0, 1]))  # 8 belongs to 10: a = 8, b = 2
    assert mean_simplified_silhouette(distances, clustering) == pytest.approx(-6 / 8)
    assert mean_simplified_silhouette(distances, clustering, "paper") == pytest.approx((1 - 3 + 1) / 3)


def test_silhouette_of_copies_is_one():
    distances = np.zeros((4, 4))
    clustering = Clustering(np.array([0, 1]), np.array([0, 1, 0, 1]))
    assert mean_simplified_silhouette(distances, clustering) == 1
    assert mean_simplified_silhouette(distances, clustering, "paper") == 1
