import logging
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_batches, tiny_model
from zoo import zoo_model

from cahp_plugin.errors import DataError
from cahp_plugin.observe import prepare_batches
from cahp_plugin.observe.batches import first_examples, largest_first, read_inputs
from cahp_plugin.observe.conditioning import CONDITIONINGS
from cahp_plugin.units.positions import max_positions

NONE = CONDITIONINGS["none"]


def changed(**changes):
    batch = tiny_batches(6, 6)[0] | changes
    return [{name: value for name, value in batch.items() if value is not None}]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "data set is empty"),
        (iter([]), "data set is empty"),
        ([["not a dict"]], "Batch 0 is a list; expected a dict"),
        (changed(labels=None), "Batch 0 has no `labels`; its keys are attention_mask, input_ids"),
        (changed(input_ids=None), r"no `input_ids` of shape \(batch, tokens\)"),
        (changed(labels=torch.rand(6)), "must be whole numbers"),
        (changed(labels=torch.zeros(6, 2, dtype=torch.long)), "of shape \\(batch,\\)"),
        (changed(labels=torch.tensor([0, 1, 2])), "6 examples and 3 labels"),
        (changed(labels=torch.tensor([0, 1, 2, 0, 1, 3])), "label 3; the model has 3 classes"),
        (changed(labels=torch.tensor([0, 1, 2, 0, 1, -100])), "label -100"),
        (changed(labels=torch.tensor([1] * 6)), "All 6 examples have the label 1"),
        (changed(labels=torch.tensor([0, 0, 1, 1, 1, 2])), "Class 2 has a single example"),
        (changed(attention_mask=torch.zeros(6, 2)), "without a single real token"),
    ],
)
def test_bad_batches_are_told_before_the_model_runs(batches, message):
    model = tiny_model("bert")
    model.forward = None  # any use of the model would raise a TypeError
    with pytest.raises(DataError, match=message):
        prepare_batches(batches, model)


def test_iterators_are_kept_for_the_second_walk():
    prepared = prepare_batches(iter(tiny_batches(30, 8)), tiny_model("bert"))
    assert (len(prepared), prepared.num_examples, prepared.classes) == (4, 30, (0, 1, 2))
    assert [len(batch.labels) for batch in prepared] == [len(batch.labels) for batch in prepared] == [8, 8, 8, 6]


@pytest.mark.parametrize(("name", "limit"), [("bert", 40), ("distilbert", 40), ("electra", 40), ("roberta", 39)])
def test_positions_that_the_model_has(name, limit):
    model = tiny_model(name, pad_token_id=0)
    assert max_positions(model) == limit
    model(input_ids=torch.full((1, limit), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, limit + 1), 5))


@pytest.mark.parametrize("padding", ["right", "left"])
def test_long_batches_are_truncated_with_one_warning(padding, caplog):
    batches = tiny_batches(12, 3, padding=padding, lengths=(45, 60))
    with caplog.at_level(logging.WARNING):
        prepared = prepare_batches(batches, tiny_model("bert"))
        assert all(batch.inputs["input_ids"].shape[1] == 40 == batch.mask.shape[1] for batch in prepared)
    assert len([record for record in caplog.records if "truncated to the 40" in record.getMessage()]) == 1
    assert max(prepared.lengths) == 40


def test_rows_leaves_out_columns_that_are_only_padding():
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0], [9, 0, 0, 0]])
    batch = next(
        iter(
            prepare_batches(
                [
                    {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.tensor([0, 1, 0])},
                    {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.tensor([1, 1, 0])},
                ],
                tiny_model("bert"),
            )
        )
    )
    rows = batch.rows(torch.tensor([1, 2]))
    assert rows.inputs["input_ids"].tolist() == [[5, 6], [9, 0]]
    assert rows.mask.tolist() == [[True, True], [True, False]]
    assert rows.labels.tolist() == [1, 0]


@pytest.mark.parametrize("conditioning", ["prediction", "none"])
def test_labels_are_needed_for_labelled_classes_only(conditioning):
    model, batches = tiny_model("bert"), tiny_batches(6, 3)
    for batch in batches:
        del batch["labels"]
    with pytest.raises(DataError, match=r'no `labels`.*`conditioning="prediction"`.*`conditioning="none"`'):
        prepare_batches(batches, model)
    prepared = prepare_batches(batches, model, CONDITIONINGS[conditioning])
    assert [batch.labels for batch in prepared] == [None, None] and prepared.classes == ()
    assert prepared.num_examples == len(prepared.lengths) == 6
    token_labels = torch.full_like(batches[0]["input_ids"], -100)
    (batch,) = prepare_batches([batches[0] | {"labels": token_labels}], model, CONDITIONINGS[conditioning])
    assert batch.labels.equal(token_labels) and "labels" not in batch.inputs


