"""How each task makes examples of rows, and predictions of what comes out of a model."""

import dataclasses
import itertools
import json
import math
import random

import numpy as np
import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, List
from made import BERT, MADE, causal_tokenizer, names, noisy_model, tokenizer
from PIL import Image

from cahp_plugin.cli import main
from cahp_plugin.data.labels import encode_label_sets
from cahp_plugin.errors import DataError, UnsupportedModelError
from cahp_plugin.tasks import TASKS, encode, evaluate, task_of, with_targets
from cahp_plugin.tasks.examples import Examples

rows = Dataset.from_list


# What a model does.


def test_a_class_of_the_users_own_and_a_named_task():
    class Mine(transformers.BertForSequenceClassification):
        pass

    model = Mine(transformers.BertConfig(**BERT, num_labels=3))
    assert task_of(model) is task_of(model, "text-classification")
    assert model.config.problem_type == "single_label_classification"
    task_of(model, "multi-label-classification")
    assert task_of(model).name == "multi-label-classification"  # noted in the config, which a reload reads
    assert task_of(model, "text-classification") is task_of(model)  # and taken back
    with pytest.raises(UnsupportedModelError, match="gives 3 logit"):
        task_of(model, "text-regression")
    one = transformers.BertForSequenceClassification(transformers.BertConfig(**BERT, num_labels=1))
    with pytest.raises(UnsupportedModelError, match="takes two or more"):
        task_of(one, "text-classification")


def test_a_model_with_a_head_gives_no_embeddings():
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=20))
    assert task_of(model).name == "text-generation"
    with pytest.raises(
        UnsupportedModelError, match="has a head of its own, and feature-extraction takes a model without one"
    ):
        task_of(model, "feature-extraction")


def test_models_that_no_command_feeds():
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision = small | {"image_size": 8, "patch_size": 4}
    model = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=small | {"vocab_size": 70}, vision_config=vision)
    )
    with pytest.raises(UnsupportedModelError, match="can be exported; no command feeds them"):
        encode(rows([{"text": "w1"}]), model, tokenizer())
    with pytest.raises(UnsupportedModelError, match="has a head of its own"):
        task_of(model, "feature-extraction")
    with pytest.raises(UnsupportedModelError, match="BartModel gives no embedding of a text"):
        encode(rows([{"text": "w1"}]), transformers.BartModel(noisy_model("text2text-generation").config), tokenizer())


# In which order, in which batches.


@pytest.mark.parametrize("name", sorted(set(MADE) - {"image-classification", "automatic-speech-recognition"}))
def test_what_is_reported_depends_on_no_order(name):
    model, processor = noisy_model(name), MADE[name].processor()
    data = rows(MADE[name].rows(random.Random(0), 12))
    examples = with_targets(model, encode(data, model, processor))
    assert encode(data.with_format("numpy"), model, processor).fingerprint() == examples.fingerprint()
    found = evaluate(model, examples)
    for other, size in ((examples, 1), (examples, 5), (examples.by_length(), 5)):
        again = evaluate(model, other, batch_size=size)
        assert again.loss == pytest.approx(found.loss, abs=1e-5)
        assert [score.value for score in again.scores] == pytest.approx([s.value for s in found.scores], rel=1e-5)
    chosen = [9, 4, 7, 1]
    part = with_targets(model, encode(data.select(chosen), model, processor))
    some = examples.select([index for index, row in enumerate(examples.rows) if row in chosen][::-1])
    if name != "fill-mask":  # whose hidden tokens go with the number of the row
        assert evaluate(model, some).loss == pytest.approx(evaluate(model, part).loss, abs=1e-5)
        expected = evaluate(model, part).score.value
        assert evaluate(model, some).score.value == pytest.approx(expected, rel=1e-5)


# Sets of labels, and numbers.


def sets(values, feature=None, **config):
    features = Features({"labels": feature}) if feature else None
    config = transformers.BertConfig(**(config or names("a", "b", "c")))
    return encode_label_sets(Dataset.from_dict({"labels": values}, features=features), "labels", config)


