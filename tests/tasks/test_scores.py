"""Scores as text and in files, and the F1 of sets of labels."""

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score

from cahp_plugin.errors import CheckpointError
from cahp_plugin.files import checked
from cahp_plugin.tasks.metrics import METRICS, Score, score_cells, scores_from_dict, scores_to_dict

ACCURACY = Score("accuracy", 0.5067, (0.4861, 0.52745), percent=True)
PERPLEXITY = Score("perplexity", 12.345, (11.9, 12.8), higher_is_better=False)


def test_words():
    assert str(ACCURACY) == "accuracy 50.67 % [48.61, 52.74]" and str(PERPLEXITY) == "perplexity 12.35 [11.9, 12.8]"
    assert (ACCURACY.axis, ACCURACY.legend) == ("accuracy, %", "Accuracy in %")
    assert PERPLEXITY.axis == "perplexity (lower is better)" and PERPLEXITY.legend == "Perplexity, lower is better"
    assert (ACCURACY.bare(), ACCURACY.bare(0.012, "+"), PERPLEXITY.bare(-0.5, "+")) == ("50.7", "+1.2", "-0.5")
    assert Score.of_accuracy(0.5).cell() == "50.00 %" and Score("wer", 0.1).heading == "Word error rate"


def test_they_survive_a_file():
    values = json.loads(json.dumps(scores_to_dict([ACCURACY, PERPLEXITY])))
    assert values["accuracy"] == 0.5067 and values["perplexity"] == 12.345
    assert scores_from_dict(values) == (ACCURACY, PERPLEXITY)
    assert scores_from_dict({"accuracy": 1, "loss": 0.2}) == (Score.of_accuracy(1.0),)  # an older file


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"accuracy": None},
        {"scores": []},
        {"scores": 3},
        {"scores": ["accuracy"]},
        {"scores": [{"name": "accuracy"}]},
        {"scores": [{"name": "accuracy", "value": "high"}]},
        {"scores": [{"name": "accuracy", "value": 0.5, "interval": [0.1]}]},
        {"scores": [{"name": "accuracy", "value": 0.5, "interval": [0.1, None]}]},
        {"scores": [{"name": "accuracy", "value": 0.5, "percent": 1}]},
    ],
)
def test_damaged_ones_are_told(values):
    with pytest.raises(CheckpointError, match="here is damaged"):
        checked("here", lambda: scores_from_dict(values))


def test_a_table_has_the_same_columns_for_all():
    assert score_cells([(ACCURACY,), (), (ACCURACY, PERPLEXITY)]) == [
        {"accuracy": ACCURACY.cell(), "perplexity": "-"},
        {"accuracy": "-", "perplexity": "-"},
        {"accuracy": ACCURACY.cell(), "perplexity": PERPLEXITY.cell()},
    ]


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_f1_is_that_of_scikit_learn(average):
    draw = np.random.default_rng(0)
    ours, theirs = (draw.random((40, 5)) < 0.3 for _ in range(2))
    ours[:, 1] = theirs[:, 1] = False  # a label that nobody has
    metric = METRICS[f"f1_{average}"]
    expected = f1_score(theirs, ours, average=average, zero_division=0)
    assert metric.value(metric.rows(ours, theirs)) == pytest.approx(expected, rel=1e-12)
    assert metric.value(np.zeros((3, 4), dtype=int)) == 0
