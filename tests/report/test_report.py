import dataclasses
import importlib.metadata
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from packaging.requirements import Requirement
from pages import selection
from PIL import Image

from cahp_plugin.report import save_figures, style
from cahp_plugin.report.selection import graph_space, heads_per_layer, kept_heads, mss_curve
from cahp_plugin.table import format_table


def test_all_figures_are_written(tmp_path):
    before = dict(matplotlib.rcParams)
    paths = save_figures(selection(), tmp_path / "figures")
    assert sorted(paths) == ["graph_space", "heads_per_layer", "kept_heads", "mss_curve"]
    assert sorted((tmp_path / "figures").iterdir()) == sorted(paths.values())
    for path in paths.values():
        with Image.open(path) as picture:
            assert picture.width >= 500 and len(set(picture.convert("L").tobytes())) > 20  # drawn, not blank
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_the_pictures_show_the_selection():
    found = selection()
    kept = [len(found.kept.heads[layer]) for layer in range(4)]
    axes = heads_per_layer(found).figure.axes[0]
    had, left = ([bar.get_width() for bar in bars] for bars in axes.containers)
    assert had == [1] * 4 and left == [count / 6 for count in kept]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2", "3"]
    assert [text.get_text() for text in axes.texts] == [str(count) for count in kept]
    lines = mss_curve(found).figure.axes[0].lines
    np.testing.assert_allclose(lines[0].get_xydata().T, [found.curve.k, found.curve.mss])
    np.testing.assert_allclose(lines[1].get_ydata(), found.curve.smoothed)
    assert found.num_clusters in lines[2].get_xdata()
    links, dropped, ringed = graph_space(found).figure.axes[0].collections
    rows = np.array([head in found.kept.heads[layer] for layer, head in found.heads])
    np.testing.assert_allclose(ringed.get_offsets(), found.coordinates[rows])
    np.testing.assert_allclose(dropped.get_offsets(), found.coordinates[~rows])
    assert to_hex(ringed.get_edgecolors()[0]) == style.ACCENT and len(links.get_segments()) == 24 - found.num_heads
    for start, end in links.get_segments():  # from a removed head to one that is kept in its cluster
        places = [int(np.flatnonzero((found.coordinates == point).all(axis=1))[0]) for point in (start, end)]
        assert list(rows[places]) == [False, True] and found.clusters[places[0]] == found.clusters[places[1]]


def test_each_square_of_the_map_is_its_head():
    found = selection(absent=[(1, 2)])
    (squares,) = kept_heads(found).figure.axes[0].collections
    for place, colour in enumerate(squares.get_facecolors()):
        layer, head = divmod(place, 6)
        np.testing.assert_allclose(squares.get_paths()[place].vertices[:4].mean(axis=0), (head, layer))
        assert (to_hex(colour) == style.KEPT) == (head in found.kept.heads[layer])
        salience = found.salience[layer, head]
        assert colour[3] == pytest.approx(0 if np.isnan(salience) else 0.5 + 0.5 * np.sqrt(salience))


@pytest.mark.parametrize("changes", [{"clustering": "louvain", "num_neighbors": 3}, {"layers": 1, "heads": 2}])
def test_unusual_selections_are_saved(changes, tmp_path):
    assert len(save_figures(selection(**changes), tmp_path)) == 4  # a curve that is not there is told


def test_pictures_are_part_of_a_plain_install():
    needed = [Requirement(text) for text in importlib.metadata.requires("cahp-plugin")]
    assert [entry.marker for entry in needed if entry.name == "matplotlib"] == [None]
    assert "plots" in importlib.metadata.metadata("cahp-plugin").get_all("Provides-Extra")  # the name stays valid


def test_selections_read_back_are_drawn_the_same():
    found = selection()
    copy = dataclasses.replace(type(found).from_dict(found.to_dict()))
    for draw in (kept_heads, heads_per_layer, mss_curve, graph_space):
        assert draw(copy).svg("a") == draw(found).svg("a")


def test_tables():
    rows = [{"model": "dense", "heads": "72", "share": "100.0 %"}, {"model": "pruned", "heads": "8", "share": "5 %"}]
    assert format_table(rows).splitlines() == [
        "model   heads    share",
        "------  -----  -------",
        "dense      72  100.0 %",
        "pruned      8      5 %",
    ]
    assert format_table(rows, markdown=True).splitlines() == [
        "| model  | heads |   share |",
        "| ------ | ----: | ------: |",
        "| dense  |    72 | 100.0 % |",
        "| pruned |     8 |     5 % |",
    ]
    assert format_table([]) == ""
