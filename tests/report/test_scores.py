"""Reports and pages of other numbers than an accuracy, and of files from before there were any."""

import json
import re

import numpy as np
import pytest
from comparing import run_by
from pages import EXAMPLES, cells, check_whole, copy_examples, figure, selection, write_selection

from cahp_plugin.cli.inspect import Inspection
from cahp_plugin.compare.summary import Comparison
from cahp_plugin.prune import Stage
from cahp_plugin.report import read_folder, write_folder_page
from cahp_plugin.report.comparison import difference_charts, scores
from cahp_plugin.results import PRUNE_NAME, DeployReport, PruneReport
from cahp_plugin.tasks.metrics import METRICS, Score, metric_named
from cahp_plugin.units.kept import KeptSet

STAGES = "The model at each stage, on the evaluation set"
PERPLEXITY = [
    (Score("perplexity", 12.3, (11.9, 12.8), higher_is_better=False),),
    (Score("perplexity", 14.1, (13.2, 15.0), higher_is_better=False),),
]
TWO = [
    (Score("exact_match", 0.8, (0.75, 0.85), percent=True), Score("f1_words", 0.88, (0.84, 0.91), percent=True)),
    (Score("exact_match", 0.7, (0.65, 0.75), percent=True), Score("f1_words", 0.79, (0.74, 0.83), percent=True)),
]


def own(predictions, references):
    return float(len(predictions))


def report_of(pair, *, task="text-generation", loss=2.5, **changes):
    parts = zip(("dense", "one-shot"), (24, 12), (2_000_000, 1_500_000), pair, strict=True)
    stages = tuple(Stage(name, heads, count, loss, found, 1234) for name, heads, count, found in parts)
    return PruneReport(selection(**changes), stages, {"prune": 1.0}, 0.0, None, {}, {}, task=task)


def page_of(folder, report):
    write_selection(folder, report.selection)
    (folder / PRUNE_NAME).write_text(json.dumps(report.to_dict()))
    return check_whole(write_folder_page(folder))


def tiles(page):
    return {tile.all("dt")[0].text(): tile.all("dd")[0].text() for tile in page.all("div", **{"class": "tile"})}


def words(page):
    return re.sub(r"\s+", " ", page.text())


@pytest.mark.parametrize("pair", [PERPLEXITY, TWO])
def test_a_report_survives_a_file(pair):
    report = report_of(pair)
    found = PruneReport.from_dict(json.loads(json.dumps(report.to_dict())), report.selection)
    assert found == report and found.task == "text-generation"


def test_perplexity_is_shown_with_its_direction_and_without_percent(tmp_path):
    report = report_of(PERPLEXITY, conditioning="none")
    text = str(report)
    assert (
        "Task: text generation. Heads were compared by: distances of their attention. Perplexity: lower is better."
        in text
    )
    assert "14.1 [13.2, 15]" in text and "1,234" in text and "accuracy" not in text
    page = page_of(tmp_path, report)
    assert tiles(page)["Perplexity"] == "14.1+1.8 from dense, lower is better"
    said = words(page)
    assert "Heads whose attention is alike lie close together." in said
    assert (
        "%). Perplexity on the evaluation set goes from 12.3 to 14.1 (lower is better) without any recovery; 75.0"
        in said
    )
    assert report.about() in said and "accuracy" not in said.lower()
    assert cells(page, STAGES)[1] | {"loss": "2.500"} == cells(page, STAGES)[1]
    assert [(line["perplexity"], line["examples"]) for line in cells(page, STAGES)] == [
        ("12.3 [11.9, 12.8]", "1,234"),
        ("14.1 [13.2, 15]", "1,234"),
    ]
    assert {line["name"]: line["value"] for line in cells(page, "Model")}["task"] == "text-generation"


