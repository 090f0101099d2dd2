"""Texts and their classes as a classifier takes them."""

import logging

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from tiny import tiny_model
from words import tiny_tokenizer

from cahp_plugin import encode
from cahp_plugin.errors import DataError
from cahp_plugin.tasks import TASKS, task_of


def encoded(name="bert", *, changes=None, options=None, **columns):
    """The encoded rows of a data set."""
    model = tiny_model(name, **(changes or {}))
    return encode(Dataset.from_dict(columns), model, tiny_tokenizer(), **(options or {}))


def test_pairs_are_joined():
    found = encoded(premise=["w0 w1"], hypothesis=["w2"], label=[0])
    assert found.encoded[0]["input_ids"] == [2, 4, 5, 3, 6, 3]
    found = encoded(a=["w0 w1"], b=["w2"], kind=[1], options={"text_columns": ("b", "a"), "label_column": "kind"})
    assert found.encoded[0]["input_ids"] == [2, 6, 3, 4, 5, 3] and found.references == [1]


@pytest.mark.parametrize(("name", "limit"), [("bert", 40), ("roberta", 39)])
def test_long_examples_are_truncated_with_one_warning(name, limit, caplog):
    rows = {"text": ["w1 " * 100, "w1", "w2 " * 60], "label": [0, 1, 2]}
    told = f"2 of 3 examples are longer than {limit} tokens and were truncated."
    with caplog.at_level(logging.WARNING):
        found = encoded(name, changes={"pad_token_id": 0}, **rows)
    assert found.lengths == [len(ids) for ids in found.encoded["input_ids"]] == [limit, 3, limit]
    assert [r.getMessage() for r in caplog.records if r.name.startswith("cahp_plugin")] == [told]
    assert found.told == told
    assert max(encoded(options={"max_length": 8}, **rows).lengths) == 8


@pytest.mark.parametrize(("length", "message"), [(41, "takes at most 40"), (2, "at least 3")])
def test_lengths_that_cannot_be(length, message):
    with pytest.raises(DataError, match=message):
        encoded(text=["w1"], label=[0], options={"max_length": length})


def test_texts_that_would_all_be_cut():
    rows = {"text": ["w1 " * 100, "w2 " * 60], "label": [0, 1]}
    with pytest.raises(DataError, match=r"All 2 examples are longer than the 40 tokens.*`max_length` \(40 or less\)"):
        encoded(**rows)
    assert encoded(options={"max_length": 40}, **rows).lengths == [40, 40]  # on purpose


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([0, 2], [0, 2]), (["0", " 2"], [0, 2]), (["LABEL_1", "LABEL_0"], [1, 0]), ([1.0, 2.0], [1, 2])],
)
def test_labels_of_every_kind(labels, expected):
    found = encoded(text=["w1", "w2"], label=labels)
    assert found.encoded["labels"][:] == found.references == expected


def test_class_labels():
    features = Features(text=Value("string"), label=ClassLabel(names=["bad", "ok", "good"]))
    data = Dataset.from_dict({"text": ["w1", "w2"], "label": [2, 0]}, features=features)
    assert encode(data, tiny_model(), tiny_tokenizer()).references == [2, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], "row 1: label 3; the model has 3 classes"),
        ([-1, 0], "row 0: label -1"),
        ([0, None], "row 1: the label is missing"),
        ([0.0, float("nan")], "row 1: the label is missing"),
        ([0.0, 0.5], "row 1: expected a class number, got 0.5"),
        (["LABEL_0", "great"], "no class 'great'; it has LABEL_0, LABEL_1, LABEL_2"),
    ],
)
def test_bad_labels_name_the_row(labels, message):
    with pytest.raises(DataError, match=message):
        encoded(text=["w1", "w2"], label=labels)


def test_texts_that_are_none():
    with pytest.raises(DataError, match="Column 'text', row 1: expected text, got None"):
        encoded(text=["w1", None], label=[0, 1])


def test_columns_that_are_not_there():
    with pytest.raises(DataError, match=r"No text column with a usual name.*columns are body, label"):
        encoded(body=["w1"], label=[0])
    with pytest.raises(DataError, match=r"No label column.*columns are text"):
        encoded(text=["w1"])


def test_one_logit_is_a_number_and_no_class():
    assert task_of(tiny_model()) is TASKS["text-classification"]
    found = encoded(changes={"num_labels": 1}, text=["w1", "w2"], label=[0.5, 3])
    assert found.task is TASKS["text-regression"] and found.references == [0.5, 3.0]
