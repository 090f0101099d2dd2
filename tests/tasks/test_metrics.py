"""Each metric against its library or a number worked out by hand; metrics of the user's own."""

import math
import random
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import rankdata
from seqeval.metrics import f1_score
from torchmetrics.functional.text import chrf_score, rouge_score, squad, word_error_rate

from cahp_plugin.errors import ConfigError, DataError
from cahp_plugin.tasks.metrics import METRICS, metric_named

WORDS = ["the", "cat", "sat,", "on", "A", "mat.", "dog", "caf\u00e9", "far", "away"]


def texts(count, seed, least=0):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(least, 9))) for _ in range(count)]


OURS, THEIRS = texts(30, 0), texts(30, 1, least=1)


def value(name, ours, theirs):
    return METRICS[name].value(METRICS[name].rows(ours, theirs))


def test_numbers_worked_out_by_hand():
    assert value("accuracy", [1, 2, 0, 1], [1, 2, 1, 1]) == 0.75
    assert value("mean_squared_error", [1.0, 2.0, 4.0], [1.0, 0.0, 3.0]) == pytest.approx(5 / 3)
    assert value("word_accuracy", [["O", "X"], ["X", "X", "O"]], [["O", "O"], ["X", "X", "O"]]) == 0.8
    assert value("f1_micro", [[1, 0], [1, 1]], [[1, 1], [1, 0]]) == pytest.approx(4 / 6)
    assert value("f1_macro", [[1, 0], [1, 1]], [[1, 1], [1, 0]]) == 0.5
    sums = [[6.0, 3], [2.0, 1], [0.5, 1]]  # a mean loss of 2, 2 and 1/2
    assert value("token_loss", sums, ()) == pytest.approx(1.7)
    assert value("perplexity", sums, ()) == pytest.approx(math.exp(1.7))
    assert value("cosine", [[0.25, 1], [0.75, 1]], ()) == 0.5
    assert value("perplexity", [[1e6, 1]], ()) == math.exp(700)  # a number still


def test_rank_correlation():
    draw = np.random.default_rng(0)
    ours, theirs = draw.integers(0, 6, 40), draw.integers(0, 6, 40)  # with ties
    expected = np.corrcoef(rankdata(ours), rankdata(theirs))[0, 1]
    assert value("spearman", ours, theirs) == pytest.approx(expected, rel=1e-12)
    assert value("spearman", [1, 2, 3], [10, 20, 25]) == pytest.approx(1)
    assert value("spearman", [1, 1, 1], [1, 2, 3]) == value("spearman", [1, 2, 3], [2, 2, 2]) == 0


def test_entities_are_those_of_seqeval():
    draw = random.Random(0)
    tags = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    theirs = [draw.choices(tags, k=draw.randrange(1, 12)) for _ in range(40)]
    ours = [[tag if draw.random() < 0.7 else draw.choice(tags) for tag in row] for row in theirs]
    assert value("f1_entities", ours, theirs) == pytest.approx(f1_score(theirs, ours), rel=1e-12)
    assert value("f1_entities", [["B-X", "I-X", "O"]], [["B-X", "O", "O"]]) == 0  # another end
    assert value("f1_entities", [["O"]], [["O"]]) == 0


def test_answers_are_scored_as_squad_has_it():
    rows = [
        ("The cat", ["cat", "a dog"]),  # articles do not count
        ("the black cat", ["a cat"]),
        ("", []),
        ("cat", []),
        ("", ["cat"]),
        ("Cat!", ["dog", "cat"]),
    ]
    ours, theirs = zip(*rows, strict=True)
    assert METRICS["exact_match"].rows(ours, theirs).tolist() == [1, 0, 1, 0, 0, 1]
    assert METRICS["f1_words"].rows(ours, theirs) == pytest.approx([1, 2 / 3, 1, 0, 0, 1])
    there = [(a, b) for a, b in rows if b]
    whole = squad(
        [{"prediction_text": a, "id": str(i)} for i, (a, _) in enumerate(there)],
        [{"answers": {"text": b, "answer_start": [0] * len(b)}, "id": str(i)} for i, (_, b) in enumerate(there)],
    )
    for name, other in (("exact_match", "exact_match"), ("f1_words", "f1")):
        assert value(name, *zip(*there, strict=True)) == pytest.approx(float(whole[other]) / 100)


def test_texts_are_scored_as_torchmetrics_has_it():
    assert value("wer", OURS, THEIRS) == pytest.approx(float(word_error_rate(OURS, THEIRS)), rel=1e-6)
    assert value("chrf", OURS, THEIRS) == pytest.approx(float(chrf_score(OURS, [[t] for t in THEIRS])), rel=1e-6)
    found = rouge_score(OURS, THEIRS, rouge_keys=("rouge1", "rouge2", "rougeL"))
    for key in ("rouge1", "rouge2", "rougeL"):
        assert value(key, OURS, THEIRS) == pytest.approx(float(found[f"{key}_fmeasure"]), rel=1e-6)


