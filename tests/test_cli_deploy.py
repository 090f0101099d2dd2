import json

import pytest
from commands import prune_arguments

pytest.importorskip("onnxruntime")

from cahp_plugin.cli import main

MEASURE = ["--rounds", "3", "--warmup", "1"]


@pytest.fixture
def pruned(given):
    assert main(prune_arguments(given, "--num-heads", "6", "--epochs", "0", "--no-figures")) == 0
    return given


def test_export_quantize_and_benchmark(pruned, capsys):
    data = ["--eval", str(pruned / "eval.jsonl")]
    export = ["export", "-m", str(pruned / "pruned"), "-o", str(pruned / "onnx"), *data, "--quiet"]
    assert main([*export, "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert first["num_heads"] == 6 and first["fp32"]["num_examples"] == 30 and first["quantized"] is None
    static = ["--quantize", "static", "--calibration", str(pruned / "train.jsonl"), "--int8-examples", "8"]
    second = ["export", "-m", str(pruned / "onnx"), "-o", str(pruned / "int8"), *data, *static, "--quiet", "--json"]
    assert main(second) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["quantize"] == "static" and 0 <= report["agreement"] <= 1
    assert main(export) == 1
    assert "is not empty" in capsys.readouterr().err

    targets = [str(pruned / name) for name in ("model", "pruned", "onnx", "int8")]
    shapes = ["--batch-size", "1", "2", "--sequence-length", "4", "8", "-o", str(pruned / "latency")]
    assert main(["benchmark", *targets, *shapes, *MEASURE, "--no-memory", "--quiet", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["measurements"]) == 4 * 4
    assert {path.suffix for path in (pruned / "latency").iterdir()} == {".json", ".csv", ".md", ".png"}
    assert main(["benchmark", *targets, *shapes, "--quiet"]) == 1
    assert "is not empty" in capsys.readouterr().err


def test_unlabelled_calibration_data(pruned):
    (pruned / "plain.jsonl").write_text('{"text": "w1 w2 w3"}\n{"text": "w4 w5"}\n')
    arguments = ["export", "-m", str(pruned / "pruned"), "-o", str(pruned / "onnx"), "--quantize", "static"]
    assert main([*arguments, "--calibration", str(pruned / "plain.jsonl"), "--quiet"]) == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["export", "--quantize", "static"], "needs calibration data"),
        (["export", "--opset", "9"], "`opset` must be 14 to 20"),
        (["export", "--task", "text-generation-with-past"], "one head count for all layers"),
        (["export", "--calibration", "plain.jsonl", "--int8-examples", "0"], "`--int8-examples`"),
    ],
)
def test_mistakes_are_told_in_a_line(pruned, command, message, capsys):
    assert main([*command, "-m", str(pruned / "pruned"), "-o", str(pruned / "out"), "--quiet"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("cahp export: ") and message in captured.err and captured.out == ""
    assert not (pruned / "out").exists()


def test_benchmark_without_a_gpu_says_so(pruned, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    assert main(["benchmark", str(pruned / "pruned"), "--device", "cuda", "--quiet"]) == 1
    assert "`device` is cuda, but torch sees no CUDA device here" in capsys.readouterr().err


def test_deploy_makes_and_measures_everything(given, capsys):
    arguments = prune_arguments(given, "--num-heads", "6", "--epochs", "1", output="out")
    arguments[0] = "deploy"
    assert main([*arguments, "--sequence-length", "4", "16", *MEASURE, "--no-memory", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["exports"]) == ["dense", "dense-int8", "pruned-onnx", "pruned-int8"]
    assert [export["num_heads"] for export in report["exports"].values()] == [12, 12, 6, 6]
    assert {entry["target"] for entry in report["latency"]["measurements"]} == set(report["exports"])
    assert {entry["peak_mib"] for entry in report["latency"]["measurements"]} == {None}
    recovered = report["pruning"]["stages"][-1]
    assert report["exports"]["pruned-onnx"]["fp32"]["accuracy"] == recovered["accuracy"]
    out = given / "out"
    assert {path.name for path in out.iterdir()} == {
        *report["exports"], "pruned", "latency", "cahp_deploy.json", "cahp_deploy.md",
    }  # fmt: skip
    assert json.loads((out / "cahp_deploy.json").read_text()) == report
    table = (out / "cahp_deploy.md").read_text()
    assert table.startswith("| graph") and "ms at 16" in table and "partial" not in table
    assert len(list((out / "pruned" / "figures").glob("*.png"))) == 4
    assert not [path for path in given.rglob("*") if "partial" in path.name]
    assert "partial" not in (out / "pruned" / "cahp_report.json").read_text()


def test_deploy_meets_a_speed_with_int8_against_int8(given, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CAHP_CACHE", str(tmp_path / "cache"))
    options = ["--speedup", "1.1", "--latency-batch-size", "64", "--quantize", "dynamic", "--refine", "0"]
    arguments = prune_arguments(given, *options, output="out")
    arguments[0] = "deploy"
    small = ["--calibration-examples", "40", "--batch-size", "4", "--multiple-of", "1", "--no-figures", "--no-memory"]
    assert main([*arguments, *small, "--sequence-length", "32", *MEASURE, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    outcome = report["pruning"]["plan"]
    assert outcome["speed"]["how"].startswith("onnxruntime int8 on cpu, 32 tokens")
    assert outcome["macs"]["layers"] < 1 and outcome["budget"]["sequence_length"] == 32
    assert list(report["exports"]) == ["dense", "dense-int8", "pruned-onnx", "pruned-int8"]
    ratios = {entry["target"]: entry["ratio"] for entry in report["latency"]["measurements"]}
    table = (given / "out" / "cahp_deploy.md").read_text()
    for told, ratio in (
        ("pruned fp32 is", 1 / ratios["pruned-onnx"]),
        ("pruned int8", ratios["dense-int8"] / ratios["pruned-int8"]),
        ("Pruned int8 against dense fp32:", 1 / ratios["pruned-int8"]),
    ):
        assert f"{told} {ratio:.2f} times" in table


def test_deploy_under_a_budget_evaluates_the_graphs_on_what_is_held_out(given, capsys):
    arguments = prune_arguments(given, "--macs", "0.7", "--refine", "0", output="out")
    arguments[0] = "deploy"
    place = arguments.index("--eval")
    del arguments[place : place + 2]
    small = ["--calibration-examples", "40", "--batch-size", "4", "--multiple-of", "1", "--no-figures", "--no-memory"]
    assert main([*arguments, *small, "--sequence-length", "8", *MEASURE, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    train = (given / "train.jsonl").read_text().splitlines()
    dense, *_, repaired = report["pruning"]["stages"]
    assert dense["num_examples"] == repaired["num_examples"] == len(train) // 10
    for name, stage in (("dense", dense), ("pruned-onnx", repaired)):
        assert report["exports"][name]["fp32"]["accuracy"] == stage["accuracy"]
        assert report["exports"][name]["fp32"]["num_examples"] == stage["num_examples"]


def test_deploy_refuses_lengths_without_positions_before_it_prunes(given, capsys):
    arguments = prune_arguments(given, output="out")
    arguments[0] = "deploy"
    assert main([*arguments, "--sequence-length", "41"]) == 1
    captured = capsys.readouterr()
    assert "takes 40 tokens at most" in captured.err and not (given / "out").exists()
