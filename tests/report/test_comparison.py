"""Pictures of a comparison and of times: their numbers are those of the runs."""

import dataclasses
import json

import numpy as np
import pytest
from comparing import made_up, run_by
from matplotlib.colors import to_hex
from pages import EXAMPLES

from cahp_plugin.compare.summary import Comparison
from cahp_plugin.latency import LatencyReport
from cahp_plugin.report import save_latency, save_scores, style
from cahp_plugin.report.compared import methods_of
from cahp_plugin.report.comparison import difference_charts, layer_charts, look_of, scores
from cahp_plugin.report.times import latency, latency_charts, shapes_of
from cahp_plugin.selectors import selectors


def runs():
    """Two counts, two recoveries, three ways, two seeds, with hits drawn for each; and the model before pruning."""
    draw = np.random.default_rng(0)
    found = [made_up("dense", 0, np.ones(40, dtype=bool))]
    for recover in ("none", "least-squares"):
        for count in (6, 3):
            for method in ("cahp", "obs", "random"):
                for seed in (0, 1):
                    run = made_up(method, seed, draw.random(40) < 0.5)
                    drawn = np.random.default_rng([len(method), seed]).permutation(12)[:count]
                    kept = {str(layer): [int(p) % 4 for p in drawn if p // 4 == layer] for layer in range(3)}
                    found.append(dataclasses.replace(run, num_heads=count, recover=recover, kept=kept))
    return found


def names(axes):
    return [text.get_text() for text in axes.figure.legends[0].get_texts()]


def test_the_lines_are_the_means_and_the_bars_the_spread(tmp_path):
    found = runs()
    figure = scores(Comparison(tmp_path, tuple(found)).rows(), ["none", "least-squares"]).figure
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "no recovery: accuracy, %",
        "least-squares repair: accuracy, %",
    ]
    for axes, recover in zip(figure.axes, ("none", "least-squares"), strict=True):
        assert names(axes) == ["cahp", "obs", "random", "dense, 6 heads"]
        for method, drawn in zip(("cahp", "obs", "random"), axes.containers, strict=True):
            per_count = [
                [100 * r.score.value for r in found if (r.method, r.num_heads, r.recover) == (method, count, recover)]
                for count in (6, 3)
            ]
            means, spread = np.mean(per_count, axis=1), np.std(per_count, axis=1, ddof=1)
            np.testing.assert_allclose(np.array(drawn.lines[0].get_ydata(), float), means)
            np.testing.assert_allclose(np.array(drawn.lines[0].get_xdata(), float), (6, 3), atol=0.2)
            ends = np.array([segment[:, 1] for segment in drawn.lines[2][0].get_segments()])
            np.testing.assert_allclose(ends, np.stack([means - spread, means + spread], axis=1))
            assert drawn.lines[0].get_color() == look_of(method, list(selectors()).index(method))["color"]
        assert set(axes.lines[-1].get_ydata()) == {100.0}  # the model before pruning


def test_a_single_recovery_and_a_single_run_are_drawn(tmp_path):
    comparison = Comparison(tmp_path, (made_up("obs", 0, np.ones(4, dtype=bool)),))
    (axes,) = scores(comparison.rows(), ["none"]).figure.axes
    np.testing.assert_allclose(axes.containers[0].lines[0].get_ydata().astype(float), [100.0])
    assert difference_charts(comparison.rows()) == []
    assert save_scores(comparison, tmp_path / "new").read_bytes().startswith(b"\x89PNG")


def test_differences_are_drawn_with_their_intervals(tmp_path):
    rows = Comparison(tmp_path, tuple(runs())).rows()
    for chart, recover in zip(difference_charts(rows), ("none", "least-squares"), strict=True):
        (axes,) = chart.figure.axes
        lines = [label.get_text() for label in axes.get_yticklabels()]
        mine = [row for row in rows if row.recover == recover and row.method in ("obs", "random")]
        expected = [row for count in (6, 3) for row in sorted(mine, key=lambda row: -row.difference)
                    if row.size == count]  # fmt: skip
        assert lines == [
            name for count in (6, 3)
            for name in (f"{count} heads", *(row.method for row in expected if row.size == count))
        ]  # fmt: skip
        for row, drawn in zip(expected, axes.containers, strict=True):
            assert float(drawn.lines[0].get_xdata()[0]) == pytest.approx(100 * row.difference)
            (segment,) = drawn.lines[2][0].get_segments()
            np.testing.assert_allclose(segment[:, 0], 100 * np.array(row.interval))
            assert (drawn.lines[0].get_markerfacecolor() == style.CARD) == (row.side == 0)  # hollow


def test_a_difference_outside_of_its_interval_is_drawn(tmp_path):
    """Each of 7 examples adds 0.1 more: their mean is an ulp below 0.1, where the interval may not begin above it."""
    near = [run_by("mean_squared_error", name, 0, np.full(7, more)) for name, more in (("cahp", 0.0), ("obs", 0.1))]
    reference, row = Comparison(tmp_path, tuple(near)).rows()
    assert row.interval == (row.difference, row.difference) and row.difference < 0.1
    for interval, ends in ((row.interval, (0.1, 0.1)), ((0.2, 0.3), (0.1, 0.3)), ((-0.3, -0.2), (-0.3, 0.1))):
        (chart,) = difference_charts([reference, dataclasses.replace(row, interval=interval)])
        (drawn,) = chart.figure.axes[0].containers
        np.testing.assert_allclose(drawn.lines[2][0].get_segments()[0][:, 0], ends)


def test_cells_are_the_means_of_the_heads_in_each_layer(tmp_path):
    comparison = Comparison(tmp_path, tuple(runs()))
    for chart, count in zip(layer_charts(comparison.structure(), comparison.rows()), (6, 3), strict=True):
        (axes,) = chart.figure.axes
        places = {one.method: one.per_layer for one in comparison.structure() if one.num_heads == count}
        assert [label.get_text() for label in axes.get_yticklabels()] == ["cahp", "obs", "random"]
        values = [value for method in ("cahp", "obs", "random") for value in places[method]]
        assert [float(text.get_text()) for text in axes.texts] == pytest.approx(values, abs=0.05)
        shades = axes.collections[0].get_facecolors()
        assert {to_hex(shade) for shade in shades} == {style.KEPT}
        np.testing.assert_allclose(shades[:, 3], style.DEPTH * (0.06 + 0.94 * np.array(values) / max(1, *values)))


def test_looks_do_not_run_out_and_are_the_same_in_every_comparison(tmp_path):
    looks = [look_of(f"way {place}", place) for place in range(156)]
    assert len({(look["color"], look["marker"]) for look in looks}) == 156
    assert look_of("random", 3)["color"] == style.MUTED
    places = []
    for methods in (["cahp", "obs", "random"], ["new", "dsp", "obs"]):
        found = [made_up(method, 0, np.ones(4, dtype=bool)) for method in methods]
        places.append(methods_of(Comparison(tmp_path, tuple(found)).rows()))
        known = [name for name in selectors() if name in methods]
        assert list(places[-1]) == known + [name for name in methods if name not in selectors()]
    assert places[0]["obs"] == places[1]["obs"]


@pytest.fixture(scope="module")
def times():
    return LatencyReport.from_dict(json.loads((EXAMPLES / "latency" / "latency.json").read_text()))


def test_bars_are_medians_and_limits_stand_for_like_with_like(times):
    for chart, shape in zip(latency_charts(times.measurements), shapes_of(times.measurements), strict=True):
        (axes,) = chart.figure.axes
        entries = [one for one in times.measurements if (one.batch_size, one.sequence_length) == shape]
        assert [bar.get_width() for bar in axes.patches] == [entry.p50_ms for entry in entries]
        spans = [line.get_segments()[0][:, 0] for line in axes.collections]
        for entry, span in zip(entries, spans, strict=True):
            np.testing.assert_allclose(span, (entry.p50_ms - entry.iqr_ms / 2, entry.p50_ms + entry.iqr_ms / 2))
        limits = [float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() == "|"]
        like = [one for one in entries[1:] if (one.backend, one.precision) == (entries[0].backend, "fp32")]
        assert limits == [entry.theory * entries[0].p50_ms for entry in like]
        said = [text.get_text() for text in axes.texts]
        assert all(any(text.startswith(f"{entry.p50_ms:.1f} ms") for text in said) for entry in entries)


def test_the_picture_in_a_folder_has_a_panel_a_shape(times, tmp_path):
    shapes = shapes_of(times.measurements)
    figure = latency(times.measurements, shapes).figure
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.axison] == [
        f"{length} tokens, batch of {batch}" for batch, length in shapes
    ]
    paths = save_latency(dataclasses.replace(times, measurements=times.measurements[:8]), tmp_path / "latency")
    assert set(paths) == {"json", "csv", "md", "png"} and paths["png"].read_bytes().startswith(b"\x89PNG")
