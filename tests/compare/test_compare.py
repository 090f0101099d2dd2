import dataclasses
import json
import time

import numpy as np
import pytest
from comparing import compare, made_up
from datasets import Dataset
from selecting import view_of
from tiny import tiny_batches, tiny_model
from words import encoded_words, word_examples

from cahp_plugin import CAHPConfig, evaluate
from cahp_plugin.cli import main
from cahp_plugin.compare.rows import mean_interval
from cahp_plugin.compare.runs import RunLog
from cahp_plugin.compare.summary import Comparison
from cahp_plugin.errors import CheckpointError, ConfigError, PruningError, SelectionError
from cahp_plugin.recover import RecoverySettings
from cahp_plugin.selectors import Fitted, Selector, View, base, make_selector, selectors
from cahp_plugin.workflow.choose import Chooser


def test_every_method_at_every_count_with_every_recovery(tmp_path):
    found = compare(tmp_path / "runs", methods=list(selectors()), recoveries=["none", "least-squares"], seeds=[0])
    assert len(found.runs) == 1 + len(selectors()) * 2 * 2
    for run in found.runs:
        assert sum(map(len, run.kept.values())) == run.num_heads
        assert run.examples().mean() == pytest.approx(run.score.value) and len(run.examples()) == 30
    by = {run.key: run for run in found.runs}
    changed = []
    for method in selectors():
        one_shot, repaired = (by[method, 6, 0, how] for how in ("none", "least-squares"))
        assert one_shot.kept == repaired.kept
        changed.append(one_shot.loss != repaired.loss)
    assert sum(changed) >= len(selectors()) - 2  # the guard may refuse a repair on so small a model
    assert {row.method for row in found.structure()} == set(selectors())


def test_fine_tuning_is_a_recovery_like_the_others(tmp_path):
    recovery = RecoverySettings(epochs=1)
    found = compare(tmp_path / "runs", heads=[6], seeds=[0], recovery=recovery, methods=["salience"],
                    recoveries=["none", "finetune", "least-squares+finetune"])  # fmt: skip
    one_shot, *trained = found.runs[1:]
    assert len({run.loss for run in found.runs[1:]}) == 3 and all(run.kept == one_shot.kept for run in trained)


@pytest.fixture
def counted(monkeypatch):
    """Counts what is chosen and evaluated; everything is still done."""
    calls = {"chosen": [], "evaluated": 0, "observed": 0}

    class Counting(Fitted):
        def __init__(self, fitted, *key):
            self.fitted, self.key = fitted, key

        def keep(self, num_heads):
            calls["chosen"].append((self.key[0], num_heads, self.key[1]))
            return self.fitted.keep(num_heads)

    fit, walk = Selector.fit, base.observe
    monkeypatch.setattr(
        Selector, "fit", lambda self, view, *, seed: Counting(fit(self, view, seed=seed), self.name, seed)
    )

    def counting(*arguments, **options):
        calls["evaluated"] += 1
        return evaluate(*arguments, **options)

    def observe(*arguments, **options):
        calls["observed"] += 1
        return walk(*arguments, **options)

    monkeypatch.setattr("cahp_plugin.workflow.compare.evaluate", counting)
    monkeypatch.setattr("cahp_plugin.selectors.base.observe", observe)
    return calls


def test_nothing_is_computed_twice(tmp_path, counted):
    first = compare(tmp_path / "runs", methods=["salience", "random"], heads=[6])
    # One choice of salience for both seeds, whose second run has the first one's figures; the dense model once.
    assert counted["chosen"] == [("salience", 6, 0), ("random", 6, 0), ("random", 6, 1)]
    assert counted["evaluated"] == 4 and counted["observed"] == 1
    by = {run.key: run for run in first.runs}
    one, other = by["salience", 6, 0, "none"], by["salience", 6, 1, "none"]
    assert other == dataclasses.replace(one, seed=1)
    assert next(row for row in first.rows() if row.method == "salience").num_seeds == 2

    # With another recovery, and after a restart: the choices are those of the runs that are there, seconds included.
    second = compare(tmp_path / "runs", methods=["salience", "random"], heads=[6], recoveries=["least-squares"])
    assert len(counted["chosen"]) == 3 and counted["observed"] == 1 and counted["evaluated"] == 8
    for run in second.runs[1:]:
        before = by[run.method, 6, run.seed, "none"]
        assert run.kept == before.kept and run.seconds["choose"] == before.seconds["choose"]


def test_the_same_heads_are_the_same_model_until_it_is_recovered(tmp_path, counted):
    found = compare(tmp_path / "runs", methods=["magnitude", "random"], heads=[12], recoveries=["none"])
    assert counted["evaluated"] == 1  # all keep every head
    assert {(run.score, run.loss, run.correct) for run in found.runs} == {
        (found.runs[0].score, found.runs[0].loss, found.runs[0].correct)
    }


