"""Class names of the data against class names of the model."""

import itertools
import json
import logging

import pytest
from commands import prune_arguments
from datasets import ClassLabel, Dataset, Features, Value
from tiny import tiny_model
from transformers import BertConfig
from words import word_examples

from cahp_plugin.cli import main
from cahp_plugin.data import check_same_classes
from cahp_plugin.data.labels import class_names, encode_labels
from cahp_plugin.errors import DataError

NLI = ("contradiction", "neutral", "entailment")


def config(*names, **changes):
    """A config with these class names, or with none but LABEL_0, LABEL_1..."""
    given = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    return BertConfig(**((given if names else {"num_labels": 3}) | changes))


def data(names, labels):
    """A ClassLabel column of these names, holding these names."""
    features = Features(text=Value("string"), label=ClassLabel(names=list(names)))
    numbers = [label if isinstance(label, int) else list(names).index(label) for label in labels]
    return Dataset.from_dict({"text": ["w1"] * len(labels), "label": numbers}, features=features)


@pytest.mark.parametrize("order", itertools.permutations(NLI))
def test_names_decide_and_not_their_places(order):
    labels = [*NLI, "neutral", "neutral", "entailment"]
    expected = [0, 1, 2, 1, 1, 2]  # places in NLI, the model's order
    assert encode_labels(data(order, labels), "label", config(*NLI)) == expected
    assert encode_labels(Dataset.from_dict({"label": labels}), "label", config(*NLI)) == expected


def test_it_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        encode_labels(data(NLI[::-1], NLI), "label", config(*NLI))
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "Column 'label': classes are matched with the model's by name (entailment 0 -> 2, contradiction 2 -> 0)."
    ]
    caplog.clear()
    encode_labels(data(NLI, NLI), "label", config(*NLI))
    assert not caplog.records


@pytest.mark.parametrize("name", ["ENTAILMENT", "Entailment", " entailment", "entail-ment"])
def test_names_written_otherwise(name):
    # roberta-large-mnli writes them in capitals
    found = config("contradiction", "neutral", name)
    if name == "entail-ment":
        with pytest.raises(DataError, match="the model has no 'entailment'"):
            encode_labels(data(NLI[::-1], NLI), "label", found)
    else:
        assert encode_labels(data(NLI[::-1], NLI), "label", found) == [0, 1, 2]


def test_the_exact_name_goes_first_and_two_alike_are_none():
    assert encode_labels(data(("b", "B"), ["b", "B"]), "label", config("B", "b")) == [1, 0]
    with pytest.raises(DataError, match="the model has no 'not sure'"):
        encode_labels(data(("not sure", "x"), ["not sure"]), "label", config("not-sure", "not_sure", "x"))


@pytest.mark.parametrize(
    ("names", "model", "message"),
    [
        (("yes", "no", "maybe"), NLI, "of these the model has no 'yes', 'no', 'maybe'. It has contradiction, neutral"),
        (("neutral", "entailment", "opposed"), NLI, "the model has no 'opposed'"),
    ],
)
def test_names_that_do_not_match(names, model, message):
    with pytest.raises(DataError, match=message):
        encode_labels(data(names, names), "label", config(*model))


def test_names_that_do_not_occur_do_not_matter():
    assert encode_labels(data((*NLI[::-1], "hidden"), NLI), "label", config(*NLI)) == [0, 1, 2]
    assert encode_labels(data(("entailment", "neutral"), ["entailment"]), "label", config(*NLI)) == [2]


def test_without_names_on_either_side_numbers_are_taken_as_they_are():
    assert encode_labels(data(NLI, NLI[::-1]), "label", config()) == [2, 1, 0]
    assert encode_labels(Dataset.from_dict({"label": [2, 0]}), "label", config(*NLI)) == [2, 0]


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (["0", "1", "10", "2"], ["0", "1", "10", "2"], [0, 1, 10, 2]),  # sorted as text
        (["LABEL_1", "LABEL_0"], ["LABEL_0", "LABEL_1"], [0, 1]),
        (["1", "2", "3", "11"], ["1", "11"], [0, 3]),  # stars, of a model that counts from 0
    ],
)
def test_names_that_are_numbers(names, labels, expected):
    assert encode_labels(data(names, labels), "label", config(num_labels=11)) == expected


@pytest.mark.parametrize("used", [["1", "2", "3"], ["1", "3"], ["2"]])
@pytest.mark.parametrize("model", [(), ("1", "2", "3"), ("1 star", "2 stars", "3 stars")])
def test_stars_count_from_one_whichever_occur(used, model):
    assert encode_labels(data(["1", "2", "3"], used), "label", config(*model)) == [int(name) - 1 for name in used]


@pytest.mark.parametrize("order", [["0", "1", "10", "2"], ["10", "2", "1", "0"]])
def test_models_whose_names_are_numbers_are_matched_by_name(order):
    found = config(*order)
    for names in (order, sorted(order, key=int)):
        labels = ["0", "1", "10", "2"]
        assert encode_labels(data(names, labels), "label", found) == [order.index(name) for name in labels]
        assert encode_labels(Dataset.from_dict({"label": labels}), "label", found) == [
            order.index(name) for name in labels
        ]


def test_names_that_are_numbers_for_a_model_with_other_names():
    assert encode_labels(data(["0", "1", "2"], ["2", "0"]), "label", config(*NLI)) == [2, 0]
    with pytest.raises(DataError, match="of these the model has no '0'"):
        encode_labels(data(["0", "1"], ["0", "1"]), "label", config("1", "2"))


