"""Comparisons by any metric: runs in files, differences with their intervals, directions."""

import dataclasses
import json

import numpy as np
import pytest
from comparing import made_up, run_by
from pages import EXAMPLES

from cahp_plugin.compare.check import check_runs
from cahp_plugin.compare.packing import pack_rows, unpack_rows
from cahp_plugin.compare.rows import mean_interval
from cahp_plugin.compare.runs import RUNS_NAME, Run, read_runs
from cahp_plugin.compare.summary import Comparison
from cahp_plugin.errors import CheckpointError
from cahp_plugin.report.compared import best_of
from cahp_plugin.tasks.metrics import METRICS, metric_named


def losses(more=0.0, count=60):
    """Summed loss and number of tokens of each example, drawn by how much ``more`` the loss is."""
    tokens = np.random.default_rng(1).integers(5, 30, count)
    noise = np.random.default_rng(int(100 * (more + 1))).standard_normal(count)
    return np.stack([tokens * (2 + more + 0.3 * noise), tokens], axis=1)


def own(predictions, references):
    return float(len(predictions))


def rows_of(*runs):
    return {row.method: row for row in Comparison("", runs).rows()}


@pytest.mark.parametrize("rows", [losses(), losses()[:, 0], np.arange(60) > 3, np.zeros((4, 0)), np.zeros((0, 2))])
def test_rows_survive_packing(rows):
    found = unpack_rows(pack_rows(rows), len(rows))
    assert found.shape == rows.shape and (found == rows).all()
    with pytest.raises(ValueError, match="differ in number"):
        unpack_rows(pack_rows(rows), len(rows) + 1)


@pytest.mark.parametrize(
    "text", ["", "2", "2x", "2x1:", "2x1:eJx", "2x1:AAAA", "-1x-2:", "2x9999999999999999999999:AAAA"]
)
def test_damaged_rows_are_told(text):
    with pytest.raises(ValueError):
        unpack_rows(text, 2)


def test_more_than_the_shape_says_is_not_unpacked():
    bomb = pack_rows(np.zeros((10**6, 1))).partition(":")[2]
    with pytest.raises(ValueError, match="another size"):
        unpack_rows(f"2x1:{bomb}", 2)


def test_a_run_by_another_metric_survives_a_file():
    run = run_by("perplexity", "cahp", 0, losses())
    values = json.loads(json.dumps(run.to_dict()))
    assert (values["metric"], values["value"], values["higher_is_better"]) == ("perplexity", run.score.value, False)
    assert Run.from_dict(values) == run and "accuracy" not in values
    for name in ("value", "rows", "metric", "kept"):
        with pytest.raises((KeyError, TypeError, ValueError)):
            Run.from_dict({key: value for key, value in values.items() if key != name})
    for name, value in (("value", "low"), ("rows", values["rows"][:-9]), ("num_examples", 9), ("interval", [1.0])):
        with pytest.raises((TypeError, ValueError)):
            Run.from_dict(values | {name: value})


def test_a_run_by_accuracy_has_the_form_that_it_had():
    run = made_up("cahp", 0, np.arange(12) < 5)
    line = json.loads((EXAMPLES / "sst5" / RUNS_NAME).read_text().partition("\n")[0])
    assert [name for name in run.to_dict() if name != "validation"] == list(line)
    values = dataclasses.replace(run, kept={"0": [1]}).to_dict()
    assert Run.from_dict(values).examples().sum() == 5
    for changes in ({"correct": None}, {"correct": 1234}, {"correct": "12"}, {"accuracy": None}, {"kept": {}}):
        with pytest.raises((TypeError, ValueError)):
            Run.from_dict(values | changes)


def test_runs_by_two_metrics_are_refused(tmp_path):
    runs = [run_by("perplexity", "cahp", 0, losses()), run_by("token_loss", "obs", 0, losses())]
    (tmp_path / RUNS_NAME).write_text("".join(json.dumps(run.to_dict()) + "\n" for run in runs))
    with pytest.raises(CheckpointError, match="different metrics: perplexity, token_loss"):
        read_runs(tmp_path / RUNS_NAME)


@pytest.mark.parametrize("name", ["perplexity", "f1_entities", "mean_squared_error", "f1_macro"])
def test_the_interval_is_that_of_a_plain_bootstrap(name):
    def drawn(more):
        if name == "f1_macro":
            return (np.random.default_rng(int(100 * more)).random((60, 6)) < 0.4).astype(int)
        return losses(more) if name != "mean_squared_error" else losses(more)[:, 0]

    ours, theirs = [drawn(0.3), drawn(0.4), drawn(0.2)], [drawn(0.0), drawn(0.1)]
    runs = [run_by(name, "cahp", seed, rows) for seed, rows in enumerate(theirs)]
    runs += [run_by(name, "obs", seed, rows) for seed, rows in enumerate(ours)]
    found = rows_of(*runs)["obs"]
    value, draw, changes = METRICS[name].value, np.random.default_rng(7), []
    for _ in range(4000):
        picked = draw.integers(0, 60, 60)
        changes.append(
            np.mean([value(rows[picked]) for rows in ours]) - np.mean([value(rows[picked]) for rows in theirs])
        )
    low, high = np.quantile(changes, [0.025, 0.975])
    assert found.difference == pytest.approx(np.mean(list(map(value, ours))) - np.mean(list(map(value, theirs))))
    assert found.interval == pytest.approx((low, high), abs=0.12 * (high - low))


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in EXAMPLES.glob(f"*/{RUNS_NAME}")))
def test_committed_comparisons_are_unchanged_to_the_digit(folder):
    comparison = Comparison.read(EXAMPLES / folder)
    groups = {}
    for line in (EXAMPLES / folder / RUNS_NAME).read_text().splitlines():
        values = json.loads(line)
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(values["correct"]), np.uint8), count=values["num_examples"])
        key = values["method"], 100 * values["macs"] if "macs" in values else values["num_heads"], values["recover"]
        groups.setdefault(key, []).append((values["accuracy"], values["loss"], bits.astype(bool)))
    for row in comparison.rows():
        accuracies, lost, hits = zip(*groups[row.method, row.size, row.recover], strict=True)
        assert (row.mean, row.loss, row.metric) == (np.mean(accuracies), np.mean(lost), "accuracy")
        first = "joint" if comparison.planned else "cahp"  # whose own repair is the least-squares one
        reference = groups.get((first, row.size, row.recover.replace("own", "least-squares")))
        if row.method == first or reference is None:
            assert row.difference is row.interval is None
            continue
        change = np.mean(hits, axis=0) - np.mean([bits for _, _, bits in reference], axis=0)
        assert row.difference == change.mean() and row.interval == mean_interval(change)


