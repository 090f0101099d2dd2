"""Stages in files and tables."""

import json

import pytest

from cahp_plugin.prune import Stage
from cahp_plugin.prune.stage import stage_rows
from cahp_plugin.tasks.metrics import Score

PERPLEXITY = Score("perplexity", 14.1, (13.2, 15.0), higher_is_better=False)
SPEARMAN = Score("spearman", 0.81, (0.78, 0.84))


def test_it_survives_a_file():
    stage = Stage("dense", 12, 1000, None, (PERPLEXITY, SPEARMAN), 40)
    values = json.loads(json.dumps(stage.to_dict()))
    assert values["perplexity"] == 14.1 and values["spearman"] == 0.81 and values["loss"] is None
    assert Stage.from_dict(values) == stage


def test_a_metric_of_the_name_of_a_part_hides_nothing():
    stage = Stage("dense", 12, 1000, 0.5, (Score("heads", 3.0),), 40)
    assert Stage.from_dict(json.loads(json.dumps(stage.to_dict()))) == stage


def test_an_older_one_is_read():
    old = {"name": "dense", "heads": 72, "parameters": 7, "accuracy": 0.5, "loss": 1.25}
    assert Stage.from_dict(old) == Stage("dense", 72, 7, 1.25, (Score.of_accuracy(0.5),))
    for name in ("accuracy", "loss", "heads"):
        with pytest.raises((KeyError, TypeError)):
            Stage.from_dict({key: value for key, value in old.items() if key != name})
        with pytest.raises(TypeError):
            Stage.from_dict(old | {name: "many"})


def test_rows_have_what_is_known():
    first, last = (
        Stage(name, 12, count, None, (PERPLEXITY,), 2210) for name, count in (("dense", 8), ("one-shot", 6))
    )
    assert stage_rows([first, last])[1] == {
        "model": "one-shot", "heads": "12", "parameters": "6", "of dense": "75.0 %",
        "perplexity": "14.1 [13.2, 15]", "examples": "2,210",
    }  # fmt: skip
    assert list(stage_rows([Stage("dense", 1, 1, 0.5, (SPEARMAN,))])[0])[-2:] == ["spearman", "loss"]
    assert stage_rows([]) == []
