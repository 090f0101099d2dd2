import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from cahp_plugin import CAHPConfig
from cahp_plugin.selectors.cahp.graph_space import classical_scaling, embed_heads


def points(count=40, features=6, seed=0):
    rng = np.random.default_rng(seed)
    centers = 6 * rng.normal(size=(4, features))
    return centers.repeat(count // 4, axis=0) + rng.normal(size=(count, features)) * np.linspace(2, 0.5, features)


def distances_of(values):
    return squareform(pdist(values))


def embed_distances(distances, **settings):
    return embed_heads(distances, CAHPConfig(**settings), distances=True)


def test_classical_scaling_of_points_gives_their_principal_components():
    values = points()
    centred = values - values.mean(axis=0)
    components = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    found = classical_scaling(distances_of(values))
    np.testing.assert_allclose(np.abs(found), np.abs(components), atol=1e-9)
    assert (found[np.abs(found).argmax(axis=0), [0, 1]] > 0).all()


def test_classical_scaling_gives_a_plane_back():
    plane = points(12, 2)
    np.testing.assert_allclose(distances_of(classical_scaling(distances_of(plane))), distances_of(plane), atol=1e-9)


@pytest.mark.parametrize("init", ["pca", "random"])
def test_given_distances_are_laid_out_like_the_points_they_are_of(init):
    values = points()
    groups = np.arange(40) // 10
    config = CAHPConfig(tsne_init=init)
    for plane in (embed_heads(values, config), embed_heads(distances_of(values), config, distances=True)):
        apart = distances_of(plane)
        np.fill_diagonal(apart, np.inf)
        assert (groups[apart.argmin(axis=1)] == groups).all()


def test_the_start_is_the_only_chance():
    distances = distances_of(points())
    first = embed_distances(distances, seed=1)
    assert (first == embed_distances(distances.copy(), seed=1)).all()
    assert (first == embed_distances(distances, seed=2)).all()  # classical scaling takes no seed
    assert (
        embed_distances(distances, seed=1, tsne_init="random")
        != embed_distances(distances, seed=2, tsne_init="random")
    ).any()


def test_few_heads_and_copies():
    assert not embed_distances(np.ones((2, 2)) - np.eye(2)).any()
    assert not embed_distances(np.zeros((9, 9))).any()
    assert embed_distances(np.ones((4, 4)) - np.eye(4)).shape == (4, 2)
    line = np.abs(np.arange(5.0)[:, None] - np.arange(5.0))
    assert np.isfinite(embed_distances(line)).all()  # the second axis is empty
