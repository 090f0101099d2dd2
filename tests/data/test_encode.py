import itertools
import logging

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from tiny import tiny_model
from words import tiny_tokenizer, word_examples

from cahp_plugin.data import Columns, encode, find_columns, make_dataloader
from cahp_plugin.errors import DataError

COLUMNS = Columns(("text",), "label")


def rows(**columns):
    return Dataset.from_dict(columns)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["text", "label"], Columns(("text",), "label")),
        (["id", "premise", "hypothesis", "labels"], Columns(("premise", "hypothesis"), "labels")),
        (["sentence1", "sentence2", "sentence", "class"], Columns(("sentence1", "sentence2"), "class")),
    ],
)
def test_usual_names_are_found(columns, expected):
    assert find_columns(rows(**{name: ["1"] for name in columns})) == expected


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        (None, None, "No text column with a usual name.*columns are body, kind"),
        (["body"], None, "No label column.*columns are body, kind"),
        (["body", "more"], "kind", "Missing column more; the columns are body, kind"),
        (["body"], "stars", "Missing column stars"),
        (["a", "b", "c"], "kind", "One or two text columns"),
    ],
)
def test_missing_columns_say_which_there_are(text, label, message):
    with pytest.raises(DataError, match=message):
        find_columns(rows(body=["a"], kind=["b"]), text, label)


def test_batches_are_what_the_model_takes():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    encoded = encode(Dataset.from_list(word_examples(10)), COLUMNS, tokenizer, model)
    batches = list(make_dataloader(encoded, tokenizer, batch_size=4))
    assert [len(batch["labels"]) for batch in batches] == [4, 4, 2]
    assert batches[0]["input_ids"][0].tolist()[:5] == [2, 4, 7, 10, 3]  # [CLS] w0 w3 w6 [SEP]
    assert model(**batches[0]).loss.isfinite()
    orders = [
        torch.cat([b["labels"] for b in make_dataloader(encoded, tokenizer, shuffle=True, seed=seed)]).tolist()
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_examples_about_as_long_share_a_shuffled_batch():
    tokenizer = tiny_tokenizer()
    data = rows(text=["w1 " * (1 + place % 30) for place in range(480)], label=[place % 3 for place in range(480)])
    encoded = encode(data, COLUMNS, tokenizer, tiny_model())

    def walks(seed, **more):
        loader = make_dataloader(encoded, tokenizer, batch_size=8, shuffle=True, seed=seed, **more)
        return [[batch["attention_mask"].sum(dim=1).tolist() for batch in loader] for _ in range(2)]

    def spread(batches):
        return sum(max(lengths) - min(lengths) for lengths in batches) / len(batches)

    first, second = walks(0, group_by_length=True)
    expected = sorted(len(ids) for ids in encoded["input_ids"])
    assert all(sorted(itertools.chain(*batches)) == expected for batches in (first, second))
    assert first != second and [first, second] == walks(0, group_by_length=True) != walks(1, group_by_length=True)
    assert spread(first) < 4 < 15 < spread(walks(0)[0])


def test_pairs_are_joined():
    encoded = encode(
        rows(a=["w0 w1"], b=["w2"], label=[0]), Columns(("a", "b"), "label"), tiny_tokenizer(), tiny_model()
    )
    assert encoded[0]["input_ids"] == [2, 4, 5, 3, 6, 3]


@pytest.mark.parametrize(("name", "limit"), [("bert", 40), ("roberta", 39)])
def test_long_examples_are_truncated_with_one_warning(name, limit, caplog):
    data = rows(text=["w1 " * 100, "w1", "w2 " * 60], label=[0, 1, 2])
    with caplog.at_level(logging.WARNING):
        encoded = encode(data, COLUMNS, tiny_tokenizer(), tiny_model(name, pad_token_id=0))
    assert [len(ids) for ids in encoded["input_ids"]] == [limit, 3, limit]
    assert [r.getMessage() for r in caplog.records if r.name.startswith("cahp_plugin")] == [
        f"2 of 3 examples are longer than {limit} tokens and were truncated."
    ]
    assert max(map(len, encode(data, COLUMNS, tiny_tokenizer(), tiny_model(), max_length=8)["input_ids"])) == 8


@pytest.mark.parametrize(("length", "message"), [(41, "takes at most 40"), (2, "at least 3")])
def test_lengths_that_cannot_be(length, message):
    with pytest.raises(DataError, match=message):
        encode(rows(text=["w1"], label=[0]), COLUMNS, tiny_tokenizer(), tiny_model(), max_length=length)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([0, 2], [0, 2]), (["0", " 2"], [0, 2]), (["LABEL_1", "LABEL_0"], [1, 0]), ([1.0, 2.0], [1, 2])],
)
def test_labels_of_every_kind(labels, expected):
    encoded = encode(rows(text=["w1", "w2"], label=labels), COLUMNS, tiny_tokenizer(), tiny_model())
    assert encoded["labels"][:] == expected


def test_class_labels():
    features = Features(text=Value("string"), label=ClassLabel(names=["bad", "ok", "good"]))
    data = Dataset.from_dict({"text": ["w1", "w2"], "label": [2, 0]}, features=features)
    assert encode(data, COLUMNS, tiny_tokenizer(), tiny_model())["labels"][:] == [2, 0]


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
        encode(rows(text=["w1", "w2"], label=labels), COLUMNS, tiny_tokenizer(), tiny_model())


def test_texts_that_are_none():
    with pytest.raises(DataError, match="Column 'text', row 1: expected text, got None"):
        encode(rows(text=["w1", None], label=[0, 1]), COLUMNS, tiny_tokenizer(), tiny_model())
