"""Certificates from the command line: given, refused, spent, voided by other weights; of fp32 models and of graphs."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from made import MADE
from pages import read

from cahp_plugin import Budget, load_pruned, prune_model, save_pruned
from cahp_plugin.cli import main
from cahp_plugin.cli.inspect import inspect_folder
from cahp_plugin.config import PlanSettings, RecoverySettings
from cahp_plugin.data import load_examples
from cahp_plugin.errors import ConfigError
from cahp_plugin.plan.certificate import fewest, refuted
from cahp_plugin.prune.certificate import read_certificate, trouble
from cahp_plugin.workflow import load_model

SMALL = ["--calibration-examples", "48", "--batch-size", "8", "--multiple-of", "1", "--refine", "0", "--quiet"]
HELD = 400


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trained classifier, its data, 400 further rows in order of their classes, and a plan."""
    folder = tmp_path_factory.mktemp("made")
    MADE["text-classification"].make(folder)
    paths = json.loads((folder / "paths.json").read_text())
    rows = sorted(MADE["text-classification"].rows(random.Random(7), HELD), key=lambda row: row["label"])
    held = write(folder / "held.jsonl", [row | {"source": index // 4} for index, row in enumerate(rows)])
    options = ["--calibration-examples", "48", "--batch-size", "8", "--no-figures", "--quiet"]
    assert main(["plan", str(folder / "model"), "--train", paths[0], "-o", str(folder / "plan"), *options]) == 0
    return folder, *paths, held


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CAHP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def prune(made, output, *options, held=None, figures=False):
    folder, train, evaluation, own = made
    shown = [] if figures else ["--no-figures"]
    return main(["prune", str(folder / "model"), "--train", train, "--eval", evaluation, "--plan",
                 str(folder / "plan"), "--certify", str(held or own), "-o", str(output), *SMALL, *shown,
                 *options])  # fmt: skip


@pytest.fixture(scope="module")
def certified(made, tmp_path_factory):
    """A folder with a model of which a loss of at most 10 points is certified."""
    folder = tmp_path_factory.mktemp("certified")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAHP_CACHE", str(folder / "cache"))
        assert prune(made, folder / "out", "--max-drop", "10", figures=True) == 0
    return folder / "out"


def scores(model, made, path):
    """Whether a model is right for each row, worked out by hand."""
    rows = rows_of(path)
    tokenizer = load_model(str(made[0] / "model"))[1]
    inputs = tokenizer([row["premise"] for row in rows], [row["hypothesis"] for row in rows], padding=True,
                       return_tensors="pt")  # fmt: skip
    with torch.inference_mode():
        found = model.eval()(**inputs).logits.argmax(-1)
    return np.array([model.config.label2id.get(row["label"], "abc".index(row["label"])) for row in rows]) == (
        found.numpy()
    )


def test_what_is_certified_is_what_lies_there(made, certified):
    report = json.loads((certified / "cahp_report.json").read_text())
    found = report["certificate"]
    dense, pruned = load_model(str(made[0] / "model"))[0], load_pruned(certified)
    losses = scores(dense, made, made[3]).astype(float) - scores(pruned, made, made[3])
    assert found["certified"] and found["drop"] == 10 and found["confidence"] == 0.95 and found["metric"] == "accuracy"
    assert found["examples"] == HELD and found["dropped"] == 0 and found["groups"] is None
    assert found["differing"] == np.count_nonzero(losses)
    assert found["observed"] == pytest.approx(100 * losses.mean())
    assert refuted(np.random.default_rng(0).permutation(losses), 0.1, 0.95)
    assert found["share"] == report["plan"]["macs"]["layers"] < 1
    config = json.loads((certified / "config.json").read_text())
    assert config["cahp_certificate"] == found and len(found["weights"]) == 64 and found["precision"] == "fp32"
    card = (certified / "README.md").read_text()
    assert card.index("## Certificate") < card.index("## Use") and "Certified: at most 10 points of accuracy" in card
    assert "Certified: at most 10 points of accuracy" in read(certified / "report.html").text()


def test_inspect_shows_it(certified, capsys):
    assert main(["inspect", str(certified)]) == 0
    text = capsys.readouterr().out
    assert "Certified: at most 10 points of accuracy lost, with 95 % confidence" in text and "VOID" not in text
    assert f"Tested on {HELD} examples" in text
    assert main(["inspect", str(certified), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["certificate"]["certified"] and found["certified"][0].startswith("Certified")


def test_other_weights_void_it(certified, tmp_path, capsys, caplog):
    """Trained on and saved by transformers, its config still has the certificate."""
    model = load_pruned(certified)
    same = save_pruned(model, tmp_path / "same")
    assert read_certificate(same) == read_certificate(certified) and trouble(same) is None
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    model.save_pretrained(tmp_path / "trained")
    assert main(["inspect", str(tmp_path / "trained")]) == 0
    assert "VOID: it is of other weights" in capsys.readouterr().out
    with caplog.at_level("WARNING"):
        again = load_pruned(tmp_path / "trained")
        assert "VOID" in caplog.text
        caplog.clear()
        save_pruned(again, tmp_path / "left")
    assert "VOID" in caplog.text and "It is left out" in caplog.text
    assert read_certificate(tmp_path / "left") is None
    assert not inspect_folder(tmp_path / "left").certified


@pytest.mark.parametrize("change", [{"drop": "none"}, {"examples": -3}, None])
def test_a_certificate_that_was_tampered_with_is_told(certified, tmp_path, capsys, change):
    save_pruned(load_pruned(certified), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config["cahp_certificate"] = config["cahp_certificate"] | change if change else [1, 2]
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    assert main(["inspect", str(tmp_path / "out")]) == 0
    assert "can't be relied on" in capsys.readouterr().out
    load_pruned(tmp_path / "out")


def test_the_same_examples_again_are_told(made, tmp_path, capsys, cache):
    """The same command is not a second use, another limit is, and a broken registry costs no more than a warning."""
    for name, options, used in (("a", ["10"], 0), ("b", ["10"], 0), ("c", ["12"], 1), ("d", ["9"], 2)):
        assert prune(made, tmp_path / name, "--json", "--max-drop", *options) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["certificate"]["used_before"] == used
        assert (f"used for {used} other certificate" in err) == (used > 0)
    text = "\n".join(inspect_folder(tmp_path / "d").certified)
    assert "used for 2 other certificates before" in text and "nor for a choice among them" in text
    (cache / "certificates.jsonl").write_text("{broken\n")
    assert prune(made, tmp_path / "e", "--json", "--max-drop", "10") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["certificate"]["certified"] and "can't be read or written" in err


def test_groups_count_as_one(made, tmp_path, capsys):
    assert prune(made, tmp_path / "out", "--max-drop", "20", "--group-column", "source", "--json") == 0
    found = json.loads(capsys.readouterr().out)["certificate"]
    assert found["groups"] == HELD // 4 and found["examples"] == HELD and found["differing"] <= HELD // 4
    assert f"{HELD} examples in {HELD // 4} groups" in " ".join(inspect_folder(tmp_path / "out").certified)


def test_a_walk_ends_at_the_first_that_fails(made, tmp_path, capsys, monkeypatch):
    """Which models pass is decided here: all of 95 to 80 % of the work, or none."""
    from cahp_plugin.workflow import certify

    count = 0

    def passing(losses, drop, confidence):
        nonlocal count
        count += 1
        return count <= passes or count > passes + 1

    monkeypatch.setattr(certify, "refuted", passing)
    passes = 4
    assert prune(made, tmp_path / "out", "--max-drop", "40", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    found, drops = report["certificate"], report["plan"]["drops"]
    assert drops[-1]["macs"] == 0.8 and found["share"] <= 0.8 and found["stopped"] == 0.75 and found["certified"]
    assert found["bound"] == 40  # it was chosen among several: no more than what all were tested for
    assert "75 % of the layers' work, was not certified" in " ".join(inspect_folder(tmp_path / "out").certified)
    count, passes = 0, 0
    assert prune(made, tmp_path / "none", "--max-drop", "40") == 1
    told = capsys.readouterr().err
    assert "The largest smaller model, with 95 % of the layers' work, can't be certified to lose at most 40" in told
    assert "What can be certified of it at 95 %: that at most" in told and "examples like these would do" in told
    assert not (tmp_path / "none").exists()


def test_what_is_trained_afterwards_is_tested_once(made, tmp_path, capsys, monkeypatch):
    from cahp_plugin.workflow import certify

    tested = []
    monkeypatch.setattr(certify, "refuted", lambda *given: tested.append(given) or len(tested) > 1)
    options = ["--max-drop", "10", "--recover", "least-squares+finetune", "--epochs", "1", "--json"]
    assert prune(made, tmp_path / "out", *options) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)["certificate"]
    assert len(tested) == 1 and not found["certified"] and "NOT certified: at most 10 points" in err
    assert found["bound"] is not None and (tmp_path / "out" / "model.safetensors").exists()
    told = " ".join(inspect_folder(tmp_path / "out").certified)
    assert "What can be certified, at the same confidence: at most" in told and "NOT certified" in told


def overlapping(made, path, count):
    rows = rows_of(made[3])
    seen = [*rows_of(made[1])[: count // 2], *rows_of(made[2])[: count - count // 2]]
    # Another label does not make it another input.
    return write(path, [*rows[: HELD - count], *(row | {"source": 0, "label": "a"} for row in seen)])


def test_a_few_examples_that_were_seen_are_dropped(made, tmp_path, capsys):
    held = overlapping(made, tmp_path / "held.jsonl", 4)
    assert prune(made, tmp_path / "out", "--max-drop", "10", "--json", held=held) == 0
    found = json.loads(capsys.readouterr().out)["certificate"]
    assert found["dropped"] == 4 and found["examples"] == HELD - 4
    assert "4 more are in --train or --eval and were left out" in " ".join(inspect_folder(tmp_path / "out").certified)


def bad(made, folder):
    rows = rows_of(made[3])
    return {
        "overlap": overlapping(made, folder / "overlap.jsonl", 6),
        "few": write(folder / "few.jsonl", rows[:20]),
        "bare": write(folder / "bare.jsonl", [{k: v for k, v in row.items() if k != "label"} for row in rows]),
        "held": made[3],
        "missing": str(folder / "missing.jsonl"),
    }


@pytest.mark.parametrize(
    ("held", "options", "told"),
    [
        ("overlap", ["--max-drop", "10"], "6 of the 400 examples to certify on are in the training or the evaluation"),
        ("few", ["--max-drop", "10"], f"20 examples are too few to certify a drop of 10 points at 95 %: at least "
                                      f"{fewest(0.1, 0.95)} are needed"),
        ("held", ["--max-drop", "1", "--group-column", "source"], "100 groups of examples are too few"),
        ("held", ["--max-drop", "1e-7"], "no million does"),
        ("bare", ["--max-drop", "10"], "label"),
        ("missing", ["--max-drop", "10"], "There is no file or folder"),
        ("held", ["--max-drop", "10", "--group-column", "topic"], "`group_column` is 'topic'; the data to certify on"),
        ("held", ["--macs", "0.5"], "`certify` is for a drop: give `max_drop`"),
        ("held", [], "`certify` is for a drop: give `max_drop`"),
        ("held", ["--max-drop", "0"], "give a `max_drop` above 0"),
        ("held", ["--max-drop", "10", "--confidence", "1"], "`confidence` must be a number in (0.5, 1); got 1.0"),
        ("held", ["--max-drop", "10", "--metric", "test_cli_budgets:same_as_dense"], "`metric` may be accuracy"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_line_before_any_work(made, tmp_path, capsys, monkeypatch, held, options, told):
    monkeypatch.setattr("cahp_plugin.workflow.prune.choose_under", None)  # not called
    folder, train, evaluation, _ = made
    command = ["prune", str(folder / "model"), "--train", train, "--eval", evaluation, "-o", str(tmp_path / "out"),
               "--certify", bad(made, tmp_path)[held], *(SMALL if options else SMALL[-1:])]  # fmt: skip
    assert main([*command, *options]) == 1
    err = capsys.readouterr().err
    assert told in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_options_without_a_set_to_certify_on(made, tmp_path, capsys):
    folder, train, _, _ = made
    command = ["prune", str(folder / "model"), "--train", train, "-o", str(tmp_path / "out"), "--max-drop", "1"]
    assert main([*command, "--confidence", "0.9", "--group-column", "source"]) == 1
    assert "`confidence` and `group_column` given without `certify`" in capsys.readouterr().err


def test_a_number_that_is_no_mean_is_refused(tmp_path):
    MADE["token-classification"].make(tmp_path)
    train, evaluation = json.loads((tmp_path / "paths.json").read_text())
    with pytest.raises(ConfigError, match="which f1_entities is not: token-classification has no such number"):
        prune_model(
            *load_model(str(tmp_path / "model")), load_examples(train), load_examples(evaluation),
            budget=Budget(max_drop=5.0), certify=load_examples(evaluation), planning=PlanSettings(refine=0),
            recovery=RecoverySettings("least-squares"),
        )  # fmt: skip


def test_an_exported_graph_has_none_and_says_so(certified, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    assert main(["export", "-m", str(certified), "-o", str(tmp_path / "onnx"), "--quiet"]) == 0
    assert "what is exported of it carries none" in capsys.readouterr().err
    assert read_certificate(tmp_path / "onnx") is None
    assert not inspect_folder(tmp_path / "onnx").certified


def test_deploy_certifies_the_int8_graph(made, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    folder, train, evaluation, held = made
    command = ["deploy", str(folder / "model"), "--train", train, "--eval", evaluation, "--plan", str(folder / "plan"),
               "--certify", held, "--max-drop", "15", "-o", str(tmp_path / "out"), *SMALL, "--no-memory", "--rounds",
               "3", "--warmup", "1", "--sequence-length", "16", "--json"]  # fmt: skip
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)["pruning"]["certificate"]
    assert found["precision"] == "int8 graph" and found["certified"] and found["examples"] == HELD
    out = tmp_path / "out"
    assert trouble(out / "pruned-int8") is None and read_certificate(out / "pruned-int8").to_dict() == found
    assert "Certified: at most 15 points" in (out / "pruned-int8" / "README.md").read_text()
    for name in ("pruned", "pruned-onnx"):
        assert read_certificate(out / name).to_dict() == found
        told = "\n".join(inspect_folder(out / name).certified)
        assert "Not these weights were certified, but the int8 graph" in told
        assert "Not these weights were certified" in (out / name / "README.md").read_text()
    assert main(["inspect", str(out / "pruned-int8")]) == 0
    assert "It is of the int8 graph alone" in capsys.readouterr().out
    assert json.loads((out / "pruned" / "cahp_report.json").read_text())["certificate"] == found
    assert main(["report", str(out), "-o", str(tmp_path / "page.html")]) == 0
    assert "Certified: at most 15 points" in read(tmp_path / "page.html").text()
    graph = next((out / "pruned-int8").glob("*.onnx"))
    graph.write_bytes(graph.read_bytes() + b"\0")
    assert "VOID" in "\n".join(inspect_folder(out / "pruned-int8").certified)


def test_deploy_writes_nothing_where_the_int8_graph_fails_after_the_walk(made, tmp_path, capsys, monkeypatch):
    """Which models pass is decided here: 95 and 90 % of the work, and no graph after these."""
    pytest.importorskip("onnxruntime")
    from cahp_plugin.workflow import certify

    tested = []
    monkeypatch.setattr(certify, "refuted", lambda *given: tested.append(given) or len(tested) <= 2)
    folder, train, evaluation, held = made
    command = ["deploy", str(folder / "model"), "--train", train, "--eval", evaluation, "--plan", str(folder / "plan"),
               "--certify", held, "--max-drop", "40", "-o", str(tmp_path / "out"), *SMALL, "--no-memory", "--rounds",
               "2", "--warmup", "0", "--sequence-length", "16", "--no-figures"]  # fmt: skip
    assert main(command) == 1
    assert "not the one that was certified: NOT certified: at most 40 points" in capsys.readouterr().err
    assert len(tested) == 4 and not (tmp_path / "out").exists()


def test_equal_inputs_count_once(made, tmp_path, capsys):
    rows = rows_of(made[3])
    held = write(tmp_path / "held.jsonl", [*rows[:200], *rows[:200]])
    assert prune(made, tmp_path / "out", "--max-drop", "20", "--json", held=held) == 0
    found = json.loads(capsys.readouterr().out)["certificate"]
    different = len({(row["premise"], row["hypothesis"]) for row in rows[:200]})
    assert found["examples"] == 400 and found["groups"] == different <= 200
    few = write(tmp_path / "few.jsonl", rows[:20] * 20)
    assert prune(made, tmp_path / "none", "--max-drop", "10", held=few) == 1
    assert "are too few to certify" in capsys.readouterr().err


def test_most_of_the_examples_or_another_plan_are_a_second_use(made, tmp_path, capsys):
    folder, train, _, held = made
    fewer = write(tmp_path / "held.jsonl", rows_of(held)[1:])
    assert main(["plan", str(folder / "model"), "--train", train, "-o", str(tmp_path / "plan"), "--order", "magnitude",
                 "--calibration-examples", "48", "--batch-size", "8", "--no-figures", "--quiet"]) == 0  # fmt: skip
    options = ["--max-drop", "15", "--json"]
    capsys.readouterr()
    for name, used, given, more in (("a", 0, held, []), ("b", 1, fewer, []),
                                    ("c", 2, held, ["--plan", str(tmp_path / "plan")])):  # fmt: skip
        assert prune(made, tmp_path / name, *options, *more, held=given) == 0
        assert json.loads(capsys.readouterr().out)["certificate"]["used_before"] == used, name


def test_another_config_voids_it(certified, tmp_path):
    save_pruned(load_pruned(certified), tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text())
    assert trouble(tmp_path / "out") is None
    path.write_text(json.dumps(config | {"transformers_version": "0"}))
    assert trouble(tmp_path / "out") is None
    path.write_text(json.dumps(config | {"hidden_act": "relu"}))
    assert "VOID" in trouble(tmp_path / "out")


def test_a_model_in_half_precision_is_tested_as_it_is_written(made, tmp_path, monkeypatch):
    from cahp_plugin.workflow import certify

    tested = []
    monkeypatch.setattr(certify, "refuted", lambda losses, *given: tested.append(losses) or refuted(losses, *given))
    folder, train, evaluation, held = made
    model, processor = load_model(str(folder / "model"))
    report = prune_model(
        model.to(torch.bfloat16), processor, load_examples(train), load_examples(evaluation),
        budget=Budget(max_drop=15.0, multiple_of=1), certify=load_examples(held), output_dir=tmp_path / "out",
        planning=PlanSettings(refine=0), figures=False,
        recovery=RecoverySettings("least-squares", calibration_examples=48, batch_size=8),
    )  # fmt: skip
    assert report.certificate.certified and report.certificate.precision == "bfloat16"
    passed = [losses for losses in tested[:-1] if refuted(losses, 0.15, 0.95)]
    np.testing.assert_array_equal(passed[-1], tested[-1])
    assert next(load_pruned(tmp_path / "out", dtype="auto").parameters()).dtype == torch.bfloat16
