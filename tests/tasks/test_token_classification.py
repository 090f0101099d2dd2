"""Words and their tags become tokens with labels, and back."""

import json
import random
from types import SimpleNamespace

import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, List, Value
from made import BERT, letters, names, noisy_model, tokenizer

from cahp_plugin.errors import DataError
from cahp_plugin.tasks import encode, evaluate, task_of
from cahp_plugin.tasks.processors import load_processor

rows = Dataset.from_list

WORDS = [["ab", "abc", "cde", "d"], ["edcba", "a"], ["b"] * 9]
NAMES = ("O", "B-X", "I-X", "B-Y", "I-Y")


def tagged(values, feature=None):
    features = Features({"tokens": List(Value("string")), "ner_tags": List(feature)}) if feature else None
    return Dataset.from_dict({"tokens": WORDS, "ner_tags": values}, features=features)


def test_the_first_token_of_a_word_has_its_tag():
    model = noisy_model("token-classification")
    tags = [[1, 2, 0, 3], [3, 4], [0] * 9]
    by_number = encode(tagged(tags), model, letters())
    assert by_number.encoded["labels"][:2] == [
        [-100, 1, 2, -100, 0, -100, -100, 3, -100],
        [-100, 3, -100, -100, -100, -100, 4, -100],
    ]
    by_name = encode(tagged([[NAMES[tag] for tag in row] for row in tags]), model, letters())
    order = ["I-Y", "O", "B-Y", "I-X", "B-X"]
    moved = tagged([[order.index(NAMES[tag]) for tag in row] for row in tags], ClassLabel(names=order))
    for other in (by_name, encode(moved, model, letters())):
        assert list(other.encoded["labels"]) == list(by_number.encoded["labels"])
        assert other.references == by_number.references == [[NAMES[tag] for tag in row] for row in tags]


def test_long_texts_are_taken_apart_and_put_together_in_order():
    model = noisy_model("token-classification")
    tags = [[1, 2, 0, 3], [3, 4], [0, 1, 2, 3, 4, 0, 1, 2, 3]]
    whole, parts = (encode(tagged(tags), model, letters(), max_length=length) for length in (None, 5))
    assert whole.told == "" and len(whole) == 3
    assert len(parts) == 3 + 2 + 3 and "3 of 3 texts are longer than 5 tokens" in parts.told
    assert max(parts.lengths) == 5
    for examples in (whole, parts):
        labels = [[label for piece, row in zip(examples.encoded["labels"], examples.rows, strict=True) if row == index
                   for label in piece if label != -100] for index in range(3)]  # fmt: skip
        assert labels == tags

    def by_letter(batch):  # a model that looks at no other token
        return SimpleNamespace(logits=torch.nn.functional.one_hot(batch["input_ids"] % 5, 5).float())

    found = []
    for examples in (whole, parts):
        for side in ("right", "left"):
            examples.collate._tokenizer.padding_side = side
            order = random.Random(0).sample(range(len(examples)), len(examples))
            batch, outcomes = examples.batch(order), [None] * len(examples)
            outcome = examples.task.outcomes(by_letter(batch), examples.features(order), batch)
            for index, value in zip(order, outcome, strict=True):
                outcomes[index] = value
            found.append(examples.task.predictions(examples, outcomes))
    first = letters().convert_tokens_to_ids
    expected = [[NAMES[first("ab" if word.startswith("ab") else word[0]) % 5] for word in row] for row in WORDS]
    assert found == [(expected, whole.references)] * 4


def test_a_word_without_a_token_is_outside():
    data = rows([{"tokens": ["a", " ", "b"], "ner_tags": ["B-X", "B-X", "B-X"]}])
    examples = encode(data, noisy_model("token-classification"), letters())
    assert examples.encoded["labels"][0] == [-100, 1, 1, -100]
    assert examples.task.predictions(examples, [[[0, 1], [2, 2]]])[0] == [["B-X", "O", "I-X"]]


def test_tags_without_entities_are_words():
    plain = transformers.BertForTokenClassification(transformers.BertConfig(**BERT, **names("NOUN", "VERB")))
    examples = encode(rows([{"tokens": ["w1"], "tags": ["VERB"]}]), plain, tokenizer())
    assert examples.task.metrics_of(examples) == ("word_accuracy",)
    assert evaluate(plain, examples).score.name == "word_accuracy"


def test_tokenizers_of_bytes_put_a_space_before_words(tmp_path):
    vocabulary = {
        letter: i for i, letter in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "b", "\u0120"])
    }
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    config = transformers.RobertaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                                        intermediate_size=8, max_position_embeddings=20)  # fmt: skip
    config.save_pretrained(tmp_path)
    model = transformers.RobertaForTokenClassification(config)
    data = rows([{"tokens": ["a", "b"], "tags": [0, 1]}])
    examples = encode(data, model, task_of(model).load_processor(str(tmp_path)))
    assert examples.encoded[0]["input_ids"] == [0, 7, 5, 7, 6, 2]
    with pytest.raises(DataError, match="`add_prefix_space=True`"):
        encode(data, model, load_processor(str(tmp_path)))