def test_empty_texts():
    assert METRICS["wer"].rows(["", "x y", "", "x"], ["", "", "x y", "x"]).tolist() == [[0, 0], [2, 0], [2, 2], [0, 1]]
    for name in ("chrf", "rouge1", "rouge2", "rougeL"):
        assert value(name, ["", "x y", ""], ["", "", "x y"]) == 0


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("accuracy", [1] * 30 + [0] * 10, [1] * 40),
        ("spearman", list(range(40)), [(7 * i) % 40 for i in range(40)]),
        ("f1_micro", [[i % 2, i % 3 == 0] for i in range(40)], [[1, i % 4 == 0] for i in range(40)]),
        ("perplexity", [[(i % 7) * (1 + i % 3), 1 + i % 3] for i in range(40)], ()),
        ("wer", OURS, THEIRS),
        ("chrf", OURS, THEIRS),
    ],
)
def test_intervals_are_those_of_a_plain_bootstrap(name, ours, theirs):
    metric = METRICS[name]
    rows, draw = metric.rows(ours, theirs), np.random.default_rng(1)
    drawn = [metric.value(rows[draw.integers(0, len(rows), len(rows))]) for _ in range(2000)]
    low, high = metric.interval(rows)
    expected = np.quantile(drawn, [0.025, 0.975])
    assert (low, high) == pytest.approx(expected, abs=0.1 * (expected[1] - expected[0]))
    assert low < metric.value(rows) < high
    assert metric.interval(rows) == (low, high)


@pytest.mark.parametrize("name", METRICS)
def test_one_example_and_equal_examples(name):
    ours, theirs = {
        **dict.fromkeys(("f1_micro", "f1_macro"), ([1, 0], [1, 0])),
        **dict.fromkeys(("f1_entities", "word_accuracy"), (["B-X"], ["B-X"])),
        **dict.fromkeys(("exact_match", "f1_words"), ("x", ["x"])),
        **dict.fromkeys(("perplexity", "token_loss", "cosine"), ([1.0, 2], None)),
        **dict.fromkeys(("rouge1", "rouge2", "rougeL", "chrf", "wer"), ("x y", "x y")),
    }.get(name, (1, 1))
    for count in (1, 3):
        score = METRICS[name].score(METRICS[name].rows([ours] * count, [theirs] * count))
        assert math.isfinite(score.value) and score.interval == (score.value, score.value)


def own(tmp_path, monkeypatch, text, name="mine"):
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_metric_of_ones_own(tmp_path, monkeypatch):
    own(
        tmp_path,
        monkeypatch,
        "def wrong(ours, theirs):\n    return sum(map(int.__ne__, ours, theirs))\nwrong.higher_is_better = False\n"
        "class Of:\n    def __call__(self, a, b):\n        return 1\nmine = Of()\n",
    )
    before = list(sys.path)
    metric = metric_named("mine:wrong")
    assert sys.path == before
    score = metric.score(metric.rows([1, 2, 3], [1, 0, 0]))
    assert (score.name, score.value, score.higher_is_better, score.percent) == ("wrong", 2, False, False)
    assert score.interval[0] <= 2 <= score.interval[1]
    other = metric_named("mine:mine")  # whatever can be called
    assert other.higher_is_better and other.score(other.rows([["a"]], ["x"])).value == 1


def test_files_of_the_current_folder_stand_in_for_no_library(tmp_path, monkeypatch):
    own(tmp_path, monkeypatch, "raise RuntimeError('never')\n", "colorsys")
    with pytest.raises(ConfigError, match="has no attribute 'score'"):
        metric_named("colorsys:score")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("better", "", r"`metric` is 'better'; expected module:function, or one of accuracy, "),
        ("no_such:score", "", "'no_such:score' can't be imported: ModuleNotFoundError"),
        ("mine:score", "", "can't be imported: AttributeError: .*'score'"),
        ("mine:score", "def score(:\n", "can't be imported: SyntaxError"),
        ("mine:score", "1 / 0\n", "can't be imported: ZeroDivisionError"),
        (".mine:score", "", "can't be imported"),
        (":score", "", "can't be imported"),
        ("mine:score", "score = 3\n", "is no function: 3"),
    ],
)
def test_metrics_that_are_none(name, text, message, tmp_path, monkeypatch):
    own(tmp_path, monkeypatch, text)
    with pytest.raises(ConfigError, match=message):
        metric_named(name)


@pytest.mark.parametrize("result", ["None", "'high'", "[1, 2]"])
def test_a_metric_that_returns_no_number(result, tmp_path, monkeypatch):
    own(tmp_path, monkeypatch, f"def score(ours, theirs):\n    return {result}\n")
    metric = metric_named("mine:score")
    with pytest.raises(DataError, match=r"'mine:score' must return a number; got "):
        metric.score(metric.rows([1], [1]))


def test_the_command_finds_a_file_of_the_current_folder(tmp_path):
    (tmp_path / "mine.py").write_text("def score(ours, theirs):\n    return 1\n")
    script = tmp_path / "bin" / "cahp"  # as a console script: the current folder is not on its path
    script.parent.mkdir()
    script.write_text("from cahp_plugin.tasks.metrics import metric_named\nprint(metric_named('mine:score').name)\n")
    found = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout == "score\n"