class Decoding(torch.nn.Module):
    """What an encoder-decoder model shows of itself before it runs."""

    def __init__(self, **config):
        super().__init__()
        values = {"num_labels": 2, "decoder_start_token_id": 7, "pad_token_id": 1, "max_position_embeddings": None}
        self.config = SimpleNamespace(**values | config)

    def forward(self, input_ids, attention_mask=None, decoder_input_ids=None, decoder_attention_mask=None):
        raise AssertionError("the model ran")


IDS = torch.tensor([[5, 6, 7, 8], [9, 5, 0, 0]])


def test_decoder_inputs_are_made_of_token_labels():
    labels = torch.tensor([[11, 12, 13], [14, -100, -100]])
    batches = [{"input_ids": IDS, "attention_mask": (IDS > 0).long(), "labels": labels}]
    (batch,) = prepare_batches(batches, Decoding(), NONE)
    assert batch.inputs["decoder_input_ids"].tolist() == [[7, 11, 12], [7, 14, 1]]
    assert batch.decoder_mask.tolist() == [[True] * 3, [True, True, False]]
    assert batch.inputs["decoder_attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.labels.equal(labels) and batch.mask.sum().item() == 6
    second = batch.rows(torch.tensor([1]))
    assert second.inputs["decoder_input_ids"].tolist() == [[7, 14]] and second.inputs["input_ids"].tolist() == [[9, 5]]
    assert second.labels.tolist() == [[14, -100]] and second.decoder_mask.shape == (1, 2)


def test_given_decoder_inputs_stay():
    given = torch.tensor([[7, 11], [7, 0]])
    batches = [{"input_ids": IDS, "decoder_input_ids": given, "decoder_attention_mask": (given > 0).long()}]
    (batch,) = prepare_batches(batches, Decoding(), NONE)
    assert batch.inputs["decoder_input_ids"] is given and batch.decoder_mask.tolist() == [[True, True], [True, False]]
    del batches[0]["decoder_attention_mask"]
    (batch,) = prepare_batches(batches, Decoding(), NONE)
    assert batch.decoder_mask.all() and "decoder_attention_mask" not in batch.inputs


def test_a_decoder_without_input_is_told():
    batches = [{"input_ids": IDS, "labels": torch.tensor([0, 1])}]
    with pytest.raises(DataError, match=r"nothing for the decoder of Decoding.*`decoder_input_ids`.*`labels`"):
        prepare_batches(batches, Decoding(), NONE)
    with pytest.raises(DataError, match="lacks `decoder_start_token_id`"):
        prepare_batches([{"input_ids": IDS, "labels": IDS}], Decoding(decoder_start_token_id=None), NONE)


def test_images_have_no_padding():
    model = Decoding()
    model.__class__ = type("Vision", (torch.nn.Module,), {"main_input_name": "pixel_values"})
    images = {"pixel_values": torch.rand(3, 3, 8, 8), "labels": torch.tensor([0, 1, 0])}
    prepared = prepare_batches([images, images], model)
    assert prepared.lengths == () and prepared.num_examples == 6 and prepared.classes == (0, 1)
    rows = next(iter(prepared)).rows(torch.tensor([2, 0]))
    assert rows.inputs["pixel_values"].equal(images["pixel_values"][[2, 0]]) and rows.labels.tolist() == [0, 0]
    with pytest.raises(
        DataError, match=r"no `pixel_values` of shape \(batch, channels, height, width\); .*: input_ids"
    ):
        prepare_batches([{"input_ids": IDS}], model, NONE)


def test_the_largest_batch_comes_first_and_none_is_lost():
    sizes = [(2, 5), (4, 9), (3, 9), (4, 2), (3, 9)]
    given = [{"input_ids": torch.full(size, place + 1)} for place, size in enumerate(sizes)]
    found = largest_first(read_inputs(given, tiny_model()))
    assert [int(batch.inputs["input_ids"][0, 0]) for batch in found] == [2, 3, 5, 1, 4]


@pytest.mark.parametrize(
    ("problem", "dtype"),
    [("multi_label_classification", torch.long), ("multi_label_classification", torch.float32),
     ("regression", torch.float32)],
)  # fmt: skip
def test_as_many_labels_as_tokens_stay_where_a_batch_is_shortened(problem, dtype):
    """Four labels an example; the first example has two tokens, the second four."""
    model = tiny_model(num_labels=4)
    model.config.problem_type = problem
    labels = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0]], dtype=dtype)
    ids = torch.tensor([[5, 6, 0, 0], [5, 6, 7, 8]])
    data = [{"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}]
    (batch,) = first_examples(read_inputs(data, model, labels=True), 1)
    assert batch.inputs["input_ids"].tolist() == [[5, 6]] and batch.labels.tolist() == [[1, 0, 0, 1]]


def test_labels_of_tokens_are_shortened_with_them():
    ids = torch.tensor([[5, 6, 0, 0], [5, 6, 7, 8]])
    data = [{"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": ids}]
    (batch,) = first_examples(read_inputs(data, zoo_model("gpt2"), labels=True), 1)
    assert batch.inputs["input_ids"].tolist() == batch.labels.tolist() == [[5, 6]]
