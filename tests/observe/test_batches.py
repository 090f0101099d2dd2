import logging

import pytest
import torch
from tiny import tiny_batches, tiny_model

from cahp_plugin.architectures.positions import max_positions
from cahp_plugin.errors import DataError
from cahp_plugin.observe import prepare_batches


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
        (changed(input_ids=None), "no `input_ids`"),
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
    assert (prepared.num_batches, prepared.num_examples, prepared.classes) == (4, 30, (0, 1, 2))
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
