import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selecting import grouped_model, rows_of, units_of
from tiny import model_inputs, tiny_model
from zoo import zoo_model

from cahp_plugin import CAHPImportance, CAHPPruner
from cahp_plugin.errors import SelectionError, UnsupportedModelError
from cahp_plugin.units import attention_layers
from cahp_plugin.units.counts import HeadUnits

# Layer 1 lost heads 0 and 1; layer 2 has none left.
SPARSE = units_of([(0, 0), (0, 1), (0, 2), (0, 3), (1, 2), (1, 3)], (3, 4))
GROUPS = units_of([(0, 0), (0, 4), (0, 8), (1, 4), (2, 0), (2, 8)], (3, 12), group_size=4, least=5)


def test_the_units_of_a_model_are_its_heads():
    model = tiny_model()
    found = HeadUnits.of(attention_layers(model))
    assert found.firsts == tuple((layer, head) for layer in range(3) for head in range(4))
    assert (found.shape, found.group_size, found.min_heads_per_layer, found.num_heads) == ((3, 4), 1, 1, 12)
    CAHPPruner(model, model_inputs(), importance=CAHPImportance({0: (1, 3), 1: ()})).step()
    found = HeadUnits.of(attention_layers(model), 0)
    assert found.firsts == ((0, 1), (0, 3), *((2, head) for head in range(4)))  # by their original indices
    assert found.shape == (3, 4) and found.num_heads == 6 and found.layers == (0, 0, 2, 2, 2, 2)


def test_the_units_of_grouped_queries_are_the_groups():
    found = HeadUnits.of(attention_layers(grouped_model()), 3)
    assert found.firsts == tuple((layer, head) for layer in range(3) for head in (0, 2))
    assert (found.shape, found.group_size, found.num_heads, found.min_units) == ((3, 4), 2, 12, 2)


def test_models_without_units_or_with_several_sizes_are_refused():
    model = tiny_model()
    CAHPPruner(model, model_inputs(), importance=CAHPImportance({0: (), 1: (), 2: ()})).step()
    with pytest.raises(UnsupportedModelError, match="no attention head left"):
        HeadUnits.of(attention_layers(model))
    layers = (*attention_layers(zoo_model("llama")), *attention_layers(zoo_model("llama-mha")))
    with pytest.raises(UnsupportedModelError, match="shared by 1 and 2 query heads in different layers"):
        HeadUnits.of(layers)


@pytest.mark.parametrize(
    ("units", "asked", "wanted"),
    [
        (SPARSE, 2, 2),  # a head of each layer that has one
        (SPARSE, 6, 6),
        (SPARSE, 0.5, 3),
        (SPARSE, 0.58, 3),  # 3.48
        (SPARSE, 0.59, 4),  # 3.54
        (units_of([(0, 0), (0, 1), (0, 2)], (1, 3)), 0.5, 2),  # 1.5 is rounded up
        (units_of([(0, 0), (0, 1), (0, 2)], (1, 3)), 0.01, 1),
        (units_of([(0, 0), (0, 1)], (1, 2), least=0), 0, 0),
        (units_of([(0, 0), (0, 1)], (1, 2), least=9), 2, 2),  # no layer keeps more than it has
        (GROUPS, 24, 6),
        (GROUPS, 20, 5),  # 5 heads are two groups: 2 + 1 + 2
        (GROUPS, 0.8, 5),
        (GROUPS, np.int64(20), 5),
    ],
)
def test_counts_and_shares(units, asked, wanted):
    found = units.count(asked)
    assert found == wanted and isinstance(found, int)


@pytest.mark.parametrize(
    ("units", "asked", "message"),
    [
        (SPARSE, 7, "`num_heads` asks for 7 heads; the model has 6"),
        (SPARSE, -1, "`num_heads` asks for -1 heads; the model has 6"),
        (
            SPARSE,
            1,
            "asks for 1 heads, but `min_heads_per_layer=1` takes 2. Lower the minimum; 0 lets whole layers go",
        ),
        (SPARSE, 0.1, "asks for 1 heads, but `min_heads_per_layer=1` takes 2"),
        (SPARSE, 0.0, r"as a share must be in \(0, 1\); got 0.0"),
        (SPARSE, 1.0, r"as a share must be in \(0, 1\); got 1.0"),
        (SPARSE, float("nan"), r"as a share must be in \(0, 1\); got nan"),
        (GROUPS, 25, "asks for 25 heads; the model has 24"),
        (GROUPS, 22, "22 heads; 4 query heads share a key and value head and only go together. Ask for 20 or 24, or"),
        (GROUPS, 3, "Ask for 4, or for a share"),
        (GROUPS, 16, "asks for 16 heads, but `min_heads_per_layer=5` takes 20"),
    ],
)
def test_counts_that_can_not_be_had(units, asked, message):
    with pytest.raises(SelectionError, match=message):
        units.count(asked)


def test_the_kept_set_names_every_layer_and_whole_groups():
    assert SPARSE.kept([5, 0, 2]).heads == {0: (0, 2), 1: (3,), 2: ()}
    assert SPARSE.kept([]).heads == {0: (), 1: (), 2: ()}
    assert GROUPS.kept([1, 5]).heads == {0: (4, 5, 6, 7), 1: (), 2: (8, 9, 10, 11)}


