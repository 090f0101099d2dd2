"""Each task from the command line: prune, inspect, reload, export, quantize; torch and graph agree on the number."""

import json

import pytest
from made import MADE

from cahp_plugin import load_pruned
from cahp_plugin.cli import main
from cahp_plugin.data import load_examples
from cahp_plugin.export.runner import GraphRunner
from cahp_plugin.export.session import graph_files, open_sessions
from cahp_plugin.tasks import TASKS, encode, evaluate, task_of, with_targets
from cahp_plugin.units import attention_layers

_CONDITIONINGS = {
    "text-classification": "label",
    "multi-label-classification": "label",
    "token-classification": "label",
    "image-classification": "label",
}


def run(capsys, *arguments):
    """Runs a command, which has to work, and reads what it prints as JSON."""
    assert main([*map(str, arguments), "--quiet", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_each_task_has_a_row():
    assert set(MADE) == {name for name, task in TASKS.items() if name != "zero-shot-image-classification"}


@pytest.mark.parametrize("name", MADE)
def test_the_whole_way(name, tmp_path, capsys):
    made, pruned = MADE[name], tmp_path / "pruned"
    made.make(tmp_path)
    train, evaluation = json.loads((tmp_path / "paths.json").read_text())
    data = ["--train", train, "--eval", evaluation]

    report = run(capsys, "prune", tmp_path / "model", *data, "-o", pruned, "--num-heads", "0.75", "--recover",
                 "least-squares+finetune", "--epochs", "1", "--batch-size", "16", "--no-figures")  # fmt: skip
    assert report["task"] == name and report["reload_difference"] <= 1e-6
    assert report["config"]["conditioning"] == _CONDITIONINGS.get(name, "none")
    dense, last = report["stages"][0], report["stages"][-1]
    assert made.better(dense[made.metric], made.chance), dense
    assert [stage["num_examples"] for stage in report["stages"]] == [40] * 4
    for score in last["scores"]:
        assert score["interval"][0] <= score["value"] <= score["interval"][1]
        assert last[score["name"]] == score["value"]
    assert last["scores"][0]["name"] == made.metric
    assert last["heads"] < dense["heads"]

    inspection = run(capsys, "inspect", pruned)
    model = load_pruned(pruned)
    assert {str(layer.index): list(layer.heads) for layer in attention_layers(model)} == inspection["kept"]
    task = task_of(model)
    assert task.name == name
    processor = task.load_processor(str(pruned))
    examples = encode(load_examples(evaluation), model, processor)
    if task.needs_targets(examples):
        examples = with_targets(load_pruned(tmp_path / "model"), examples)
    found = evaluate(model, examples)
    assert found.score.value == pytest.approx(last[made.metric], abs=1e-6)

    exported = run(capsys, "export", "-m", pruned, "-o", tmp_path / "onnx", "--quantize", "dynamic", "--eval",
                   evaluation)  # fmt: skip
    assert exported["task"] == name and exported["quantized"]["num_examples"] == 40
    assert exported["divergence"] >= 0
    again = evaluate(GraphRunner(open_sessions(graph_files(tmp_path / "onnx")), model.config), examples)
    if name != "feature-extraction":  # whose graphs are held against the model that they are made of
        assert exported["fp32"][made.metric] == pytest.approx(found.score.value, abs=1e-4)
        assert exported["fp32"]["loss"] == pytest.approx(found.loss, abs=1e-4)
        assert again.loss == pytest.approx(exported["quantized"]["loss"], abs=1e-6)
    assert abs(again.loss - found.loss) < 0.3 * max(1, found.loss)


@pytest.mark.parametrize("name", ["token-classification", "text-generation", "text2text-generation"])
def test_ways_of_choosing_are_compared(name, tmp_path, capsys):
    made = MADE[name]
    made.make(tmp_path)
    train, evaluation = json.loads((tmp_path / "paths.json").read_text())
    found = run(capsys, "compare", tmp_path / "model", "--train", train, "--test", evaluation, "-o", tmp_path / "runs",
                "--heads", "0.5", "--seeds", "0")  # fmt: skip
    dense, *others = found["rows"]
    assert {row["metric"] for row in found["rows"]} == {made.metric} and len(others) == 8
    assert made.better(dense["mean"], made.chance)
    assert all(row["interval"][0] <= row["difference"] <= row["interval"][1] for row in others if row["interval"])
    assert made.metric.replace("_", " ") in (tmp_path / "runs" / "report.html").read_text()


def test_images_are_deployed(tmp_path, capsys):
    MADE["image-classification"].make(tmp_path)
    train, evaluation = json.loads((tmp_path / "paths.json").read_text())
    found = run(capsys, "deploy", tmp_path / "model", "--train", train, "--eval", evaluation, "-o", tmp_path / "out",
                "--num-heads", "0.5", "--recover", "least-squares", "--rounds", "2", "--warmup", "0", "--no-memory",
                "--no-figures")  # fmt: skip
    assert {name: export["quantized" if "int8" in name else "fp32"]["accuracy"] > 0.7
            for name, export in found["exports"].items()} == dict.fromkeys(
                ("dense", "dense-int8", "pruned-onnx", "pruned-int8"), True)  # fmt: skip
    assert {entry["sequence_length"] for entry in found["latency"]["measurements"]} == {5}  # four patches and a class
