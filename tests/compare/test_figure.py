import dataclasses

import numpy as np
from comparing import made_up

from cahp_plugin.compare import Comparison
from cahp_plugin.compare.figure import plot_accuracy


def runs():
    """Two counts, two recoveries, three ways, two seeds, with hits drawn for each; and the model before pruning."""
    draw = np.random.default_rng(0)
    found = [made_up("dense", 0, np.ones(40, dtype=bool))]
    for recover in ("none", "least-squares"):
        for count in (6, 3):
            for method in ("cahp", "obs", "random"):
                for seed in (0, 1):
                    run = made_up(method, seed, draw.random(40) < 0.5)
                    found.append(dataclasses.replace(run, num_heads=count, recover=recover))
    return found


def line_of(axes, label):
    (handle,) = [h for h, name in zip(*axes.get_legend_handles_labels(), strict=True) if name == label]
    return handle


def test_the_lines_are_the_means_and_the_bars_the_spread(tmp_path):
    found = runs()
    figure = plot_accuracy(Comparison(tmp_path, tuple(found)))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one-shot", "least-squares"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cahp", "obs", "random", "dense, 6 heads"]
    for axes, recover in zip(figure.axes, ("none", "least-squares"), strict=True):
        for method in ("cahp", "obs", "random"):
            per_count = [
                [100 * r.accuracy for r in found if (r.method, r.num_heads, r.recover) == (method, count, recover)]
                for count in (3, 6)
            ]
            means, spread = np.mean(per_count, axis=1), np.std(per_count, axis=1, ddof=1)
            drawn = line_of(axes, method)
            if method == "random":
                np.testing.assert_allclose(drawn.get_ydata(), means)
                (band,) = [part for part in axes.collections if part.get_paths()[0].vertices.shape[0] > 2]
                edges = band.get_paths()[0].vertices[:, 1]
                np.testing.assert_allclose(
                    [edges.min(), edges.max()], [min(means - spread), max(means + spread)], atol=1e-9
                )
            else:
                np.testing.assert_allclose(drawn.lines[0].get_ydata().astype(float), means)
                ends = np.array([segment[:, 1] for segment in drawn.lines[2][0].get_segments()])
                np.testing.assert_allclose(ends, np.stack([means - spread, means + spread], axis=1))
        assert set(line_of(axes, "dense, 6 heads").get_ydata()) == {100.0}


def test_a_single_recovery_and_a_single_run_are_drawn(tmp_path):
    figure = plot_accuracy(Comparison(tmp_path, (made_up("obs", 0, np.ones(4, dtype=bool)),)))
    (axes,) = figure.axes
    np.testing.assert_allclose(line_of(axes, "obs").lines[0].get_ydata().astype(float), [100.0])