def test_a_fit_is_charged_to_all_who_use_it(tmp_path):
    fits = []

    class Slow(Selector):
        name = "slow"

        def _fit(self, view, seed):
            fits.append(seed)
            time.sleep(0.05)
            return make_selector("random").fit(view, seed=seed)

    class SlowDraw(Slow):
        seeded = True

    chooser = Chooser(RunLog(tmp_path / "runs", {}), view_of(tiny_model()), {"slow": Slow(), "draw": SlowDraw()})
    for count in (6, 4):
        for seed in (2, 5):
            kept, seconds = chooser.choose("slow", count, seed)
            assert kept.num_heads == count and 0.05 <= seconds < 0.5
    assert fits == [2]  # without a seed of its own, once for all
    assert all(chooser.choose("draw", 4, seed)[1] >= 0.05 for seed in (2, 5, 2)) and fits == [2, 2, 5]


def test_what_was_walked_before_is_charged_and_the_shared_observation_is_not(tmp_path, monkeypatch):
    walk = base.observe

    def observe(*arguments, **options):
        time.sleep(0.3)
        return walk(*arguments, **options)

    monkeypatch.setattr(base, "observe", observe)
    view = view_of(tiny_model(), tiny_batches(24, 6))
    ways = {name: make_selector(name) for name in ("salience", "salience-iterative")}
    chooser = Chooser(RunLog(tmp_path / "runs", {}), view, ways)
    assert chooser.choose("salience", 6, 0)[1] < 0.3
    first = chooser.choose("salience-iterative", 6, 0)[1]
    again = chooser.choose("salience-iterative", 6, 0)[1]  # the rounds are there: they count all the same
    assert again > 0.5 * first > 0


def test_methods_without_a_seed_choose_the_same_for_every_seed(tmp_path):
    model = tiny_model()
    batches = encoded_words(model).batches()
    ways = {name: make_selector(name) for name in selectors()}
    unseeded = {name for name, way in ways.items() if not way.seeded}
    assert unseeded == {"salience", "salience-layernorm", "hies", "magnitude"}
    chooser = Chooser(RunLog(tmp_path / "runs", {}), View(model, batches), ways)
    fitted = {name: [ways[name].fit(View(model, batches), seed=seed).keep(6) for seed in (0, 1)] for name in unseeded}
    for method in unseeded:
        assert len({str(chooser.choose(method, 6, seed)[0]) for seed in range(3)} | set(map(str, fitted[method]))) == 1
    assert len({str(chooser.choose("random", 6, seed)[0]) for seed in range(3)}) > 1


def test_a_broken_model_is_told_by_its_layer_before_any_work(tmp_path):
    for change, message in (
        (lambda m: m.bert.encoder.layer[1].attention.self.value.weight.data.fill_(float("inf")), "Attention layer 1 "),
        (lambda m: m.classifier.weight.data.fill_(float("nan")), "logits are not finite"),
    ):
        model = tiny_model()
        change(model)
        with pytest.raises(PruningError, match=message):
            compare(tmp_path / "runs", model=model)
        assert not (tmp_path / "runs").exists()


def test_it_goes_on_where_it_was_stopped(tmp_path):
    first = compare(tmp_path / "runs", seeds=[0])
    lines = (tmp_path / "runs" / "runs.jsonl").read_text().splitlines()
    (tmp_path / "runs" / "runs.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])  # a kill
    second = compare(tmp_path / "runs", seeds=[0])
    again = (tmp_path / "runs" / "runs.jsonl").read_text().splitlines()
    assert again[: len(lines) - 1] == lines[:-1] and len(again) == len(lines)

    def values(run):
        return [getattr(run, name) for name in ("key", "score", "loss", "correct", "kept", "parameters")]

    assert [values(run) for run in first.runs] == [values(run) for run in second.runs]
    third = compare(tmp_path / "runs", seeds=[0, 1])
    assert len(third.runs) == 2 * len(first.runs) - 1
    assert (tmp_path / "runs" / "runs.jsonl").read_text().splitlines()[: len(again)] == again


def test_another_set_up_is_refused(tmp_path):
    compare(tmp_path / "runs", seeds=[0])
    with pytest.raises(CheckpointError, match=r"another set-up \(model: '\w+', now '\w+'\)"):
        compare(tmp_path / "runs", seeds=[0], model=tiny_model(seed=1))
    with pytest.raises(CheckpointError, match=r"another set-up \(gate_epochs: 1.0, now 2.0\)"):
        compare(tmp_path / "runs", seeds=[0], gate_epochs=2)
    with pytest.raises(CheckpointError, match=r"another set-up \(recovery"):
        compare(tmp_path / "runs", seeds=[0], recovery=RecoverySettings(epochs=7))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="holds no comparison"):
        compare(tmp_path / "other")


