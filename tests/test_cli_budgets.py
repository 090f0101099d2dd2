"""Budgets from the command line and from Python: speed, drops, mistakes, stops; without labels or evaluation data."""

import dataclasses
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import prune_arguments
from made import MADE
from pages import read
from tiny import tiny_model
from words import encoded_words

from cahp_plugin import Budget, load_pruned, prune_model
from cahp_plugin.cli import build_parser, main
from cahp_plugin.cli.common import budget_of
from cahp_plugin.config import PlanSettings, RecoverySettings
from cahp_plugin.data import load_examples
from cahp_plugin.errors import BudgetError
from cahp_plugin.plan.plan import PLAN_NAME, Plan
from cahp_plugin.tasks import Score
from cahp_plugin.units import prunable_layers
from cahp_plugin.workflow import load_model
from cahp_plugin.workflow.budget import calibration_of, drop_of
from cahp_plugin.workflow.sets import drawn, hold_out

SMALL = ["--calibration-examples", "48", "--batch-size", "8", "--multiple-of", "1", "--refine", "1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trained classifier, its data, and a plan of it."""
    folder = tmp_path_factory.mktemp("made")
    MADE["text-classification"].make(folder)
    paths = json.loads((folder / "paths.json").read_text())
    options = [*SMALL[:-2], "--no-figures", "--quiet"]
    assert main(["plan", str(folder / "model"), "--train", paths[0], "-o", str(folder / "plan"), *options]) == 0
    assert [file.name for file in (folder / "plan").iterdir()] == ["cahp_plan.json"]
    return folder, *paths


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CAHP_CACHE", str(tmp_path / "cache"))


def prune(made, output, *options):
    folder, train, evaluation = made
    return main(["prune", str(folder / "model"), "--train", train, "--eval", evaluation, "-o", str(output), "--quiet",
                 "--json", *SMALL, *options])  # fmt: skip


def test_a_plan_serves_where_a_tenth_of_its_training_set_is_held_out(made, tmp_path, capsys):
    folder, train, _ = made
    kept = []
    for extra in ([], ["--eval", made[2]]):
        command = ["prune", str(folder / "model"), "--train", train, "--plan", str(folder / "plan"), "--macs", "0.6"]
        output = str(tmp_path / f"out{len(kept)}")
        assert main([*command, *extra, "-o", output, *SMALL[:-2], "--refine", "0", "--no-figures", "--json"]) == 0
        found, told = capsys.readouterr()
        kept.append(json.loads(found)["plan"]["layers"])
        rows = len(Path(train if not extra else made[2]).read_text().splitlines())
        assert {stage["num_examples"] for stage in json.loads(found)["stages"]} == {rows if extra else rows // 10}
        assert (f"{rows // 10} rows of the training set are held out" in told) == (not extra)
    assert kept[0] == kept[1]


@pytest.mark.parametrize(("count", "looked_at"), [(10, 10), (36, 36), (400, 36)])
def test_what_is_held_out_is_never_looked_at_by_the_plan(count, looked_at):
    """40 examples of 20 rows, two each: of the last 4 drawn, the rows that none of the first is from."""
    examples = dataclasses.replace(encoded_words(tiny_model(), 40), rows=[index // 2 for index in range(40)])
    first, others = drawn(examples, count, 3)
    assert sorted([*first, *others]) == list(range(40)) and len(first) == looked_at
    expected = {index // 2 for index in others[-4:]} - {index // 2 for index in first}
    held = hold_out(examples, count, 3)
    assert {*(() if held is None else held.rows)} == expected
    if count == 10:
        assert held is not None and len(held) == 2 * len(expected) >= 4
    assert hold_out(examples.select(range(9)), 4, 0) is None  # a tenth of 9 is none


def test_the_examples_that_refine_are_none_that_are_evaluated_on():
    model = tiny_model()
    examples = encoded_words(model, 40)
    held = hold_out(examples, 20, 0)
    first, further = calibration_of(model, examples, RecoverySettings(calibration_examples=20), 0, 40, held.rows)
    assert sum(map(len, first)) == 20 and len(held) == 4 and sum(map(len, further)) == 16


def test_a_plan_is_the_same_to_the_bit_and_any_budget_follows_from_it(made, tmp_path, capsys):
    folder = made[0]
    seen = []
    for name in ("one", "two"):
        assert prune(made, tmp_path / name, "--macs", "0.6", "--no-figures") == 0
        seen.append(json.loads(capsys.readouterr().out)["plan"])
    plan = Plan.load(folder / "plan")
    for name in ("one", "two"):
        again = Plan.load(tmp_path / name)
        assert [layer.losses for layer in again.layers] == [layer.losses for layer in plan.layers]
    assert seen[0]["layers"] == seen[1]["layers"] and seen[0]["divergence"] == seen[1]["divergence"]
    assert prune(made, tmp_path / "three", "--parameters", "0.5", "--plan", str(tmp_path / "one"), "--no-figures") == 0
    found = json.loads(capsys.readouterr().out)
    assert 0.35 < found["plan"]["parameters"]["layers"] <= 0.5 and "plan" not in {*found["seconds"]} - {"plan"}
    model = load_pruned(tmp_path / "three")
    assert sum(parameter.numel() for parameter in model.parameters()) == found["plan"]["parameters"]["after"]


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_speed_is_measured_and_reached(made, tmp_path, capsys, runtime):
    if runtime == "onnxruntime":
        pytest.importorskip("onnxruntime")
    options = ["--plan", str(made[0] / "plan"), "--runtime", runtime, "--sequence-length", "32",
               "--latency-batch-size", "64", "--no-figures"]  # fmt: skip
    assert prune(made, tmp_path / "fast", "--speedup", "1.05", *options) == 0
    outcome = json.loads(capsys.readouterr().out)["plan"]
    speed = outcome["speed"]
    assert speed["low"] <= speed["ratio"] <= speed["high"] and speed["how"].startswith(
        f"{runtime} fp32 on cpu, 32 tok"
    )
    # Which sizes that takes is the machine's affair; only the dense model is as fast as itself, to the bit.
    assert (speed["ratio"] == 1) == (outcome["macs"]["layers"] == 1) and outcome["budget"]["speedup"] == 1.05
    assert len([*(tmp_path / "cache" / "times").iterdir()]) == 1
    # More than there is.
    assert prune(made, tmp_path / "faster", "--speedup", "900", *options) == 1
    told = capsys.readouterr().err
    assert "can't be reached on this machine by pruning: the smallest model takes about" in told
    assert not (tmp_path / "faster").exists()


def test_the_smallest_model_within_a_drop(made, tmp_path, capsys):
    options = ["--plan", str(made[0] / "plan"), "--no-figures"]
    assert prune(made, tmp_path / "some", "--max-drop", "10", *options) == 0
    report = json.loads(capsys.readouterr().out)
    chosen = report["plan"]["drops"][-1]
    dense, last = report["stages"][0], report["stages"][-1]
    assert chosen["value"] <= 10 and chosen["low"] <= chosen["value"] <= chosen["high"]
    assert chosen["value"] == pytest.approx(100 * (dense["accuracy"] - last["accuracy"]), abs=1e-6)
    smaller = [drop for drop in report["plan"]["drops"] if drop["macs"] < chosen["macs"]]
    assert not smaller or max(smaller, key=lambda drop: drop["macs"])["value"] > 10
    # Whatever is lost, the whole model is not smaller than itself.
    assert prune(made, tmp_path / "all", "--max-drop", "100", *options) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["drops"][-1]["macs"] == pytest.approx(0.01)


def test_a_drop_that_can_not_be_had_leaves_the_dense_model(made, tmp_path):
    folder, train, evaluation = made
    model, tokenizer = load_model(str(folder / "model"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(BudgetError, match=r"No smaller model loses at most 0 points: the best, with .* loses"):
        prune_model(
            model, tokenizer, load_examples(train), load_examples(evaluation),
            budget=Budget(max_drop=0, multiple_of=1),
            # An accuracy that only the dense model has.
            metric="test_cli_budgets:same_as_dense", output_dir=tmp_path / "out", planning=PlanSettings(refine=0),
            recovery=RecoverySettings("least-squares", calibration_examples=48, batch_size=8),
        )  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not (tmp_path / "out").exists()


_SEEN: list = []


def same_as_dense(predictions, references):
    """1 for the first predictions that it is shown, and less for each later call."""
    _SEEN.append(predictions)
    return 1 / len(_SEEN)


@pytest.mark.parametrize(
    ("score", "before", "after", "drop"),
    [
        (Score("accuracy", 0.9, None, True, True), 0.9, 0.88, 2.0),
        (Score("spearman", 0.9, None, True, False), 0.9, 0.91, -1.0),
        (Score("perplexity", 20.0, None, False, False), 20.0, 21.0, 5.0),
        (Score("wer", 0.1, None, False, True), 0.1, 0.13, 3.0),
    ],
)
def test_points_are_hundredths_of_shares_and_per_cent_of_the_rest(score, before, after, drop):
    assert drop_of(score, before, after) == pytest.approx(drop)


def test_neither_labels_nor_evaluation_data_are_needed(made, tmp_path, capsys):
    folder, train, _ = made
    bare = tmp_path / "bare.jsonl"
    rows = [json.loads(line) for line in Path(train).read_text().splitlines()]
    bare.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "label"}) + "\n" for row in rows))
    arguments = ["prune", str(folder / "model"), "--train", str(bare), "-o", str(tmp_path / "out"), "--quiet", *SMALL]
    assert main([*arguments, "--macs", "0.7", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [stage["scores"] for stage in report["stages"]] == [[], [], []]
    assert report["plan"]["divergence"] > 0 and (tmp_path / "out" / "report.html").exists()
    assert load_pruned(tmp_path / "out").num_parameters() == report["stages"][-1]["parameters"]
    assert main(["report", str(tmp_path / "out"), "-o", str(tmp_path / "page.html")]) == 0
    for wish, told in (
        (["--max-drop", "1"], "`max_drop` needs labelled evaluation examples"),
        (["--speedup", "1.1", "--lengths", "data"], "needs evaluation examples"),
        (["--macs", "0.7", "--recover", "least-squares+finetune"], "label"),
    ):
        capsys.readouterr()
        assert main([*arguments[:-9], *["--overwrite"], *arguments[-9:], *wish]) == 1
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--macs", "0.5", "--speedup", "2"], "got macs=0.5 and speedup=2.0"),
        (["--macs", "1.5"], "`macs` must be a number in (0, 1]"),
        (["--macs", "0.5", "--keep", "decoder.*"], "`keep` names no layer by 'decoder.*'"),
        (["--macs", "0.01", "--units", "heads"], "is below the smallest model, which keeps"),
        (["--keep", "encoder.layer.0.*"], "Only a budget takes --keep and --multiple-of: name one of --macs, "),
        (["--plan", "somewhere"], "Only a budget takes --multiple-of and --plan: "),
        (["--macs", "0.5", "--plan", "somewhere"], "There is no cahp_plan.json in somewhere"),
        (["--max-drop", "5", "--keep", "*"], "No smaller model is allowed"),
        (["--macs", "0.5", "--order", "best"], "There is no selector 'best' to order the heads"),
        (["--macs", "0.5", "--seed", "5", "--plan", "PLAN"], "The plan was made on other examples: 48 of them"),
    ],
)
def test_mistakes_are_told_in_a_line(made, tmp_path, capsys, options, told):
    options = [str(made[0] / "plan") if option == "PLAN" else option for option in options]
    assert prune(made, tmp_path / "out", *options) == 1
    err = capsys.readouterr().err
    assert told in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_what_was_measured_is_kept_when_it_is_stopped(made, tmp_path):
    folder, train, evaluation = made
    command = [sys.executable, "-m", "cahp_plugin", "prune", str(folder / "model"), "--train", train, "--eval",
               evaluation, "-o", str(tmp_path / "out"), "--macs", "0.6", "--no-figures", *SMALL,
               "--calibration-examples", "128", "--batch-size", "1"]  # fmt: skip
    progress = tmp_path / "out.plan.jsonl"
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (progress.exists() and len(progress.read_text().splitlines()) > 1):
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    _, told = run.communicate(timeout=60)
    assert run.returncode == 130 and str(progress) in told
    assert [entry.name for entry in tmp_path.iterdir()] == [progress.name]
    again = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert again.returncode == 0, again.stderr
    assert "layers were measured before" in again.stderr
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out"]


def test_a_finished_plan_is_not_replaced_by_accident(made, capsys):
    folder, train, _ = made
    before = (folder / "plan" / PLAN_NAME).read_bytes()
    assert main(["plan", str(folder / "model"), "--train", train, "-o", str(folder / "plan"), "--quiet"]) == 1
    assert "holds a plan. Pass `overwrite=True` (`--overwrite`)" in capsys.readouterr().err
    assert (folder / "plan" / PLAN_NAME).read_bytes() == before


def test_a_budget_goes_on_from_a_pruned_model(made, tmp_path, capsys):
    folder, train, evaluation = made
    options = ["--no-figures", *SMALL, "--quiet", "--json"]
    data = ["--train", train, "--eval", evaluation]
    assert main(["prune", str(folder / "model"), *data, "-o", str(tmp_path / "a"), "--macs", "0.8", *options]) == 0
    assert main(["prune", str(tmp_path / "a"), *data, "-o", str(tmp_path / "b"), "--macs", "0.7", *options]) == 0
    capsys.readouterr()
    first, second = (prunable_layers(load_pruned(tmp_path / name)) for name in "ab")
    for one, other in zip(first, second, strict=True):
        assert set(other.present) <= set(one.present)
    assert sum(len(layer.present) for layer in second) < sum(len(layer.present) for layer in first)


def test_the_page_shows_the_budget_and_the_command_that_led_to_it(made, tmp_path, capsys):
    options = ["--macs", "0.7", "--keep", "encoder.layer.0.*", "--seed", "3", "--recover", "least-squares+finetune",
               "--epochs", "1"]  # fmt: skip
    assert prune(made, tmp_path / "out", *options) == 0
    report = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in report["stages"]] == ["dense", "one-shot", "least-squares", "recovered"]
    whole = [layer for layer in report["plan"]["layers"] if ".layer.0." in f"{layer['name']}."]
    assert len(whole) == 2 and all(layer["after"] == layer["before"] for layer in whole)
    page = read(tmp_path / "out" / "report.html")
    assert "Under the budget" in [node.text() for node in page.all("h2")]
    assert {"loss_against_size", "units_left"} <= set(report["figures"])
    command = page.all("code")[0].text().replace("\\\n", "")
    parsed = build_parser().parse_args(shlex.split(command)[1:])
    assert budget_of(parsed) == Budget(macs=0.7, keep=["encoder.layer.0.*"], multiple_of=1)
    assert (parsed.seed, parsed.refine, parsed.calibration_examples, parsed.recover) == (3, 1, 48, options[-3])


def test_times_are_the_mean_over_the_lengths_of_the_data(made, tmp_path, capsys):
    options = ["--runtime", "torch", "--lengths", "data", "--latency-batch-size", "64"]
    options += ["--plan", str(made[0] / "plan"), "--no-figures"]
    assert prune(made, tmp_path / "out", "--speedup", "1.02", *options) == 0
    how = json.loads(capsys.readouterr().out)["plan"]["speed"]["how"]
    tokens = [int(number) for number in re.findall(r"\d+", how.partition("cpu, ")[2].partition(" tokens")[0])]
    assert len(tokens) > 1 and tokens == sorted(tokens) and max(tokens) < 32  # examples are short


def test_without_a_budget_nothing_has_changed(given, capsys):
    assert main(prune_arguments(given, "--num-heads", "6", "--epochs", "0", "--no-figures", "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["plan"] is None and report["recovery"]["method"] == "finetune" and report["num_heads"] == 6