def test_sets_of_labels():
    expected = [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert sets([["a", "c"], [], ["b"]]) == expected
    assert sets([["c", "A"], [], [" b "]]) == expected  # written about the same
    assert sets([[0, 2], [], [1]]) == expected
    assert sets(expected) == sets([[float(x) for x in row] for row in expected]) == expected
    assert sets([[bool(x) for x in row] for row in expected]) == expected
    other = List(ClassLabel(names=["c", "b", "a"]))  # numbered otherwise than the model: names count
    assert sets([[2, 0], [], [1]], other) == expected
    assert sets([[0, 2], [], [1]], List(ClassLabel(names=["x", "y", "z"])), num_labels=3) == expected  # no names
    assert sets([["LABEL_0"], ["LABEL_1"]], num_labels=2) == [[1, 0], [0, 1]]


def test_sets_that_can_be_read_in_two_ways():
    assert sets([[0, 1], [1, 0]], num_labels=2) == [[0, 1], [1, 0]]  # 0 or 1 for each label of the model
    assert sets([[0, 1], [1]], num_labels=2) == [[1, 1], [0, 1]]  # one row is not: labels
    assert sets([[0, 1], [1, 0]], List(ClassLabel(names=["a", "b"])), num_labels=2) == [[1, 1], [1, 1]]
    for values in ([[0, 1, 0, 1]], [[1.0, 0.0]], [[3]], [[-1]], [["d"]], [[None]], [None]):
        with pytest.raises(DataError, match="Column 'labels', row 0"):
            sets(values)


def test_numbers():
    model = noisy_model("text-regression")
    data = rows([{"text": "w1", "score": "0.5"}, {"text": "w2 w3", "score": "-1e2"}])  # as a CSV file may have them
    examples = encode(data, model, tokenizer())
    assert examples.references == [0.5, -100.0]
    assert examples.batch([1, 0])["labels"].tolist() == [-100.0, 0.5]
    for bad in ("", "nan", "inf", "one"):
        with pytest.raises(DataError, match="row 1: expected a number, got"):
            encode(rows([{"text": "w1", "score": "1"}, {"text": "w1", "score": bad}]), model, tokenizer())


# Language models.


def test_every_token_but_the_first_of_a_piece_is_predicted_once():
    model, long = noisy_model("text-generation"), [f"w{i % 60}" for i in range(100)]
    data = rows([{"text": " ".join(long)}, {"text": "w7"}, {"text": " "}, {"text": "w1 w2 w3"}])
    examples = encode(data, model, causal_tokenizer(), max_length=16)  # a tokenizer without a padding token
    assert list(examples.rows) == [0] * 7 + [3]
    assert examples.told == "1 of 4 texts are longer than 16 tokens and were taken apart: 8 examples."
    joined = [token for piece in list(examples.encoded["input_ids"])[:7] for token in piece]
    assert joined == causal_tokenizer()(" ".join(long))["input_ids"]
    batch = examples.batch(range(8))
    assert batch["attention_mask"].sum(dim=1).tolist() == [16] * 6 + [4, 3]
    weights = examples.task.weights(batch, batch["labels"])
    assert weights.tolist() == [15] * 6 + [3, 2]
    found = evaluate(model, examples)
    assert found.num_examples == 2
    total = 0.0
    with torch.no_grad():
        for piece in examples.encoded["input_ids"]:
            losses = model(torch.tensor([piece])).logits[0, :-1].log_softmax(dim=-1)
            total -= sum(float(losses[i, token]) for i, token in enumerate(piece[1:]))
    assert found.score.value == pytest.approx(math.exp(total / int(weights.sum())), rel=1e-4)
    with pytest.raises(DataError, match="no text has two tokens"):
        encode(rows([{"text": "w7"}]), model, causal_tokenizer())


def test_hidden_tokens_are_the_same_for_every_model():
    model = noisy_model("fill-mask")
    texts = [" ".join(f"w{(i * j) % 60}" for j in range(1, 3 + 9 * (i % 5))) for i in range(30)]
    first, again = (encode(rows([{"text": t} for t in texts]), m, tokenizer(), max_length=20)
                    for m in (model, noisy_model("fill-mask")))  # fmt: skip
    assert list(first.encoded) == list(again.encoded)
    count = total = 0
    for row in first.encoded:
        hidden = [label != -100 for label in row["labels"]]
        assert any(hidden)
        for token, label in zip(row["input_ids"], row["labels"], strict=True):
            assert label == -100 or (token == 4 and label > 4)
        count, total = count + sum(hidden), total + len(hidden) - 2
    assert 0.13 < count / total < 0.2
    less = encode(rows([{"text": t} for t in [" ", *texts[1:]]]), model, tokenizer(), max_length=20)
    rest = [[row for row in examples.encoded if row["row"] > 0] for examples in (first, less)]
    assert rest[0] == rest[1]  # whatever the other texts are


def test_a_single_token_is_hidden_too():
    plain = causal_tokenizer()  # nothing is around the words
    plain.add_special_tokens({"mask_token": "[MASK]", "pad_token": "[PAD]"})
    examples = encode(rows([{"text": f"w{i}"} for i in range(9)]), noisy_model("fill-mask"), plain)
    assert list(examples.encoded["input_ids"]) == [[4]] * 9 and examples.encoded[3]["labels"] == [8]


def test_slow_tokenizers_take_texts_apart_too(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]))
    slow = transformers.BertJapaneseTokenizer(
        str(tmp_path / "vocab.txt"), word_tokenizer_type="basic", subword_tokenizer_type="wordpiece"
    )
    assert not slow.is_fast
    examples = encode(rows([{"text": "a b c a b c a"}, {"text": "a"}]), noisy_model("fill-mask"), slow, max_length=5)
    read = [[label if label != -100 else token for token, label in zip(row["input_ids"], row["labels"], strict=True)]
            for row in examples.encoded]  # fmt: skip
    assert read == [[2, 5, 6, 7, 3], [2, 5, 6, 7, 3], [2, 5, 3], [2, 5, 3]] and list(examples.rows) == [0, 0, 0, 1]


