import json

import numpy as np
import pytest
from datasets import Dataset
from tiny import tiny_model
from words import tiny_tokenizer, word_examples

from cahp_plugin.cli import main
from cahp_plugin.compare import compare_methods
from cahp_plugin.compare.methods import METHODS
from cahp_plugin.compare.rows import bootstrap_interval
from cahp_plugin.compare.runs import Run, pack
from cahp_plugin.compare.summary import Comparison
from cahp_plugin.errors import CheckpointError, ConfigError, SelectionError
from cahp_plugin.recover import RecoverySettings, evaluate_classifier


def compare(folder, **changes):
    train, test = (Dataset.from_list(word_examples(count)) for count in (60, 30))
    settings = {"heads": [6, 0.25], "seeds": [0, 1], "methods": ["cahp", "random"], "recoveries": ["none"]} | changes
    model = settings.pop("model", None) or tiny_model()
    return compare_methods(model, tiny_tokenizer(), train, test, output_dir=folder, **settings)


def test_every_method_at_every_count_with_every_recovery(tmp_path):
    found = compare(
        tmp_path / "runs", methods=list(METHODS), recoveries=["none", "least-squares", "finetune"], seeds=[0],
        recovery=RecoverySettings(epochs=1),
    )  # fmt: skip
    assert len(found.runs) == 1 + len(METHODS) * 2 * 3
    for run in found.runs:
        assert sum(map(len, run.kept.values())) == run.num_heads
        assert run.hits().mean() == pytest.approx(run.accuracy) and len(run.hits()) == 30
    by = {run.key: run for run in found.runs}
    for method in METHODS:
        one_shot, repaired, trained = (by[method, 6, 0, how] for how in ("none", "least-squares", "finetune"))
        assert one_shot.kept == repaired.kept == trained.kept
        assert len({one_shot.loss, repaired.loss, trained.loss}) == 3


def test_it_goes_on_where_it_was_stopped(tmp_path):
    first = compare(tmp_path / "runs", seeds=[0])
    lines = (tmp_path / "runs" / "runs.jsonl").read_text().splitlines()
    (tmp_path / "runs" / "runs.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])  # a kill
    second = compare(tmp_path / "runs", seeds=[0])
    again = (tmp_path / "runs" / "runs.jsonl").read_text().splitlines()
    assert again[: len(lines) - 1] == lines[:-1] and len(again) == len(lines)

    def values(run):
        return [getattr(run, name) for name in ("key", "accuracy", "loss", "correct", "kept", "parameters")]

    assert [values(run) for run in first.runs] == [values(run) for run in second.runs]
    third = compare(tmp_path / "runs", seeds=[0, 1])
    assert len(third.runs) == 2 * len(first.runs) - 1
    assert (tmp_path / "runs" / "runs.jsonl").read_text().splitlines()[: len(again)] == again


def test_another_set_up_is_refused(tmp_path):
    compare(tmp_path / "runs", seeds=[0])
    with pytest.raises(CheckpointError, match=r"another set-up \(model: '\w+', now '\w+'\)"):
        compare(tmp_path / "runs", seeds=[0], model=tiny_model(seed=1))
    with pytest.raises(CheckpointError, match=r"another set-up \(recovery"):
        compare(tmp_path / "runs", seeds=[0], recovery=RecoverySettings(epochs=7))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="holds no comparison"):
        compare(tmp_path / "other")


def test_the_model_stays_as_it_was(tmp_path):
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compare(tmp_path / "runs", model=model, recoveries=["least-squares"], seeds=[0])
    assert all((value == before[name]).all() for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"methods": ["cahp", "magic"]}, ConfigError, "`methods` holds magic; known are cahp, medoid"),
        ({"methods": []}, ConfigError, "`methods` holds nothing"),
        ({"recoveries": ["prayer"]}, ConfigError, "`recoveries` holds prayer; known are none, bias"),
        ({"heads": [2]}, SelectionError, "`min_heads_per_layer` takes 3"),
        ({"heads": [13]}, SelectionError, "asks for 13 heads"),
        ({"heads": []}, ConfigError, "at least one number each"),
        ({"seeds": []}, ConfigError, "at least one number each"),
    ],
)
def test_bad_settings_before_any_work(changes, error, message, tmp_path):
    with pytest.raises(error, match=message):
        compare(tmp_path / "runs", **changes)
    assert not (tmp_path / "runs").exists()


def made_up(method, seed, hits):
    return Run(method, 6, seed, "none", float(np.mean(hits)), 1.0, pack(hits), len(hits), {}, 0, {})


def test_differences_are_paired_over_examples():
    generator = np.random.default_rng(0)
    hits = generator.random(400) < 0.5
    better = hits | (generator.random(400) < 0.1)
    runs = [made_up("cahp", 0, hits), made_up("cahp", 1, hits), made_up("other", 0, better), made_up("other", 1, hits)]
    cahp, other = Comparison("", tuple(runs)).rows()
    assert cahp.difference is None and cahp.num_seeds == 2 and cahp.deviation == 0
    assert other.mean == pytest.approx((better.mean() + hits.mean()) / 2)
    assert other.deviation == pytest.approx(np.std([better.mean(), hits.mean()], ddof=1))
    change = (better.astype(float) - hits) / 2
    assert other.difference == pytest.approx(change.mean())
    # Paired: the interval is that of the few examples that differ, much narrower than that of either accuracy.
    half_width = 1.96 * change.std() / 20
    assert other.interval[0] == pytest.approx(change.mean() - half_width, abs=0.004)
    assert other.interval[1] == pytest.approx(change.mean() + half_width, abs=0.004)
    assert bootstrap_interval(np.zeros(5)) == (0, 0)


def test_bits_survive_packing():
    hits = np.random.default_rng(1).random(37) < 0.3
    assert (made_up("x", 0, hits).hits() == hits).all()


def test_the_command(given, capsys):
    arguments = ["compare", str(given / "model"), "--train", str(given / "train.jsonl"), "--test",
                 str(given / "eval.jsonl"), "-o", str(given / "runs"), "--methods", "cahp,obs", "--heads", "0.5",
                 "--seeds", "0", "--recover", "none", "least-squares", "--quiet"]  # fmt: skip
    assert main([*arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["method"], row["recover"]) for row in rows] == [
        ("dense", "none"), ("cahp", "least-squares"), ("obs", "least-squares"), ("cahp", "none"), ("obs", "none"),
    ]  # fmt: skip
    assert main(arguments) == 0
    assert "against cahp" in capsys.readouterr().out
    assert main([*arguments, "--methods", "magic"]) == 1
    assert "known are cahp" in capsys.readouterr().err


def test_dense_is_the_model_itself(tmp_path):
    from cahp_plugin.data import encode, find_columns, make_dataloader

    found = compare(tmp_path / "runs", seeds=[0])
    test, model = Dataset.from_list(word_examples(30)), tiny_model()
    encoded = encode(test, find_columns(test), tiny_tokenizer(), model)
    expected = evaluate_classifier(model, make_dataloader(encoded, tiny_tokenizer()))
    assert found.runs[0].method == "dense" and found.runs[0].accuracy == expected.accuracy
