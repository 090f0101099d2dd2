import dataclasses
import importlib.metadata
import sys

import matplotlib
import numpy as np
import pytest
from packaging.requirements import Requirement
from pages import selection
from PIL import Image

from cahp_plugin.errors import ConfigError
from cahp_plugin.report import format_table, save_figures
from cahp_plugin.report.figures import plot_curve, plot_graph_space, plot_heads_per_layer, plot_kept_heads


def test_all_figures_are_written(tmp_path):
    style = dict(matplotlib.rcParams)
    paths = save_figures(selection(), tmp_path / "figures", formats=("png", "svg"))
    assert sorted(paths) == ["graph_space", "heads_per_layer", "kept_heads", "mss_curve"]
    assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == sorted(
        f"{name}.{ending}" for name in paths for ending in ("png", "svg")
    )
    for path in paths.values():
        with Image.open(path) as picture:
            assert picture.width >= 500 and len(set(picture.convert("L").tobytes())) > 20  # drawn, not blank
    assert dict(matplotlib.rcParams) == style
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_the_pictures_show_the_selection():
    found = selection()
    kept = [len(found.kept.heads[layer]) for layer in range(4)]
    axes = plot_heads_per_layer(found).axes[0]
    assert [bar.get_height() for bar in axes.containers[1]] == kept
    assert plot_kept_heads(found).axes[0].get_title(loc="left") == f"{found.num_heads} of 24 heads kept"
    assert len(plot_kept_heads(found).axes[0].patches) == 24
    lines = plot_curve(found).axes[0].lines
    np.testing.assert_allclose(lines[0].get_ydata(), found.curve.mss)
    np.testing.assert_allclose(lines[1].get_ydata(), found.curve.smoothed)
    assert found.num_clusters in lines[2].get_xdata()
    dropped, ringed = plot_graph_space(found).axes[0].collections
    assert len(ringed.get_offsets()) == found.num_heads and len(dropped.get_offsets()) == 24 - found.num_heads


@pytest.mark.parametrize(
    "changes",
    [
        {"clustering": "louvain", "num_neighbors": 3},
        {"num_heads": 5, "min_heads_per_layer": 0},
        {"layers": 1, "heads": 3},
        {"layers": 1, "heads": 2},
        {"absent": [(0, slice(None)), (1, 2)], "min_heads_per_layer": 0},
    ],
)
def test_unusual_selections_are_drawn(changes, tmp_path):
    assert len(save_figures(selection(**changes), tmp_path)) == 4


def test_unknown_formats(tmp_path):
    with pytest.raises(ConfigError, match=r"\['bmpx'\]; known are"):
        save_figures(selection(), tmp_path / "a", formats=("bmpx",))
    assert not (tmp_path / "a").exists()


def test_pictures_are_part_of_a_plain_install():
    needed = [Requirement(text) for text in importlib.metadata.requires("cahp-plugin")]
    assert [entry.marker for entry in needed if entry.name == "matplotlib"] == [None]
    assert "plots" in importlib.metadata.metadata("cahp-plugin").get_all("Provides-Extra")  # the name stays valid


def test_selections_read_back_are_drawn_the_same():
    found = selection()
    copy = dataclasses.replace(type(found).from_dict(found.to_dict()))
    assert len(plot_kept_heads(copy).axes[0].patches) == 24


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