def test_two_metrics_stand_side_by_side(tmp_path):
    page = page_of(tmp_path, report_of(TWO, task="question-answering", loss=None, conditioning="prediction"))
    shown = tiles(page)
    assert shown["Exact match"] == "70.0\u00a0%\u221210.0 points from dense"
    assert shown["F1 words"] == "79.0\u00a0%\u22129.0 points from dense"
    assert "from 80.0 % to 70.0 %, f1 words from 88.0 % to 79.0 % without any recovery" in words(page)
    assert "Heads were compared by: class separation of predictions." in words(page)
    line = cells(page, STAGES)[1]
    assert (line["exact match"], line["f1 words"]) == ("70.00 % [65.00, 75.00]", "79.00 % [74.00, 83.00]")
    assert "loss" not in line


def test_a_metric_of_the_users(tmp_path):
    metric = metric_named(f"{__name__}:own")
    found = [(metric.score(metric.rows(["a"] * count, ["b"] * count)),) for count in (3, 2)]
    page = page_of(tmp_path, report_of(found))
    assert tiles(page)["Own"] == "2\u22121 from dense" and cells(page, STAGES)[0]["own"] == "3 [3, 3]"


def test_stages_without_a_common_score_are_shown_without_a_change(tmp_path):
    page = page_of(tmp_path, report_of([PERPLEXITY[0], TWO[1]]))
    assert cells(page, STAGES)[1]["perplexity"] == "-" and "goes from" not in words(page)


def test_the_older_deployment_is_shown_as_it_was(tmp_path):
    copy_examples(tmp_path)
    pruning = read_folder(tmp_path / "deploy").pruning
    assert pruning.task == "text-classification" and pruning.stages[0].scores == (
        Score.of_accuracy(0.5090497737556561),
    )
    assert "Heads were compared by: class separation of the labels." in str(pruning)
    rows = pruning.rows()
    assert [row["accuracy"] for row in rows] == ["50.90 %", "41.18 %", "48.64 %"] and "examples" not in rows[0]
    values = json.loads((EXAMPLES / "deploy" / "cahp_deploy.json").read_text())
    report = DeployReport.from_dict(values, tmp_path)
    table = re.sub(r" +\| *2,210", "", report.to_markdown())  # the number of examples is new
    shown = [[cell.strip() for cell in line.split("|")] for line in table.splitlines() if line.startswith("| dense")]
    before = (EXAMPLES / "deploy" / "cahp_deploy.md").read_text().splitlines()
    assert shown == [[cell.strip() for cell in line.split("|")] for line in before if line.startswith("| dense")]
    page = check_whole(write_folder_page(tmp_path / "deploy"))
    assert tiles(page)["Accuracy"] == "48.6\u00a0%\u22122.3 points from dense"
    assert "In brackets" not in words(page)


def test_inspect_shows_any_score():
    stages = (Stage("dense", 4, 1000, None, PERPLEXITY[0], 7), Stage("recovered", 2, 900, 1.5, TWO[0]))
    found = Inspection("f", "Bert", "1", {0: 4}, {}, KeptSet(heads={0: (0, 1)}), {}, 900, 1.0, None, stages)
    lines = str(found).splitlines()[-2:]
    assert lines[0].split(": ")[1] == "perplexity 12.3 [11.9, 12.8], 4 heads, 1,000 parameters, 7 examples"
    assert "exact match 80.00 % [75.00, 85.00], f1 words 88.00 % [84.00, 91.00], loss 1.500" in lines[1]
    assert found.to_dict()["stages"][0]["perplexity"] == 12.3


def compared(metric="perplexity", steps=(0.0, 0.2, -0.2), steep=0.0):
    """Runs of the dense model and three ways at two counts and two seeds, each with more loss by its step."""
    tokens = np.random.default_rng(1).integers(5, 30, 80)

    def rows(more, seed):
        noise = np.random.default_rng(seed).standard_normal(80)
        return np.stack([tokens * (2 + more + 0.3 * noise), tokens], axis=1)

    runs = [run_by(metric, "dense", 0, rows(-0.4, 9), num_heads=8)]
    for count, harm in ((4, 0.0), (2, 0.3 + steep)):
        for method, step in zip(("cahp", "obs", "random"), steps, strict=True):
            runs += [run_by(metric, method, seed, rows(harm + step, seed), num_heads=count) for seed in (0, 1)]
    return runs