def test_a_folder_from_before_a_setting_goes_on(tmp_path):
    first = compare(tmp_path / "runs", seeds=[0])
    path = tmp_path / "runs" / "setup.json"
    setup = json.loads(path.read_text())
    del setup["gate_epochs"], setup["config"]["conditioning"]
    path.write_text(json.dumps(setup))
    assert compare(tmp_path / "runs", seeds=[0]).runs == first.runs
    with pytest.raises(CheckpointError, match="another set-up"):
        compare(tmp_path / "runs", seeds=[0], config=CAHPConfig(conditioning="prediction"))


def test_a_validation_set_is_recorded_and_chosen_by(tmp_path):
    held_out = Dataset.from_list(word_examples(45))
    found = compare(tmp_path / "runs", seeds=[0], heads=[6], validation=held_out)
    model = tiny_model()
    dense, *pruned = found.runs
    assert dense.validation == evaluate(model, encoded_words(model, 45)).score.value
    assert all(0 <= run.validation <= 1 for run in pruned) and "validation" in found.table()
    assert [row.validation for row in found.rows()] == [run.validation for run in found.runs]
    assert Comparison.read(tmp_path / "runs").runs == found.runs
    # Another validation set, or none, is another set-up; one from before there could be any goes on without.
    for other in (None, Dataset.from_list(word_examples(46))):
        with pytest.raises(CheckpointError, match=r"another set-up \(eval: '\w+', now "):
            compare(tmp_path / "runs", seeds=[0], heads=[6], validation=other)
    before = compare(tmp_path / "before", seeds=[0], heads=[6])
    assert "validation" not in before.table() and all(row.validation is None for row in before.rows())
    setup = json.loads((tmp_path / "before" / "setup.json").read_text())
    del setup["eval"]
    (tmp_path / "before" / "setup.json").write_text(json.dumps(setup))
    lines = (tmp_path / "before" / "runs.jsonl").read_text().replace(', "validation": null', "")
    (tmp_path / "before" / "runs.jsonl").write_text(lines)
    assert compare(tmp_path / "before", seeds=[0], heads=[6]).runs == before.runs


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
        ({"heads": [2]}, SelectionError, "`min_heads_per_layer=1` takes 3"),
        ({"heads": [13]}, SelectionError, "asks for 13 heads"),
        ({"heads": []}, ConfigError, "at least one number each"),
        ({"seeds": []}, ConfigError, "at least one number each"),
        ({"gate_epochs": 0}, ConfigError, "`gate_epochs` must be above 0"),
        (
            {"methods": ["cahp", "noise", "shuffled"], "config": CAHPConfig(conditioning="none")},
            ConfigError,
            "noise replaces the class separation, and conditioning 'none' has none",
        ),
        (
            {"methods": ["shuffled"], "config": CAHPConfig(conditioning="none")},
            ConfigError,
            "shuffled replaces the class",
        ),
        ({"knee": True, "config": CAHPConfig(conditioning="none")}, ConfigError, "takes a class separation"),
        ({"knee": True, "config": CAHPConfig(clustering="louvain")}, ConfigError, "a clustering with a knee"),
    ],
)
def test_bad_settings_before_any_work(changes, error, message, tmp_path):
    with pytest.raises(error, match=message):
        compare(tmp_path / "runs", **changes)
    assert not (tmp_path / "runs").exists()


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
    assert mean_interval(np.zeros(5)) == (0, 0)


def test_bits_survive_packing():
    hits = np.random.default_rng(1).random(37) < 0.3
    assert (made_up("x", 0, hits).examples() == hits).all()


def test_the_command(given, capsys):
    arguments = ["compare", str(given / "model"), "--train", str(given / "train.jsonl"), "--test",
                 str(given / "eval.jsonl"), "-o", str(given / "runs"), "--methods", "cahp,obs", "--heads", "0.5",
                 "--seeds", "0", "--recover", "none", "least-squares", "--quiet"]  # fmt: skip
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    rows = result["rows"]
    assert [place["method"] for place in result["structure"]] == ["cahp", "obs"] and result["knee"] is None
    assert [(row["method"], row["recover"]) for row in rows] == [
        ("dense", "none"), ("cahp", "least-squares"), ("obs", "least-squares"), ("cahp", "none"), ("obs", "none"),
    ]  # fmt: skip
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "against cahp" in text and "last third" in text
    arguments[arguments.index("-o") + 1] = str(given / "validated")
    assert main([*arguments, "--eval", str(given / "train.jsonl"), "--json"]) == 0
    assert all(row["validation"] is not None for row in json.loads(capsys.readouterr().out)["rows"])
    assert "--eval EVAL" in (given / "validated" / "report.html").read_text()
    assert main([*arguments, "--methods", "magic"]) == 1
    assert "known are cahp" in capsys.readouterr().err


def test_dense_is_the_model_itself(tmp_path):
    found = compare(tmp_path / "runs", seeds=[0])
    model = tiny_model()
    expected = evaluate(model, encoded_words(model, 30).by_length())
    dense = found.runs[0]
    assert (dense.method, dense.score.value, dense.loss) == ("dense", expected.score.value, expected.loss)
    assert dense.examples().tolist() == expected.rows.tolist()
