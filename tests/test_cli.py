import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import prune_arguments
from datasets import Dataset
from words import word_examples

from cahp_plugin import load_pruned
from cahp_plugin.cli import main
from cahp_plugin.units import attention_layers


def test_prune_inspect_and_prune_again(given, capsys):
    arguments = ["--num-heads", "6", "--min-heads-per-layer", "0", "--epochs", "2", "--learning-rate", "1e-3"]
    assert main(prune_arguments(given, *arguments, "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_heads"] == 6 and report["reload_difference"] <= 1e-6
    assert [stage["name"] for stage in report["stages"]] == ["dense", "one-shot", "recovered"]
    assert [stage["heads"] for stage in report["stages"]] == [12, 6, 6]
    names = {path.name for path in (given / "pruned").iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "selection.json", "cahp_report.json"}
    assert len(list((given / "pruned" / "figures").glob("*.png"))) == 4
    assert not [path for path in given.rglob("*") if "partial" in path.name]

    assert main(["inspect", str(given / "pruned"), "--json"]) == 0
    inspection = json.loads(capsys.readouterr().out)
    model = load_pruned(given / "pruned")
    kept = {str(layer.index): list(layer.heads) for layer in attention_layers(model)}
    assert inspection["kept"] == kept == report["kept"]
    assert inspection["parameters"] == model.num_parameters() == report["stages"][2]["parameters"]
    assert main(["inspect", str(given / "pruned")]) == 0
    text = capsys.readouterr().out
    assert "6 of 12 heads kept (50.0 %)" in text and "recovered: accuracy" in text

    again = prune_arguments(given, "--num-heads", "3", "--epochs", "0", "--no-figures", "--json", output="twice")
    again[1] = str(given / "pruned")
    assert main(again) == 0
    report = json.loads(capsys.readouterr().out)
    assert [stage["heads"] for stage in report["stages"]] == [6, 3]
    assert all(set(heads) <= set(kept[layer]) for layer, heads in report["kept"].items())


@pytest.mark.parametrize(
    ("method", "stages"),
    [
        ("none", []),
        ("bias", ["bias"]),
        ("least-squares", ["least-squares"]),
        ("least-squares+finetune", ["least-squares", "recovered"]),
    ],
)
def test_ways_of_recovery(given, capsys, method, stages):
    arguments = ["--num-heads", "6", "--recover", method, "--epochs", "1", "--no-figures", "--json"]
    assert main(prune_arguments(given, *arguments)) == 0
    report = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in report["stages"]] == ["dense", "one-shot", *stages]
    losses = [stage["loss"] for stage in report["stages"]]
    assert len(set(losses)) == len(losses)  # each step changed the model


def test_the_text_report_says_what_was_done(given, capsys):
    assert main(prune_arguments(given, "--epochs", "0")) == 0
    text = capsys.readouterr().out
    for words in ("HeadSelection: keeps", "one-shot", "select heads", "reloaded copy differs by 0.0e+00", "Figure:"):
        assert words in text
    assert "recovered" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--polynomial-degree", "11"], "`polynomial_degree` must be a whole number from 1 to 10"),
        (["--epochs", "-1"], "`epochs` must be a number in [0, 1e+06]"),
        (["--calibration-examples", "1"], "`calibration_examples` must be a whole number from 4"),
        (["--learning-rate", "0"], "`learning_rate` must be a number in (0, 1000]"),
        (["--text-columns", "body"], "Missing column body; the columns are text, label"),
        (["--label-column", "stars"], "Missing column stars; the columns are text, label"),
        (["--train", "nothing.csv"], "There is no file or folder nothing.csv"),
        (["--max-length", "100"], "the model takes at most 40 tokens"),
        (["--num-heads", "13"], "asks for 13 heads; the model has 12"),
    ],
)
def test_mistakes_are_told_in_a_line_and_nothing_is_written(change, message, given, capsys):
    assert main(prune_arguments(given, *change)) == 1
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.startswith("cahp prune: ") and captured.out == ""
    assert not (given / "pruned").exists()


def test_a_full_output_folder_is_told_before_the_work(given, capsys):
    (given / "pruned").mkdir()
    (given / "pruned" / "precious").write_text("mine")
    arguments = prune_arguments(given, "--epochs", "0", "--no-figures")
    arguments[1] = "no/such/model"  # never looked at
    assert main(arguments) == 1
    assert "is not empty" in capsys.readouterr().err
    arguments[1] = str(given / "model")
    assert main([*arguments, "--overwrite"]) == 0
    assert not (given / "pruned" / "precious").exists()


def test_missing_models_and_wrong_folders(given, capsys):
    arguments = prune_arguments(given)
    arguments[1] = str(given / "nowhere")
    assert main(arguments) == 1
    assert "nowhere" in capsys.readouterr().err
    for folder, message in (
        ("nowhere", "There is no config.json"),
        ("model", "not a checkpoint that cahp-plugin pruned"),
    ):
        assert main(["inspect", str(given / folder)]) == 1
        assert message in capsys.readouterr().err


def test_demo_wants_model_and_data_together(given, capsys):
    assert main(["demo", "--model", str(given / "model")]) == 1
    assert "go together" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [("--task", "text-regression"), ("--metric", "accuracy"), ("--text-columns", "text"), ("--label-column", "label"),
     ("--max-length", "32"), ("--device", "cpu"), ("--certify", "rows.jsonl"), ("--confidence", "0.9"),
     ("--group-column", "text"), ("--train-split", "train"), ("--eval-split", "test"), ("--certify-split", "test")],
)  # fmt: skip
def test_demo_refuses_what_its_own_model_has_no_use_for(option, value, tmp_path, capsys):
    assert main(["demo", option, value, "-o", str(tmp_path / "demo")]) == 1
    told = f"`{option}` is for a model of your own: name it with `--model`, and its data with `--train`."
    assert told in capsys.readouterr().err and not (tmp_path / "demo").exists()


def test_demo_takes_the_users_model_and_data(given, capsys):
    arguments = prune_arguments(given, "--epochs", "0", "--no-figures")
    assert main(["demo", "--model", *arguments[1:]]) == 0
    assert "one-shot" in capsys.readouterr().out


def test_other_columns_and_pairs(given, capsys):
    rows = [{"a": row["text"], "b": "w1 w2", "stars": f"LABEL_{row['label']}"} for row in word_examples(60)]
    for name in ("train", "eval"):
        Dataset.from_list(rows).to_csv(given / f"{name}.csv", index=False)
    arguments = prune_arguments(given, "--epochs", "0", "--no-figures", "--text-columns", "a", "b")
    arguments = [argument.replace(".jsonl", ".csv") for argument in arguments]
    assert main([*arguments, "--label-column", "stars"]) == 0


def test_help_is_quick_and_complete():
    for command in ([], ["prune"], ["demo"], ["inspect"], ["export"], ["benchmark"], ["deploy"], ["report"]):
        start = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-c", "from cahp_plugin.cli import main; main()", *command, "--help"],
            capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
            env=os.environ | {"COLUMNS": "100"},
        )  # fmt: skip
        assert time.perf_counter() - start < 20  # a hang, not a benchmark
        if command == ["prune"]:
            for option in ("--polynomial-degree", "--num-heads", "--min-heads-per-layer", "--epochs", "--json"):
                assert option in run.stdout