def write(folder, runs):
    (folder / "runs.jsonl").write_text("".join(json.dumps(run.to_dict()) + "\n" for run in runs))
    (folder / "setup.json").write_text(json.dumps({"config": {}, "recovery": {}, "versions": {}}))
    return check_whole(write_folder_page(folder))


def test_a_comparison_by_perplexity_has_its_page(tmp_path):
    page = write(tmp_path, compared())
    said, shown = words(page), tiles(page)
    rows = {(row.method, row.size): row for row in Comparison.read(tmp_path).rows()}
    assert "accuracy" not in said.lower() and "%" not in shown["Dense perplexity"]
    assert shown["random, 2 heads"].startswith(f"{rows['random', 2].mean:.4g}")
    assert f"has perplexity {rows['dense', 8].mean:.4g} (lower is better)" in said
    assert f"the best is random with no recovery: {rows['random', 2].mean:.4g}; cahp reaches" in said
    assert "Of 4 differences from cahp, 2 are below zero (better) and 2 above it by their 95 % intervals" in said
    assert "Perplexity against heads kept, by recovery" in said and "Left of the line: better than cahp" in said
    assert "Perplexity, lower is better: mean ±" in said and "percentage points" not in said
    assert "Perplexity against heads kept" in figure(page, "scores").all("desc")[0].text()
    line = next(line for line in cells(page, "All methods, no recovery") if line["method"] == "obs")
    assert line["perplexity"].startswith(f"{rows['obs', 4].mean:.4g} ± ")


def test_the_picture_is_in_the_metrics_own_unit():
    rows = Comparison("", tuple(compared())).rows()
    (axes,) = scores(rows, ["none"]).figure.axes
    assert axes.get_title(loc="left") == "perplexity (lower is better)" and axes.get_yscale() == "linear"
    means = [row.mean for row in rows if row.method == "cahp"]
    np.testing.assert_allclose(np.array(axes.containers[0].lines[0].get_ydata(), float), means)
    (axes,) = difference_charts(rows)[0].figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "4 heads",
        "random",
        "obs",
        "2 heads",
        "random",
        "obs",
    ]
    assert axes.get_xlabel() == "perplexity against cahp"


def test_what_spans_much_is_drawn_by_its_logarithm(tmp_path):
    runs = compared(steep=4.0)
    (axes,) = scores(Comparison("", tuple(runs)).rows(), ["none"]).figure.axes
    assert axes.get_yscale() == "log"
    low, high = axes.get_ylim()
    assert low < min(run.score.value for run in runs) and high > max(run.score.value for run in runs)
    write(tmp_path, runs)


def test_a_comparison_by_a_metric_of_the_users(tmp_path):
    metric = metric_named(f"{__name__}:own")
    rows = metric.rows(list("abc"), list("abc"))
    runs = [run_by(metric, method, 0, rows[:count]) for method, count in (("dense", 3), ("cahp", 2), ("obs", 1))]
    page = write(tmp_path, runs)
    assert "its 95 % interval, where it is known" in words(page) and "Difference from cahp" not in words(page)
    assert cells(page, "All methods, no recovery")[1]["against cahp"] == "-1"


def test_numbers_that_are_none_are_drawn_around(tmp_path):
    runs = [run_by(METRICS["token_loss"], method, 0, np.array([[value, 1.0]] * 3)) for method, value in
            (("cahp", 2.0), ("obs", np.inf), ("random", np.nan))]  # fmt: skip
    assert scores(Comparison("", tuple(runs)).rows(), ["none"]).figure.axes
