"""Planners side by side: what is run, what is written of each model, and that it goes on where it was stopped."""

import json

import numpy as np
import pytest
import torch
from comparing import compare
from datasets import Dataset
from made import MADE
from pages import read
from tiny import tiny_model
from words import tiny_tokenizer, word_examples

from cahp_plugin.cli import main
from cahp_plugin.compare.packing import pack_halves, unpack_halves
from cahp_plugin.compare.rows import mean_interval
from cahp_plugin.compare.summary import Comparison
from cahp_plugin.config import RecoverySettings
from cahp_plugin.cost.layers import at_length, costs_of
from cahp_plugin.errors import CheckpointError, ConfigError
from cahp_plugin.plan.plan import Plan
from cahp_plugin.planners import PLANNERS
from cahp_plugin.units import prunable_layers
from cahp_plugin.workflow import compare_methods

RECOVERY = RecoverySettings("least-squares", calibration_examples=24, batch_size=4, epochs=1)


def planned(folder, **changes):
    settings = {"macs": [0.6], "heads": None, "methods": None, "recoveries": None, "recovery": RECOVERY} | changes
    return compare(folder, sequence_length=8, **settings)


@pytest.fixture(scope="module")
def all_planners(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planned") / "runs"
    return planned(folder, macs=[0.7, 0.1], seeds=[0, 1])


def test_every_planner_is_run_at_every_share(all_planners):
    keys = {run.key for run in all_planners.runs if run.method != "dense"}
    missed = {(name, round(100 * share)) for name, share, _ in all_planners.missed}
    assert ("heads", 10) in missed and missed <= {(name, size) for name in ("heads", "neurons") for size in (70, 10)}
    assert keys == {
        (name, size, seed, how)
        for name in PLANNERS for size in (70, 10) for seed in (0, 1) for how in ("least-squares", "own")
        if (name, size) not in missed and (how != "own" or name in ("kwon", "kprune"))
    }  # fmt: skip
    model = tiny_model()
    layers = prunable_layers(model)
    costs = [at_length(cost.macs, 8) for cost in costs_of(model, layers).layers]
    whole = sum(len(layer.units) * cost for layer, cost in zip(layers, costs, strict=True))
    for run in all_planners.runs[1:]:
        left = {"heads": {layer: len(heads) for layer, heads in run.kept.items()}, "neurons": run.neurons}
        spent = sum(left[layer.noun][str(layer.index)] * cost for layer, cost in zip(layers, costs, strict=True))
        assert spent <= run.macs * whole * (1 + 1e-9)
        assert sum(map(len, run.kept.values())) == run.num_heads and run.divergences().shape == (30,)


def test_divergences_are_those_of_the_outputs(all_planners, tmp_path):
    """Of a planner that only takes heads away by their norm: the same model, made by hand."""
    from cahp_plugin import CAHPImportance, CAHPPruner, KeptSet

    found = planned(tmp_path / "runs", macs=[0.7], planners=["magnitude"], recoveries=["none"], seeds=[0])
    (run,) = found.runs[1:]
    dense, model = tiny_model(), tiny_model()
    neurons = {}
    for layer in prunable_layers(dense):
        if layer.noun == "neurons":
            parts = [module.weight.square().sum(1) for module in layer.projections().values()]
            norms = torch.stack([*parts, layer.output.weight.square().sum(0)]).sum(0)
            neurons[layer.index] = tuple(sorted(norms.topk(run.neurons[str(layer.index)]).indices.tolist()))
    heads = {int(layer): tuple(kept) for layer, kept in run.kept.items()}
    tokenizer = tiny_tokenizer()
    texts = [row["text"] for row in word_examples(30)]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    CAHPPruner(model, dict(inputs), importance=CAHPImportance(KeptSet(heads=heads, neurons=neurons))).step()
    with torch.no_grad():
        p, q = (one.eval()(**inputs).logits.double().log_softmax(-1) for one in (dense, model))
    expected = (p.exp() * (p - q)).sum(-1).numpy()
    np.testing.assert_allclose(np.sort(run.divergences()), np.sort(expected), rtol=2e-3, atol=1e-6)


def test_the_same_call_goes_on_and_plans_are_read_back(tmp_path, monkeypatch):
    folder = tmp_path / "runs"
    chosen = {"planners": ["joint", "kwon"], "seeds": [0]}
    whole = planned(folder, **chosen)
    lines = (folder / "runs.jsonl").read_text().splitlines()
    assert [run.key for run in whole.runs[1:]] == [
        ("joint", 60, 0, "least-squares"), ("kwon", 60, 0, "least-squares"), ("kwon", 60, 0, "own"),
    ]  # fmt: skip
    assert isinstance(Plan.load(folder / "plans" / "obs-0"), Plan)
    (folder / "runs.jsonl").write_text("\n".join(lines[:2]) + "\n")

    def never(*args, **kwargs):
        raise AssertionError("a plan is made again")

    monkeypatch.setattr("cahp_plugin.workflow.planned.make_plan", never)
    again = planned(folder, **chosen)
    for one, other in zip(whole.runs, again.runs, strict=True):
        assert one.to_dict() | {"seconds": None} == other.to_dict() | {"seconds": None}
    with pytest.raises(CheckpointError, match="another set-up"):
        compare(folder, macs=[0.6], heads=None, methods=None, recoveries=None, recovery=RECOVERY)
    (folder / "plans" / "obs-0" / "cahp_plan.json").write_text("{}")
    (folder / "runs.jsonl").write_text(lines[0] + "\n")
    with pytest.raises(CheckpointError, match=r"cahp_plan\.json"):
        planned(folder, **chosen)


def test_rows_are_held_against_joint_also_those_of_own_repairs(all_planners):
    rows = {(row.method, row.size, row.recover): row for row in all_planners.rows()}
    joint = rows["joint", 70, "least-squares"]
    assert joint.difference is None and joint.farther is None and joint.reference == "joint"
    runs = {run.key: run for run in all_planners.runs}
    for name, how in (("kwon", "own"), ("random", "least-squares")):
        row = rows[name, 70, how]
        change = np.mean(
            [runs[name, 70, seed, how].divergences() - runs["joint", 70, seed, "least-squares"].divergences()
             for seed in (0, 1)], axis=0,
        )  # fmt: skip
        assert row.farther == pytest.approx((change.mean(), *mean_interval(change)))
        assert row.divergence == pytest.approx(joint.divergence + change.mean())
    text = str(all_planners)
    assert "against joint" in text and "heads at 10 % of the work: without any heads" in text
    assert "kept in each layer" not in text


def test_the_page_and_the_summary_show_it(all_planners):
    page = read(all_planners.output / "report.html").text()
    assert "planners are compared at 70 and 10 % of the work" in page
    assert "Difference from joint, by recovery" in page and "heads at 10 % of the work" in page
    assert "Where the heads stay" not in page
    again = Comparison.read(all_planners.output)
    assert again.planned and again.missed == all_planners.missed
    assert [row.cells() for row in again.rows()] == [row.cells() for row in all_planners.rows()]


def test_what_could_not_be_reached_is_kept_and_is_no_hole_of_a_check(tmp_path):
    chosen = {"macs": [0.1], "seeds": [0], "recoveries": ["least-squares"]}
    first = planned(tmp_path / "runs", planners=["joint", "heads"], **chosen)
    assert [entry[:2] for entry in first.missed] == [("heads", 0.1)]
    again = planned(tmp_path / "runs", planners=["joint"], **chosen)
    assert again.missed == first.missed == Comparison.read(tmp_path / "runs").missed
    check = planned(tmp_path / "new", planners=["joint", "heads"], check=tmp_path / "runs", **chosen).check
    assert {(row.method, row.at) for row in check.rows} == {("dense", "12 heads"), ("joint", "10 % of the work")}
    alone = planned(tmp_path / "none", planners=["heads", "heads"], **chosen)
    assert [run.method for run in alone.runs] == ["dense"] and "heads at 10 %" in str(alone)


def test_what_is_reached_now_and_was_not_before_is_told_by_a_check(tmp_path):
    chosen = {"planners": ["joint"], "macs": [0.6], "seeds": [0], "recoveries": ["least-squares"]}
    found = planned(tmp_path / "before", **chosen)
    runs, structure = (tmp_path / "before" / name for name in ("runs.jsonl", "structure.json"))
    runs.write_text(runs.read_text().splitlines()[0] + "\n")
    structure.write_text(json.dumps(json.loads(structure.read_text()) | {"missed": [["joint", 0.6, "too large"]]}))
    check = planned(tmp_path / "now", check=tmp_path / "before", **chosen).check
    assert [row.method for row in check.rows] == ["dense"] and not check.outside
    told = f"joint at 60 % of the work (least-squares): {100 * found.runs[1].score.value:.2f} %, out of reach in"
    assert str(check).splitlines()[-1] == check.to_dict()["reached"][0] == f"{told} {tmp_path / 'before'}."


def test_what_comes_twice_is_run_once(tmp_path):
    found = planned(tmp_path / "runs", planners=["joint", "joint"], macs=[0.6, 0.6], seeds=[0, 0])
    assert [run.key for run in found.runs[1:]] == [("joint", 60, 0, "least-squares")]
    assert len((tmp_path / "runs" / "runs.jsonl").read_text().splitlines()) == 2


def test_planners_that_have_no_meaning_are_told_and_the_others_run(tmp_path):
    model = tiny_model(num_labels=3, problem_type="multi_label_classification")
    data = Dataset.from_list([{"text": row["text"], "labels": [row["label"]]} for row in word_examples(60)])
    found = compare_methods(
        model, tiny_tokenizer(), data, data, output_dir=tmp_path / "runs", macs=[0.6], planners=["kprune", "joint"],
        seeds=[0], recovery=RECOVERY, sequence_length=8,
    )  # fmt: skip
    assert [run.method for run in found.runs] == ["dense", "joint"]
    assert found.missed[0][0] == "kprune" and "has no meaning for it" in found.missed[0][2]


def test_rows_of_several_examples_have_one_divergence(tmp_path):
    MADE["question-answering"].make(tmp_path)
    train, test = json.loads((tmp_path / "paths.json").read_text())[:2]
    arguments = ["compare", str(tmp_path / "model"), "--train", train, "--test", test, "--macs", "0.6", "--planners",
                 "joint,random", "--seeds", "0", "--calibration-examples", "24", "--batch-size", "4", "--max-length",
                 "20", "-o", str(tmp_path / "runs"), "--quiet"]  # fmt: skip
    assert main(arguments) == 0
    for run in Comparison.read(tmp_path / "runs").runs[1:]:
        assert run.divergences().shape == (run.num_examples,)


def test_halves_keep_three_digits():
    values = np.array([0.0, 1e-6, 0.012345, 3.25, 1e6])
    found = unpack_halves(pack_halves(values), 5)
    np.testing.assert_allclose(found[:4], values[:4], rtol=6e-4, atol=6e-8)
    assert np.isfinite(found).all()
    with pytest.raises(ValueError, match="differ in number"):
        unpack_halves(pack_halves(values), 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"planners": ["other"]}, "`planners` holds other; known are joint"),
        ({"macs": [1.5]}, r"`macs` must be a number in \(0, 1\]"),
        ({"macs": []}, "`macs` and `seeds` must hold at least one"),
        ({"heads": [2]}, "leave out `methods`, `heads` and `knee`"),
        ({"macs": None, "planners": ["joint"]}, r"name some, such as `--macs 0\.6 0\.4`"),
        ({"recoveries": ["magic"]}, "`recoveries` holds magic"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        planned(tmp_path / "runs", **changes)
    assert not (tmp_path / "runs").exists()


def test_from_the_command_line(tmp_path, capsys):
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    for name, count in (("train", 60), ("test", 30)):
        Dataset.from_list(word_examples(count)).to_json(tmp_path / f"{name}.jsonl")
    arguments = ["compare", str(tmp_path / "model"), "--train", str(tmp_path / "train.jsonl"), "--test",
                 str(tmp_path / "test.jsonl"), "--macs", "0.6", "--planners", "joint,neurons", "--seeds", "0",
                 "--sequence-length", "8", "--calibration-examples", "24", "--batch-size", "4",
                 "-o", str(tmp_path / "runs"), "--quiet", "--json"]  # fmt: skip
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in told["rows"]} == {"dense", "joint", "neurons"} and told["missed"] == []
    assert all(row["divergence"] >= 0 for row in told["rows"] if row["method"] != "dense")