def test_tables_by_hand():
    table = SPARSE.table_of([1, 2, 3, 4, 5, 6])
    np.testing.assert_equal(table, [[1, 2, 3, 4], [np.nan, np.nan, 5, 6], [np.nan] * 4])
    assert rows_of(SPARSE, table).tolist() == [1, 2, 3, 4, 5, 6]
    grouped = GROUPS.table_of(range(6))
    assert grouped[0].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert np.isnan(grouped[1, [0, 3, 8, 11]]).all() and (grouped[1, 4:8] == 3).all()
    assert rows_of(GROUPS, grouped).tolist() == [0, 1, 2, 3, 4, 5]
    for rows in (range(5), range(7)):
        with pytest.raises(ValueError, match="zip"):
            SPARSE.table_of(rows)


def test_the_order_of_scores_by_hand():
    # The best of layers 0 and 1, then the rest; 2 and 2 tie: the lower row.
    assert SPARSE.by_score(np.array([2.0, 5, 2, 3, 0, 1])) == [1, 5, 3, 0, 2, 4]
    # Two groups of each layer hold five heads: 0 and 2, 3, 4 and 5; then 1.
    assert GROUPS.by_score(np.array([3.0, 1, 2, 0, 4, 5])) == [0, 2, 3, 5, 4, 1]


@st.composite
def made(draw):
    size, layers, groups = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 6))
    places = draw(st.sets(st.tuples(st.integers(0, layers - 1), st.integers(0, groups - 1)), min_size=1))
    least = draw(st.integers(0, 2 * size + 1))
    firsts = [(layer, size * group) for layer, group in sorted(places)]
    return units_of(firsts, (layers, size * groups), group_size=size, least=least)


def minimum(units):
    """Heads that the layers' minimum takes, head by head."""
    total = 0
    for layer in range(units.shape[0]):
        groups, kept = [first for place, first in units.firsts if place == layer], 0
        for _ in groups:
            kept += units.group_size if kept < units.min_heads_per_layer else 0
        total += kept
    return total


@given(made(), st.integers(-2, 200), st.floats(0.001, 0.999))
@settings(max_examples=80, deadline=None)
def test_a_count_is_had_or_refused(units, asked, share):
    had = asked % units.group_size == 0 and minimum(units) <= asked <= units.num_heads
    if had:
        assert units.count(asked) * units.group_size == asked
    else:
        with pytest.raises(SelectionError, match="`num_heads` asks for"):
            units.count(asked)
    nearest = max(1, int(share * len(units.firsts) + 0.5))
    assert nearest == 1 or abs(nearest - share * len(units.firsts)) <= 0.5 + 1e-9
    if nearest * units.group_size >= minimum(units):
        assert units.count(share) == nearest
    else:
        with pytest.raises(SelectionError, match="takes"):
            units.count(share)


def test_an_order_does_not_list_the_layers_for_each_unit(monkeypatch):
    """3 layers of 4: the best of each, then the others by their scores."""
    listed, layers = [], HeadUnits.layers.fget
    monkeypatch.setattr(HeadUnits, "layers", property(lambda self: listed.append(1) or layers(self)))
    units = HeadUnits(tuple((layer, head) for layer in range(3) for head in range(4)), (3, 4))
    assert units.by_score([5, 9, 1, 2, 0, 3, 8, 8, 7, 6, 4, 10]) == [1, 6, 11, 7, 8, 9, 0, 10, 5, 3, 2, 4]
    assert len(listed) <= 1


@given(made(), st.data())
@settings(max_examples=80, deadline=None)
def test_orders_keep_each_layers_minimum_first_and_tables_come_back(units, data):
    count = len(units.firsts)
    scores = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=count, max_size=count)), dtype=float)
    order = units.by_score(scores)
    assert sorted(order) == list(range(count))
    held = minimum(units) // units.group_size
    kept = units.kept(order[:held])
    for layer in range(units.shape[0]):
        present = sum(place == layer for place in units.layers) * units.group_size
        assert (
            min(units.min_heads_per_layer, present)
            <= len(kept.heads[layer])
            <= max(0, units.min_heads_per_layer + units.group_size - 1)
        )
    for part, rows in (
        (scores[order[held:]], order[held:]),
        *(
            (
                scores[[r for r in order[:held] if units.layers[r] == layer]],
                [r for r in order[:held] if units.layers[r] == layer],
            )
            for layer in range(units.shape[0])
        ),
    ):
        assert (np.diff(part) <= 0).all()
        assert all(a < b for a, b, s, t in zip(rows, rows[1:], part, part[1:], strict=False) if s == t)
    table = units.table_of(scores)
    np.testing.assert_array_equal(rows_of(units, table), scores)
    assert np.isfinite(table).sum() == units.num_heads == units.kept(range(count)).num_heads
    for layer, heads in units.kept(range(count)).heads.items():
        assert tuple(np.flatnonzero(~np.isnan(table[layer]))) == heads
