import dataclasses

import networkx as nx
import numpy as np
import pytest

from cahp_plugin import CAHPConfig, HeadSelection, KeptSet
from cahp_plugin.errors import SelectionError
from cahp_plugin.selectors.cahp.selection import MSSCurve


def selection(**changes) -> HeadSelection:
    values = {
        "kept": KeptSet(heads={0: (1,), 1: (), 2: (0, 2)}),
        "heads": ((0, 0), (0, 1), (1, 2), (2, 0), (2, 1), (2, 2)),
        "salience": np.array([[0.1, 0.9, np.nan], [np.nan, np.nan, 0.0], [1.0, 0.2, 0.3]]),
        "coordinates": np.arange(12.0).reshape(6, 2),
        "clusters": np.array([0, 0, 1, 1, 2, 2]),
        "curve": MSSCurve(np.array([2, 3]), np.array([0.5, 0.7]), np.array([])),
        "knee": 3,
        "note": "By hand.",
        "config": CAHPConfig(),
    }
    return HeadSelection(**(values | changes))


def test_counts_and_text():
    found = selection()
    assert (found.num_heads, found.num_clusters) == (3, 3)
    lines = str(found).splitlines()
    assert lines[0] == "HeadSelection: keeps 3 of 6 heads (50.0 %). By hand."
    # '#' kept, '.' removed now, ' ' removed before.
    assert lines[1:] == [
        "  layer  0  .#    1 kept: 1",
        "  layer  1    .   0 kept: none",
        "  layer  2  #.#   2 kept: 0, 2",
    ]


def test_round_trip_keeps_everything_but_x_and_distances():
    found = selection(separation=np.ones((6, 4)), distances=np.ones((6, 6)))
    copy = HeadSelection.from_dict(found.to_dict())
    assert copy.separation is None and copy.distances is None
    for field in dataclasses.fields(HeadSelection):
        if field.name not in ("separation", "distances", "curve"):
            np.testing.assert_equal(getattr(copy, field.name), getattr(found, field.name))
    np.testing.assert_equal(dataclasses.astuple(copy.curve), dataclasses.astuple(found.curve))
    whole, real = (copy.curve.k, copy.clusters), (copy.curve.smoothed, copy.salience, copy.coordinates)
    assert {values.dtype for values in whole} == {np.dtype(np.int64)}
    assert {values.dtype for values in real} == {np.dtype(np.float64)}


@pytest.mark.parametrize("missing", ["kept", "salience", "curve", "config", "num_examples"])
def test_damaged_selections(missing):
    values = selection().to_dict()
    del values[missing]
    with pytest.raises(SelectionError, match=missing):
        HeadSelection.from_dict(values)


@pytest.mark.parametrize(("name", "value"), [("salience", [["much"]]), ("clusters", [[0], [1, 2]]), ("knee", "3")])
def test_values_of_another_type(name, value):
    with pytest.raises(SelectionError, match="not a saved head selection"):
        HeadSelection.from_dict(selection().to_dict() | {name: value})


def test_a_selection_from_before_groups_is_read():
    values = selection().to_dict()
    del values["group_size"]
    assert HeadSelection.from_dict(values).group_size == 1


def test_graph_round_trips_through_graphml(tmp_path):
    graph = selection().graph()
    assert graph.nodes["0.1"] | {} == graph.nodes["0.1"]
    assert {name for name, kept in graph.nodes(data="kept") if kept} == {"0.1", "2.0", "2.2"}
    nx.write_graphml(graph, tmp_path / "heads.graphml")
    copy = nx.read_graphml(tmp_path / "heads.graphml")
    assert dict(copy.nodes(data=True)) == dict(graph.nodes(data=True))
    assert {frozenset(edge[:2]): edge[2] for edge in copy.edges(data=True)} == {
        frozenset(edge[:2]): edge[2] for edge in graph.edges(data=True)
    }
