import copy
import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cahp_plugin import KeptSet
from cahp_plugin.errors import SelectionError
from cahp_plugin.units.kept import format_ranges, parse_ranges

A = KeptSet(heads={0: (1, 4), 2: ()}, neurons={0: range(4), 1: ()})
B = KeptSet(heads={0: (4, 5), 1: (0,)}, neurons={0: (3, 4)})
layers = st.dictionaries(st.integers(0, 3), st.sets(st.integers(0, 6)), max_size=4)
sets = st.builds(KeptSet, layers, layers)
WHOLE = KeptSet(*({layer: range(7) for layer in range(4)} for _ in range(2)))


def members(kept):
    """The (kind, layer, unit) that a set keeps in a model of four layers of seven units each."""
    return {
        (kind, layer, unit)
        for kind in ("heads", "neurons")
        for layer in range(4)
        for unit in getattr(kept, kind).get(layer, range(7))
    }


def test_what_is_named_is_sorted_and_counted():
    kept = KeptSet({3: [4, 1], 0: ()}, {1: range(3)})
    assert kept.heads == {0: (), 3: (1, 4)} and list(kept.heads) == [0, 3] and kept.neurons == {1: (0, 1, 2)}
    assert (kept.num_heads, kept.num_neurons) == (2, 3)
    assert (
        kept == KeptSet({0: (), 3: (1, 4)}, {1: (2, 1, 0)})
        and len({kept, KeptSet({0: (), 3: (4, 1)}, {1: range(3)})}) == 1
    )
    assert kept != KeptSet({0: (), 3: (1, 4)}) and KeptSet() == KeptSet({}, {})


def test_worked_out_by_hand():
    assert KeptSet({0: (4,), 1: (0,), 2: ()}, {0: (3,), 1: ()}) == A & B
    assert KeptSet({0: (1, 4, 5)}, {0: (0, 1, 2, 3, 4)}) == A | B
    assert A - KeptSet({0: (4,)}) == KeptSet({0: (1,), 2: ()}, {0: (), 1: ()})  # what is not named is kept there
    assert KeptSet({0: (1,), 2: ()}) <= KeptSet({0: (1, 4)}) and not KeptSet({0: (1,)}) <= KeptSet({1: (0,)})
    assert KeptSet() >= A and not KeptSet() <= A and KeptSet() > A and not A < A
    with pytest.raises(SelectionError, match=r"Layers \[1\] are named"):
        A - KeptSet({1: (0,)})
    with pytest.raises(TypeError):
        A & {0: (1,)}
    for compared in (lambda: KeptSet() < 3, lambda: KeptSet() > 3, lambda: A <= {0: (1,)}):
        with pytest.raises(TypeError, match="not supported between instances"):
            compared()


@given(sets, sets)
def test_arithmetic_is_that_of_the_units_of_a_model(a, b):
    assert members(a & b) == members(a) & members(b)
    assert members(a | b) == members(a) | members(b)
    assert (a <= b) == (members(a) <= members(b) and all(
        layer in getattr(a, kind) for kind in ("heads", "neurons") for layer in getattr(b, kind)
    ))  # fmt: skip
    assert members((WHOLE & a) - b) == members(a) - members(b)


@given(sets)
def test_json_round_trip(kept):
    assert KeptSet.from_json(kept.to_json()) == kept == KeptSet.from_dict(json.loads(json.dumps(kept.to_dict())))


@given(st.sets(st.integers(0, 40)))
def test_ranges_round_trip(indices):
    assert parse_ranges(format_ranges(sorted(indices)), 41) == tuple(sorted(indices))


def test_ranges_by_hand():
    assert format_ranges([*range(512), 520]) == "0-511,520" and format_ranges(()) == ""
    assert parse_ranges("0-2,5,7-8") == (0, 1, 2, 5, 7, 8) and parse_ranges("") == ()


@pytest.mark.parametrize("text", ["3-1", "1,1", "2,1", "a", "1-", "-1", "0-40", "0-99999999999", "1;2", "0-3,2"])
def test_bad_ranges(text):
    with pytest.raises(ValueError, match="range"):
        parse_ranges(text, 40)


def test_it_can_not_be_changed_and_travels():
    with pytest.raises(TypeError):
        A.heads[0] = (7,)
    assert pickle.loads(pickle.dumps(A)) == copy.deepcopy(A) == A and repr(A).startswith("KeptSet(heads={0: (1, 4)")
    kept = KeptSet({np.int64(1): np.array([3, 2])}, {0: torch.tensor([5])})
    assert (
        kept == KeptSet({1: (2, 3)}, {0: (5,)}) and kept.to_json() == '{"heads": {"1": "2-3"}, "neurons": {"0": "5"}}'
    )
    with pytest.raises(TypeError):
        _ = A <= {0: (1,)}
    for text in ("{", "null", "[" * 100_000):
        with pytest.raises(SelectionError, match="kept set"):
            KeptSet.from_json(text)


def test_printed():
    assert str(A) == "heads: layer 0: 1,4; layer 2: none\nneurons: layer 0: 0-3; layer 1: none"
    assert str(KeptSet()) == "every unit" and str(KeptSet(neurons={2: (0,)})) == "neurons: layer 2: 0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({0: (1, 1)},), "Layer 0 names heads twice"),
        (({}, {0: (-1,)}), "Layer 0: expected a sequence of indices of neurons"),
        (({0: "01"},), "expected a sequence of indices of heads"),
        (({0: (0.5,)},), "expected a sequence of indices of heads"),
        (({"x": (0,)},), "Layer 'x'"),
        (({-1: (0,)},), "Layer -1"),
        (({0: 3},), "expected a sequence"),
        (([0, 1],), "`heads` must be a mapping"),
        (({0: (True, False)},), "expected a sequence"),
        (({0: torch.tensor([True, False])},), "expected a sequence"),
        (({0: b"01"},), "expected a sequence"),
        (({0: (float("inf"),)},), "expected a sequence"),
        (({0: {1: 2}},), "expected a sequence"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(SelectionError, match=message):
        KeptSet(*arguments)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"channels": {}}, "kinds heads and neurons; got"),
        ([], "kinds heads and neurons"),
        ({"heads": {"x": "0"}}, "no kept set"),
        ({"heads": {"0": "1-"}}, "no range of indices"),
        ({"neurons": [1]}, "no kept set"),
        ({"heads": {"00": "1"}}, "'00' is no layer"),
        ({"heads": {"0": "0-999999999"}}, "not ascending below"),
    ],
)
def test_bad_json(values, message):
    with pytest.raises(SelectionError, match=message):
        KeptSet.from_json(json.dumps(values))
    with pytest.raises(SelectionError, match="no kept set"):
        KeptSet.from_json("{")
