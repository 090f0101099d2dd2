"""Every task under a budget, from the command line: plan, prune, reload; nothing of it needs labels."""

import json
from pathlib import Path

import pytest
from made import MADE

from cahp_plugin import load_pruned
from cahp_plugin.cli import main
from cahp_plugin.plan.plan import PLAN_NAME
from cahp_plugin.units import prunable_layers

SMALL = ["--calibration-examples", "48", "--batch-size", "8", "--multiple-of", "1"]
#: Label columns of rows whose task needs none to look at outputs.
LABELS = ("label", "labels", "ner_tags", "answers", "score")
UNLABELLED = ("text-classification", "multi-label-classification", "token-classification", "question-answering",
              "regression", "image-classification")  # fmt: skip


def run(capsys, *arguments, status=0):
    assert main([*map(str, arguments), "--quiet", "--json"]) == status
    out = capsys.readouterr()
    return json.loads(out.out) if status == 0 else out.err


def without_labels(path, folder):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    bare = folder / "bare.jsonl"
    bare.write_text("".join(json.dumps({k: v for k, v in row.items() if k not in LABELS}) + "\n" for row in rows))
    return bare


@pytest.mark.parametrize("name", MADE)
def test_each_task_meets_a_budget(name, tmp_path, capsys):
    made = MADE[name]
    made.make(tmp_path)
    train, evaluation = json.loads((tmp_path / "paths.json").read_text())
    model = tmp_path / "model"
    if name in UNLABELLED and train.endswith(".jsonl"):
        train = without_labels(Path(train), tmp_path)
    plan = run(capsys, "plan", model, "--train", train, "-o", tmp_path / "plan", *SMALL)
    assert plan["format"] == 1 and (tmp_path / "plan" / PLAN_NAME).exists()
    assert {str(file.relative_to(tmp_path / "plan")) for file in (tmp_path / "plan").rglob("*.*")} == {
        PLAN_NAME, "figures/loss_against_size.png"
    }  # fmt: skip

    report = run(capsys, "prune", model, "--train", train, "--eval", evaluation, "--plan", tmp_path / "plan",
                 "--macs", "0.7", "--refine", "2", "-o", tmp_path / "pruned", *SMALL)  # fmt: skip
    outcome = report["plan"]
    assert outcome["macs"]["layers"] <= 0.7 and outcome["divergence"] > -1e-6 and report["reload_difference"] <= 1e-6
    stages = report["stages"]
    assert [stage["name"] for stage in stages] == ["dense", "one-shot", "least-squares"]
    assert made.better(stages[0][made.metric], made.chance)
    for key in ("heads", "neurons", "parameters"):
        assert stages[1][key] == stages[2][key] <= stages[0][key]
    pruned = load_pruned(tmp_path / "pruned")
    left = {(layer.noun, layer.index): len(layer.present) for layer in prunable_layers(pruned)}
    assert left == {(layer["kind"], layer["index"]): layer["after"] for layer in outcome["layers"]}
    assert sum(parameter.numel() for parameter in pruned.parameters()) == outcome["parameters"]["after"]
    inspection = run(capsys, "inspect", tmp_path / "pruned")
    assert inspection and (tmp_path / "pruned" / "report.html").exists()
    assert "chosen under a budget" in (tmp_path / "pruned" / "README.md").read_text()
    # The plan is of this model: of another it is refused.
    again = [tmp_path / "pruned", "--train", train, "--plan", tmp_path / "plan", "-o", tmp_path / "again", *SMALL]
    told = run(capsys, "prune", *again, "--macs", "0.7", status=1)
    assert "The plan is of another model" in told and not (tmp_path / "again").exists()