def test_names_that_differ_by_a_sign_are_not_the_same():
    with pytest.raises(DataError, match=r"the model has no 'C#'"):
        encode_labels(data(["C#", "A"], ["C#"]), "label", config("C++", "A+"))
    with pytest.raises(DataError, match="two of these are one class of the model"):
        encode_labels(data(["not sure", "not-sure"], ["not sure", "not-sure"]), "label", config("not sure", "x"))
    assert encode_labels(Dataset.from_dict({"label": ["1 "]}), "label", config("-1", "0", "1")) == [2]


def test_text_that_a_reader_took_for_something_else():
    # as CSV readers do with true and false
    assert encode_labels(Dataset.from_dict({"label": [True, False]}), "label", config("true", "false")) == [0, 1]
    assert encode_labels(Dataset.from_dict({"label": [True, False]}), "label", config()) == [1, 0]


@pytest.mark.parametrize("form", ["torch", "numpy"])
def test_the_format_of_a_data_set_does_not_matter(form):
    assert encode_labels(data(NLI[::-1], NLI).with_format(form), "label", config(*NLI)) == [0, 1, 2]


def test_numbers_in_no_order():
    with pytest.raises(DataError, match=r"name their classes 3, 1, 2; .*has 3 classes without names"):
        encode_labels(data(["3", "1", "2"], ["1", "2", "3"]), "label", config())


def test_numbers_that_are_the_models_names():
    stars = config("1", "2", "3")
    assert encode_labels(Dataset.from_dict({"label": ["3", "1"]}), "label", stars) == [2, 0]
    assert encode_labels(data(["1", "2", "3"], ["3", "1"]), "label", stars) == [2, 0]


def test_labels_that_are_no_numbers():
    with pytest.raises(DataError, match=r"row 0: expected a class number, got .0, 1."):
        encode_labels(Dataset.from_dict({"label": [[0, 1]]}), "label", config())


def test_a_config_that_names_its_classes_in_one_way_only_or_in_two():
    assert class_names(config()) == {}
    half = config(*NLI)
    half.label2id = None
    assert class_names(half) == {"contradiction": 0, "neutral": 1, "entailment": 2}
    half.label2id = {name: number for number, name in enumerate(NLI[::-1])}
    with pytest.raises(DataError, match="names its classes twice, and differently"):
        class_names(half)
    assert encode_labels(Dataset.from_dict({"label": [2]}), "label", half) == [2]  # which needs no names
    half.label2id = {"a": "first"}
    with pytest.raises(DataError, match="holds no class numbers"):
        class_names(half)


def test_two_sets_in_different_orders():
    sets = {"training": data(NLI, NLI), "evaluation": data(NLI[::-1], NLI)}
    check_same_classes(sets, "label", config(*NLI))
    with pytest.raises(DataError, match="evaluation and the training set name class 0 differently"):
        check_same_classes(sets, "label", config())
    numbers, text = Dataset.from_dict({"label": [1]}), Dataset.from_dict({"label": ["neutral"]})
    check_same_classes({"a": data(NLI, NLI), "b": numbers}, "label", config())
    check_same_classes({"a": data(NLI, NLI), "b": data((*NLI, "hidden"), NLI)}, "label", config())
    check_same_classes({"a": data(("0", "1", "10", "2"), ["10"]), "b": numbers}, "label", config(num_labels=11))
    check_same_classes({"a": data(NLI[::-1], NLI), "b": text}, "label", config(*NLI))


def test_names_in_one_set_and_numbers_in_the_other():
    sets = {"training": data(NLI[::-1], NLI), "evaluation": Dataset.from_dict({"label": [0, 1, 2]})}
    with pytest.raises(DataError, match=r"training set numbers its classes .* the evaluation set has numbers without"):
        check_same_classes(sets, "label", config(*NLI))
    check_same_classes(sets | {"training": data(NLI, NLI)}, "label", config(*NLI))


def test_commands_evaluate_against_the_right_classes(given, capsys):
    """The same examples as numbers, as names in another order, and as text: the same figures."""
    model = tiny_model()
    model.config.id2label = dict(enumerate(NLI))
    model.config.label2id = {name: number for number, name in enumerate(NLI)}
    model.save_pretrained(given / "model")
    found = {}
    for kind in ("numbers", "names", "text"):
        for name, count in (("train", 60), ("eval", 30)):
            rows = word_examples(count)
            named = [NLI[row["label"]] for row in rows]
            if kind == "names":
                features = Features(text=Value("string"), label=ClassLabel(names=sorted(NLI)))
                labels = [sorted(NLI).index(label) for label in named]
                columns = {"text": [row["text"] for row in rows], "label": labels}
                Dataset.from_dict(columns, features=features).save_to_disk(given / f"{name}-names")
            elif kind == "text":
                rows = [row | {"label": label} for row, label in zip(rows, named, strict=True)]
                (given / f"{name}-text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        endings = {"numbers": ".jsonl", "names": "-names", "text": "-text.jsonl"}
        arguments = prune_arguments(given, "--num-heads", "6", "--epochs", "1", "--no-figures", "--json", output=kind)
        assert main([word.replace(".jsonl", endings[kind]) for word in arguments]) == 0
        captured = capsys.readouterr()
        assert ("by name (entailment 1 -> 2, neutral 2 -> 1)" in captured.err) == (kind == "names")
        report = json.loads(captured.out)
        found[kind] = report["stages"], report["kept"]
    assert found["numbers"] == found["names"] == found["text"]


def test_other_names_are_told_before_the_work(given, capsys):
    rows = [row | {"label": ("good", "bad", "odd")[row["label"]]} for row in word_examples(30)]
    (given / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(prune_arguments(given)) == 1
    assert "the model has no class 'good'; it has LABEL_0, LABEL_1, LABEL_2" in capsys.readouterr().err
    assert not (given / "pruned").exists()
