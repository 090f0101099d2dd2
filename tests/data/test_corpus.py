import re
from collections import Counter

import pytest

from cahp_plugin.data import graded_sentiment
from cahp_plugin.data.corpus import parts
from cahp_plugin.errors import ConfigError


def test_the_same_seed_gives_the_same_corpus():
    first, again, other = (graded_sentiment(100, 50, 50, seed=seed) for seed in (0, 0, 1))
    assert {name: split.to_list() for name, split in first.items()} == {n: s.to_list() for n, s in again.items()}
    assert first["train"]["text"][:] != other["train"]["text"][:]


def test_classes_are_even_and_texts_differ():
    corpus = graded_sentiment(500, 100, 100)
    for split in corpus.values():
        counts = Counter(split["label"])
        assert sorted(counts) == [0, 1, 2, 3, 4] and len(set(counts.values())) == 1
    assert len(set(corpus["train"]["text"])) > 450


def test_templates_of_the_splits_are_disjoint():
    def shapes(name):
        return {
            re.sub(r"\{\w+\}", "(.+)", template) for template in parts()["clauses"][name] + parts()["contrasts"][name]
        }

    assert not shapes("train") & shapes("test") and not shapes("train") & shapes("validation")
    assert not shapes("validation") & shapes("test")
    corpus = graded_sentiment(300, 100, 300)
    patterns = [re.compile(re.sub(r"\{\w+\}", ".+", template)) for template in parts()["clauses"]["train"]]
    assert not any(p.search(text) for p in patterns for text in corpus["test"]["text"])
    assert not set(corpus["train"]["text"]) & set(corpus["test"]["text"])


def test_word_counts_do_not_give_the_class_away():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    corpus = graded_sentiment(2000, 100, 500)
    words = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000, C=10))
    words.fit(corpus["train"]["text"][:], corpus["train"]["label"][:])
    accuracy = words.score(corpus["test"]["text"][:], corpus["test"]["label"][:])
    assert 0.3 < accuracy < 0.7  # better than chance, far from what an encoder reaches


def test_sizes_that_are_too_small():
    with pytest.raises(ConfigError, match="test split needs at least 10 sentences, got 9"):
        graded_sentiment(10, 10, 9)
