"""Encoded examples: in order, in batches, in part; and what an evaluation makes of them."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import tiny_model
from transformers import BertConfig, BertModel
from words import encoded_words, tiny_tokenizer, word_examples

from cahp_plugin import encode, evaluate
from cahp_plugin.errors import DataError
from cahp_plugin.tasks import with_targets


def test_batches_are_what_the_model_takes():
    model = tiny_model()
    examples = encoded_words(model, 10)
    batches = list(examples.batches(4))
    assert [len(batch["labels"]) for batch in batches] == [4, 4, 2] and len(examples.batches(4)) == 3
    assert batches[0]["input_ids"][0].tolist()[:5] == [2, 4, 7, 10, 3]  # [CLS] w0 w3 w6 [SEP]
    assert model(**batches[0]).loss.isfinite()
    assert all(map(torch.equal, batches[1].values(), examples.batch([4, 5, 6, 7]).values()))
    orders = [
        torch.cat([batch["labels"] for batch in examples.batches(shuffle=True, seed=seed)]).tolist()
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_each_walk_draws_another_order():
    loader = encoded_words(tiny_model(), 30).batches(8, shuffle=True)
    first, second = ([batch["input_ids"].tolist() for batch in loader] for _ in range(2))
    assert first != second


def test_examples_about_as_long_share_a_shuffled_batch():
    texts = ["w1 " * (1 + place % 30) for place in range(480)]
    data = Dataset.from_dict({"text": texts, "label": [place % 3 for place in range(480)]})
    examples = encode(data, tiny_model(), tiny_tokenizer())

    def walks(seed, **more):
        loader = examples.batches(8, shuffle=True, seed=seed, **more)
        return [[batch["attention_mask"].sum(dim=1).tolist() for batch in loader] for _ in range(2)]

    def spread(batches):
        return sum(max(lengths) - min(lengths) for lengths in batches) / len(batches)

    first, second = walks(0, group_by_length=True)
    expected = sorted(len(ids) for ids in examples.encoded["input_ids"])
    assert all(sorted(itertools.chain(*batches)) == expected for batches in (first, second))
    assert first != second and [first, second] == walks(0, group_by_length=True) != walks(1, group_by_length=True)
    assert spread(first) < 4 < 15 < spread(walks(0)[0])


def test_the_shortest_come_first_and_equally_long_ones_in_order():
    examples = encoded_words(tiny_model(), 20)
    found = examples.by_length()
    order = sorted(range(20), key=lambda place: examples.lengths[place])
    assert found.encoded["input_ids"][:] == [examples.encoded["input_ids"][place] for place in order]
    assert list(found.references) == [examples.references[place] for place in order]
    assert list(found.lengths) == sorted(examples.lengths) and list(found.rows) == list(range(20))


def test_a_batch_shrinks_where_the_outputs_would_fill_the_memory():
    examples = dataclasses.replace(encoded_words(tiny_model(), 10), lengths=[4] * 10, width=2**22)
    assert [len(group) for group in examples.groups(range(10), 8)] == [4, 4, 2]  # 4 of 4 tokens: 256 MiB
    wide = dataclasses.replace(examples, width=2**30)
    assert [len(group) for group in wide.groups(range(3), 8)] == [1, 1, 1]


def test_a_fingerprint_is_of_the_examples_alone():
    examples = encoded_words(tiny_model(), 10)
    same = encoded_words(tiny_model(seed=1), 10)
    assert examples.fingerprint() == same.fingerprint() and len(same.fingerprint()) == 16
    assert examples.fingerprint() != examples.select(range(9)).fingerprint()
    assert examples.fingerprint() != examples.select([1, 0, *range(2, 10)]).fingerprint()


def test_evaluation_equals_a_plain_loop():
    model = tiny_model().train()
    examples = encoded_words(model, 20)
    found = evaluate(model, examples, batch_size=8)
    assert model.training
    model.eval()
    with torch.no_grad():
        single = list(examples.batches(1))
        logits = torch.cat([model(**{k: v for k, v in b.items() if k != "labels"}).logits for b in single])
    labels = torch.cat([batch["labels"] for batch in single])
    hits = logits.argmax(dim=1) == labels
    assert found.predictions == tuple(logits.argmax(dim=1).tolist()) and found.rows.tolist() == hits.tolist()
    assert found.score.value == pytest.approx(hits.float().mean().item()) and found.score.name == "accuracy"
    assert found.score.interval[0] < found.score.value < found.score.interval[1]
    assert found.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert found.num_examples == 20
    with pytest.raises(DataError, match="empty"):
        evaluate(model, examples.select([]))


@pytest.mark.parametrize("chosen", [[5, 6], [7, 2, 19, 0], list(range(19, -1, -1))])
def test_examples_in_part_and_in_another_order_keep_their_own_references(chosen):
    model = tiny_model()
    examples = encoded_words(model, 20)
    whole = evaluate(model, examples)
    found = evaluate(model, examples.select(chosen))
    rows = sorted(chosen)  # in the order of the rows
    assert found.predictions == tuple(whole.predictions[row] for row in rows)
    np.testing.assert_array_equal(found.rows, whole.rows[rows])
    assert found.num_examples == len(chosen) and found.score.value == pytest.approx(whole.rows[rows].mean())
    again = evaluate(model, examples.select(chosen).by_length())
    assert (again.loss, again.score.value) == pytest.approx((found.loss, found.score.value))


def test_a_pair_that_is_two_examples_stays_one_in_the_order_of_lengths():
    torch.manual_seed(0)
    config = BertConfig(vocab_size=100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=8)  # fmt: skip
    model = BertModel(config).eval()
    pairs = [
        {"sentence1": row["text"], "sentence2": "w3 " * (5 * place % 7 + 1), "score": float(place)}
        for place, row in enumerate(word_examples(12))
    ]
    examples = with_targets(model, encode(Dataset.from_list(pairs), model, tiny_tokenizer()))
    plain, sorted_ = evaluate(model, examples), evaluate(model, examples.by_length())
    assert plain.predictions == pytest.approx(sorted_.predictions, abs=1e-6) and len(plain.predictions) == 12
    assert plain.score.value == sorted_.score.value
    first = with_no_padding(model, pairs[4]["sentence1"]), with_no_padding(model, pairs[4]["sentence2"])
    assert plain.predictions[4] == pytest.approx(torch.nn.functional.cosine_similarity(*first, dim=0).item(), abs=1e-5)


def with_no_padding(model, text):
    """The mean of a text's last hidden states."""
    with torch.no_grad():
        return model(**tiny_tokenizer()(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