# Encoder-decoders.


def test_what_the_decoder_reads_is_moved_by_one():
    model = noisy_model("text2text-generation")
    examples = encode(rows([{"source": "w1", "target": "w2 w3"}, {"source": "w4 w5 w6", "target": "w7"}]), model,
                      tokenizer())  # fmt: skip
    batch = examples.batch([0, 1])
    assert batch["labels"].tolist() == [[2, 7, 8, 3], [2, 12, 3, -100]]
    assert batch["decoder_input_ids"].tolist() == [[2, 2, 7, 8], [2, 2, 12, 3]]
    assert batch["decoder_attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    labels = batch.pop("labels")
    with torch.no_grad():  # the same as transformers makes of the labels
        own = model(**{name: batch[name] for name in ("input_ids", "attention_mask")}, labels=labels).logits
        assert torch.allclose(own[labels != -100], model(**batch).logits[labels != -100], atol=1e-6)


def test_too_long_targets_are_cut_and_told(caplog):
    import logging

    logging.getLogger("cahp_plugin").propagate = True
    data = rows([{"source": "w1", "target": "w2 " * 60}, {"source": "w1", "target": "w2"}])
    examples = encode(data, noisy_model("text2text-generation"), tokenizer())
    assert [len(ids) for ids in examples.encoded["labels"]] == [40, 3]
    assert "1 of 2 targets are longer than 40 tokens and were cut." in caplog.text


@pytest.mark.parametrize("metric", ["rouge1", "chrf", "wer"])
def test_texts_are_made_where_asked_for(metric, tmp_path, capsys):
    name = "text2text-generation"
    model = noisy_model(name)
    draw = random.Random(0)
    data = rows(MADE[name].rows(draw, 8))
    examples = encode(data, model, tokenizer())
    found = evaluate(model, examples, metric=metric, batch_size=3)
    assert [score.name for score in found.scores] == [metric, "token_loss"]
    single = []
    for index in range(8):
        batch = examples.batch([index])
        with torch.no_grad():
            ids = model.generate(batch["input_ids"], do_sample=False, num_beams=1, max_new_tokens=20)
        single.append(tokenizer().decode(ids[0], skip_special_tokens=True))
    assert all(a == b or a.startswith(b) or b.startswith(a) for a, b in zip(found.predictions, single, strict=True))
    if metric == "rouge1":
        model.save_pretrained(tmp_path / "model")
        tokenizer().save_pretrained(tmp_path / "model")
        data.to_json(tmp_path / "eval.jsonl")
        arguments = ["-m", tmp_path / "model", "-o", tmp_path / "onnx", "--eval", tmp_path / "eval.jsonl"]
        told = ["--metric", metric, "--quiet", "--json"]
        assert main(["export", *map(str, arguments), *told]) == 0
        exported = json.loads(capsys.readouterr().out)["fp32"]
        assert exported["rouge1"] == pytest.approx(evaluate(model, examples, metric=metric).score.value, abs=1e-6)


# Images and speech.


def test_images_are_prepared_in_order(tmp_path):
    model, processor = noisy_model("image-classification"), MADE["image-classification"].processor()
    draw = np.random.default_rng(0)
    pictures = [Image.fromarray(draw.integers(0, 255, (9 + i, 12, 3)).astype(np.uint8)) for i in range(3)]
    data = rows([{"img": picture, "fine_label": i} for i, picture in enumerate(pictures)])
    examples = encode(data, model, processor)
    batch = examples.batch([2, 0])
    assert batch["labels"].tolist() == [2, 0]
    expected = processor(images=[pictures[2], pictures[0]], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected)


def test_recordings_and_what_is_said_in_them():
    model, processor = noisy_model("automatic-speech-recognition"), MADE["automatic-speech-recognition"].processor()
    draw = np.random.default_rng(0)
    sounds = [draw.normal(size=count).astype(np.float32) for count in (900, 20000)]
    data = rows([{"audio": {"array": sound, "sampling_rate": 16000}, "sentence": text}
                 for sound, text in zip(sounds, ("ab", "c"), strict=True)])  # fmt: skip
    examples = encode(data, model, processor)
    assert examples.told == "1 of 2 recordings are longer than 1 s and were cut."
    batch = examples.batch([1, 0])
    expected = processor.feature_extractor(sounds[::-1], sampling_rate=16000, return_tensors="pt")["input_features"]
    assert torch.allclose(batch["input_features"], expected)
    start = model.config.decoder_start_token_id
    assert batch["decoder_input_ids"][:, 0].tolist() == [start] * 2 and start not in batch["labels"][:, 0]
    spoken = [processor.tokenizer.decode([t for t in row if t != -100], skip_special_tokens=True)
              for row in batch["labels"].tolist()]  # fmt: skip
    assert spoken == ["c", "ab"]
    with pytest.raises(DataError, match="`max_length` is 21; the model takes at most 20"):
        encode(data, model, processor, max_length=21)


# Embeddings.


def test_pairs_are_two_examples_each():
    model, made = noisy_model("feature-extraction"), MADE["feature-extraction"]
    pairs = made.rows(random.Random(0), 6)
    examples = encode(rows(pairs), model, tokenizer())
    assert list(examples.rows) == [i for i in range(6) for _ in range(2)]
    found = evaluate(model, with_targets(model, examples))
    with torch.no_grad():
        states = [[model(**tokenizer()([row[key]], return_tensors="pt")).last_hidden_state.mean(dim=1)
                   for key in ("sentence1", "sentence2")] for row in pairs]  # fmt: skip
    expected = [float(torch.cosine_similarity(*pair)) for pair in states]
    assert found.predictions == pytest.approx(expected, abs=1e-5) and found.loss == pytest.approx(0, abs=1e-6)
    assert [score.name for score in found.scores] == ["spearman", "cosine"] and found.num_examples == 6
    bare = encode(rows([{k: row[k] for k in ("sentence1", "sentence2")} for row in pairs]), model, tokenizer())
    score = evaluate(model, with_targets(model, bare)).score
    assert (score.name, score.value) == ("cosine", pytest.approx(1, abs=1e-6))
    with pytest.raises(DataError, match="Column 'sentence2', row 1: expected text"):
        encode(rows([pairs[0], pairs[1] | {"sentence2": None}]), model, tokenizer())


# Memory.


def test_batches_of_a_vocabulary_stay_below_the_limit(monkeypatch):
    monkeypatch.setattr("cahp_plugin.tasks.examples._LARGEST_OUTPUT", 1000)
    draw = random.Random(0)
    lengths = [draw.randrange(1, 60) for _ in range(200)]
    empty = rows([{"x": 0}] * 200)
    examples = Examples(TASKS["text-generation"], empty, dict, lengths, [""] * 200, range(200), width=10)
    order = draw.sample(range(200), 200)
    groups = list(examples.groups(order, 16))
    assert [index for group in groups for index in group] == order
    for group in groups:
        assert len(group) <= 16 and (len(group) == 1 or len(group) * max(lengths[i] for i in group) * 10 <= 1000)
    for group, after in itertools.pairwise(groups):  # none could have been larger
        more = [*group, after[0]]
        assert len(more) > 16 or len(more) * max(lengths[i] for i in more) * 10 > 1000
    wide = dataclasses.replace(examples, width=0)
    assert {len(group) for group in list(wide.groups(order, 16))[:-1]} == {16}
    assert len(examples.batches(16, shuffle=True)) > 200 / 16
