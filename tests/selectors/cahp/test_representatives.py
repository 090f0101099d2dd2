import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform
from selecting import made_up

from cahp_plugin import CAHPConfig, HeadSelection
from cahp_plugin.errors import SelectionError
from cahp_plugin.selectors.cahp.representatives import choose_heads, embed, select

# Three groups of heads, far apart; layer 2 has none of the most salient ones.
HEADS = tuple((layer, head) for layer in range(3) for head in range(3))
PLANE = np.array([[0, 0], [50, 0], [0, 50], [1, 0], [51, 0], [1, 50], [0, 1], [50, 1], [0, 51]], dtype=float)
SALIENCE = np.array([[0.9, 0.1, 0.2], [0.5, 0.8, 0.7], [0.3, 0.4, 0.6]])


def choose(coordinates=PLANE, heads=HEADS, salience=SALIENCE, **changes):
    nothing = np.zeros((len(heads), 1))  # the places are given
    return choose_heads(coordinates, made_up(heads, salience, CAHPConfig(**changes), separation=nothing))


def test_each_cluster_keeps_its_most_salient_head():
    found = choose(num_heads=3, min_heads_per_layer=0)
    assert found.kept.heads == {0: (0,), 1: (1, 2), 2: ()}
    assert found.num_clusters == 3 and found.knee is None and "3 heads asked for, from 3 clusters" in found.note


def test_an_empty_layer_gets_its_most_salient_head_back():
    found = choose(min_heads_per_layer=1, polynomial_degree=4)
    assert all(found.kept.heads.values())
    clusters = choose(min_heads_per_layer=0).num_heads
    extra = found.num_heads - clusters
    assert (f"{extra} more so that each layer keeps 1" in found.note) == (extra > 0)


def test_medoids_can_stand_for_their_clusters():
    found = choose(num_heads=3, min_heads_per_layer=0, representative="medoid")
    middle = {(0, 0), (0, 1), (0, 2)}  # right angles at each group's first head
    assert {(layer, head) for layer, heads in found.kept.heads.items() for head in heads} == middle


@given(
    count=st.integers(2, 30),
    layers=st.integers(1, 5),
    minimum=st.integers(0, 3),
    seed=st.integers(0, 50),
    clustering=st.sampled_from(["kmedoids", "hierarchical", "louvain"]),
    representative=st.sampled_from(["salience", "medoid"]),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_number_of_heads_is_kept_exactly(count, layers, minimum, seed, clustering, representative, data):
    rng = np.random.default_rng(seed)
    places = sorted(rng.choice(layers * 30, size=count, replace=False).tolist())
    heads = tuple(divmod(place, 30) for place in places)
    salience = np.full((layers, 30), np.nan)
    for layer, head in heads:
        salience[layer, head] = rng.random()
    least = sum(min(minimum, sum(layer == other for other, _ in heads)) for layer in range(layers))
    wanted = data.draw(st.integers(max(1, least), count))
    found = choose(
        rng.normal(size=(count, 2)), heads, salience, num_heads=wanted, min_heads_per_layer=minimum,
        clustering=clustering, representative=representative,
    )  # fmt: skip
    assert found.num_heads == wanted
    for layer, kept in found.kept.heads.items():
        present = [head for other, head in heads if other == layer]
        assert set(kept) <= set(present) and len(kept) >= min(minimum, len(present))


def test_shares_are_rounded_half_up():
    assert choose(num_heads=0.5, min_heads_per_layer=0).num_heads == 5
    assert choose(num_heads=0.01, min_heads_per_layer=0).num_heads == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 10}, "asks for 10 heads; the model has 9"),
        ({"num_heads": 2}, "asks for 2 heads, but `min_heads_per_layer=1` takes 3"),
    ],
)
def test_numbers_that_cannot_be_had(changes, message):
    with pytest.raises(SelectionError, match=message):
        choose(**changes)


def test_louvain_needs_no_curve():
    found = choose(clustering="louvain", num_neighbors=2)
    assert found.num_clusters == 3 and len(found.curve.k) == 0 and found.knee is None
    assert "Louvain found 3 communities" in found.note


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_heads_are_all_kept(count):
    heads = tuple((0, head) for head in range(count))
    found = select(made_up(heads, np.arange(count, dtype=float)[None], separation=np.eye(count, 8)))
    assert found.num_heads == count and "every head is kept" in found.note


def test_copies_everywhere_need_two_clusters():
    found = select(made_up(HEADS, SALIENCE, CAHPConfig(min_heads_per_layer=0), separation=np.ones((9, 4))))
    assert found.num_heads == 2 and "clusters suffice" in found.note


def test_heads_are_chosen_from_distances_as_from_features():
    distances = squareform(pdist(PLANE)) / 100
    config = CAHPConfig(num_heads=3, min_heads_per_layer=0, perplexity=2)
    found = select(made_up(HEADS, SALIENCE, config, distances=distances, num_examples=7))
    assert found.kept.heads == {0: (0,), 1: (1, 2), 2: ()}
    assert found.distances is distances and found.separation is None and found.num_examples == 7


GROUPS = tuple((layer, 4 * group) for layer in range(3) for group in range(3))


def choose_groups(**changes):
    salience, nothing = SALIENCE.repeat(4, axis=1), np.zeros((9, 1))
    return choose_heads(PLANE, made_up(GROUPS, salience, CAHPConfig(**changes), separation=nothing, group_size=4))


def test_groups_of_heads_go_together():
    found = choose_groups(num_heads=12, min_heads_per_layer=0)
    assert found.kept.heads == {0: (0, 1, 2, 3), 1: (4, 5, 6, 7, 8, 9, 10, 11), 2: ()}
    assert (found.num_heads, found.num_present, found.num_clusters) == (12, 36, 3)
    assert "keeps 12 of 36 heads" in str(found) and "12 heads asked for, from 3 clusters" in found.note
    assert found.present == {layer: tuple(range(12)) for layer in range(3)}
    assert str(found).splitlines()[2].startswith("  layer  1  ....########   8 kept")
    assert HeadSelection.from_dict(found.to_dict()).to_dict() == found.to_dict()
    assert choose_groups(num_heads=0.7, min_heads_per_layer=5).num_heads == 24  # two groups hold five heads
    assert all(len(heads) >= 8 for heads in choose_groups(min_heads_per_layer=5).kept.heads.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 40}, "asks for 40 heads; the model has 36"),
        ({"num_heads": 13}, "4 query heads share a key and value head.* Ask for 12 or 16"),
        ({"num_heads": 2}, "Ask for 4, or for a share"),
        ({"num_heads": 8}, "asks for 8 heads, but `min_heads_per_layer=1` takes 12"),
    ],
)
def test_numbers_that_groups_cannot_have(changes, message):
    with pytest.raises(SelectionError, match=message):
        choose_groups(**changes)


def test_the_seed_is_the_only_chance():
    separation = np.random.default_rng(0).random((30, 20))
    heads = tuple((layer, head) for layer in range(5) for head in range(6))
    salience = np.random.default_rng(1).random((5, 6))
    first, again, other = (
        select(made_up(heads, salience, CAHPConfig(seed=seed, tsne_init="random"), separation=separation))
        for seed in (0, 0, 1)
    )
    assert first.to_dict() == again.to_dict()
    assert (first.coordinates != other.coordinates).any()
    evidence = made_up(heads, salience, first.config, separation=separation)
    assert (embed(evidence) == first.coordinates).all()
    assert dataclasses.replace(first.config, seed=1) == other.config