def test_side_and_best_follow_the_direction():
    better = [run_by("perplexity", "obs", 0, losses(-0.5)), run_by("perplexity", "random", 0, losses(0.5))]
    rows = rows_of(run_by("perplexity", "cahp", 0, losses()), *better)
    assert (rows["obs"].side, rows["random"].side, rows["cahp"].side) == (1, -1, None)
    assert rows["obs"].difference < 0 < rows["random"].difference
    best, cahp = best_of(list(rows.values()))
    assert (best.method, cahp.method) == ("obs", "cahp")
    validated = [
        dataclasses.replace(row, validation=value) for row, value in zip(rows.values(), (3, 2, 1), strict=True)
    ]
    assert best_of(validated)[0] == validated[2]
    cahp, obs = (np.tile([distance, 1.0], (20, 1)) for distance in (0.5, 0.25))  # one less the cosine, and its weight
    shares = rows_of(run_by("cosine", "cahp", 0, cahp), run_by("cosine", "obs", 0, obs))
    assert shares["obs"].side == 1 and best_of(list(shares.values()))[0].method == "obs"


def test_the_table_has_the_metric_without_percent():
    comparison = Comparison("", (run_by("perplexity", "cahp", 0, losses()), run_by("perplexity", "obs", 0, losses(1))))
    cells = [row.cells() for row in comparison.rows()]
    assert cells[0]["perplexity"] == f"{comparison.runs[0].score.value:.4g} (n=1)" and "loss" not in cells[0]
    low, high = comparison.rows()[1].interval
    assert cells[1]["against cahp"].endswith(f"[{low:+.4g}, {high:+.4g}]")
    assert "Perplexity, lower is better: mean ±" in str(comparison) and "Accuracy" not in str(comparison)


def test_a_metric_of_the_users_has_a_difference_without_an_interval():
    metric = metric_named(f"{__name__}:own")
    rows = metric.rows(["a", "b"], ["a", "c"])
    runs = [run_by(metric, method, 0, rows[:count]) for method, count in (("cahp", 1), ("obs", 2))]
    assert all(run.rows is None and run.examples() is None for run in runs)
    found = rows_of(*runs)["obs"]
    assert (found.difference, found.interval, found.side) == (1.0, None, None)
    assert found.cells()["against cahp"] == "+1" and found.cells()["own"] == "2 (n=1)"
    assert Run.from_dict(json.loads(json.dumps(runs[1].to_dict()))) == runs[1]


def test_a_metric_of_the_users_by_the_name_of_an_accuracy_is_no_accuracy():
    metric = dataclasses.replace(metric_named(f"{__name__}:own"), name="accuracy")
    run = run_by(metric, "cahp", 0, metric.rows([1, 0], [1, 0]))
    assert run.correct is None and Run.from_dict(json.loads(json.dumps(run.to_dict()))).score.value == 2


def test_a_check_by_another_metric(tmp_path):
    then = [run_by("perplexity", "obs", seed, losses(0.02 * seed)) for seed in (0, 1)]
    now = Comparison("", (run_by("perplexity", "obs", 0, losses()),)).rows()
    check = check_runs(now, {("obs", 6, "none"): then}, "there")
    (row,) = check.rows
    low, high = row.interval
    assert low < row.expected < high and row.inside and f"{row.found:.4g}" in str(check)
    assert str(row) == f"obs at 6 heads (none): {row.found:.4g}, allowed {low:.4g} to {high:.4g}"
    worse = Comparison("", (run_by("perplexity", "obs", 0, losses(1)),)).rows()
    assert check_runs(worse, {("obs", 6, "none"): then}, "there").outside
    with pytest.raises(CheckpointError, match="are of accuracy, those now of perplexity"):
        check_runs(now, {("obs", 6, "none"): [made_up("obs", 0, np.ones(5))]}, "there")
    # Without what each example adds: by the intervals that the runs were written with.
    then = [dataclasses.replace(run, rows=None) for run in then]
    (row,) = check_runs(now, {("obs", 6, "none"): then}, "there").rows
    assert row.interval[0] <= np.mean([run.score.interval[0] for run in then]) < row.expected
