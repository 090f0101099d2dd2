"""Answers are found in windows of long contexts, and windows are put together."""

import math
from types import SimpleNamespace

import pytest
import torch
import transformers
from datasets import Dataset
from made import letters, noisy_model

from cahp_plugin.tasks import encode

rows = Dataset.from_list


def question(context, answer, asked="a b"):
    start = context.index(answer) if answer else 0
    answers = {"text": [answer] if answer else [], "answer_start": [start] if answer else []}
    return {"question": asked, "context": context, "answers": answers}


CONTEXTS = ["c d e " * 6 + "abc de " + "d e " * 5, "e", "dd cc"]


def asked(limit=20, side="right", none=False):
    data = [question(CONTEXTS[0], "abc de"), question("e", "e"), question("dd cc", "" if none else "cc")]
    examples = encode(rows(data), noisy_model("question-answering"), letters(), max_length=limit)
    examples.collate._tokenizer.padding_side = side
    return examples


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_answer_is_found_in_the_windows_that_hold_it(side):
    examples = asked(side=side)
    assert list(examples.rows) == [0] * (len(examples) - 2) + [1, 2] and len(examples) > 4
    assert "1 of 3 texts are longer than 20 tokens" in examples.told
    batch, held = examples.batch(range(len(examples))), 0
    for index, row in enumerate(examples.rows):
        text, (first, last) = letters().decode(batch["input_ids"][index]), batch["labels"][index].tolist()
        ids = batch["input_ids"][index, first : last + 1]
        if ids.tolist() == [2]:  # [CLS]: not here
            assert "abc de" not in text
        else:
            assert letters().decode(ids).replace(" ##", "") == ("abc de", "e", "dd cc"[3:])[row]
            held += row == 0
    assert held >= 1


def search(examples, starts, ends, none):
    """The best span of all windows of each row, one by one."""
    texts = []
    for row, context in enumerate(CONTEXTS):
        best, empty = (-math.inf, ""), math.inf
        for index, own in enumerate(examples.rows):
            if own != row:
                continue
            places = examples.encoded[index]["offsets"]
            empty = min(empty, float(starts[index][0] + ends[index][0]))
            for i, (first, _) in enumerate(places):
                for j in range(i, min(i + 30, len(places))):
                    if first >= 0 and places[j][0] >= 0:
                        score = float(starts[index][i] + ends[index][j])
                        best = max(best, (score, context[first : places[j][1]]))
        texts.append("" if none and empty > best[0] else best[1])
    return texts


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("none", [False, True])
def test_answers_are_those_of_a_search_over_all_spans(side, none):
    examples, draw = asked(side=side, none=none), torch.Generator().manual_seed(0)
    count = len(examples)
    batch = examples.batch(range(count))
    width, seen = batch["input_ids"].shape[1], set()
    shift = (batch["attention_mask"] == 0).sum(dim=1) * (side == "left")
    for _ in range(20):
        starts, ends = 2 * torch.randn(2, count, width, generator=draw)
        output = SimpleNamespace(
            start_logits=torch.stack([row.roll(int(by)) for row, by in zip(starts, shift, strict=True)]),
            end_logits=torch.stack([row.roll(int(by)) for row, by in zip(ends, shift, strict=True)]),
        )
        outcomes = examples.task.outcomes(output, examples.features(range(count)), batch)
        texts, references = examples.task.predictions(examples, outcomes)
        assert texts == search(examples, starts, ends, none)
        seen |= set(texts)
    assert references == [["abc de"], ["e"], [] if none else ["cc"]]
    assert ("" in seen) == none and len(seen) > 20


def test_long_questions_leave_room_for_the_context():
    data = rows([question("c d e", "d", asked="abcde " * 9), question("c d e", "e")])
    examples = encode(data, noisy_model("question-answering"), letters(), max_length=13)
    assert max(examples.lengths) <= 13
    for index in range(len(examples)):
        labels, ids = examples.encoded[index]["labels"], examples.encoded[index]["input_ids"]
        assert letters().decode(ids[labels[0] : labels[1] + 1]) in ("d", "e", "[CLS]")
    assert len({tuple(row) for row in examples.encoded["labels"]}) > 1
    for limit in range(5, 20):
        assert max(encode(data, noisy_model("question-answering"), letters(), max_length=limit).lengths) <= limit


def test_neither_model_nor_tokenizer_has_a_limit():
    config = transformers.T5Config(
        vocab_size=15, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_decoder_layers=1, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    assert letters().model_max_length > 10**29
    examples = encode(rows([question("c d " * 900, "d")]), transformers.T5ForQuestionAnswering(config), letters())
    assert examples.lengths == [1 + 2 + 1 + 1800 + 1] and examples.told == ""  # [CLS] question [SEP] context [SEP]
    assert examples.encoded["labels"] == [[5, 5]]
    data = rows([{"tokens": ["a", "b"] * 900, "tags": [0, 1] * 900}])
    examples = encode(data, transformers.T5ForTokenClassification(config), letters())
    assert examples.lengths == [1 + 1800 + 1] and examples.told == ""
