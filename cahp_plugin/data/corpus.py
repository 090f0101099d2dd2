"""A synthetic corpus of graded sentiment, for the demo and the tests. No text in it was written by a person.

Five classes, 0 (very negative) to 4 (very positive). A sentence states a polarity and a grade through templates, so
that word counts alone do not give the class away: negation turns a phrase around and weakens it ("not good" is mildly
negative), intensifiers and diminishers move the grade ("truly", "a little"), and in a contrast ("... , but ...") the
second clause decides. The templates of train, validation and test are disjoint, and about half of the sentiment words
appear in validation and test only: those grades have to come from what the encoder knows.
"""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

from cahp_plugin.errors import ConfigError

NUM_CLASSES = 5


@functools.cache
def parts() -> dict[str, Any]:
    """What the sentences are made of, from ``graded_sentiment.json``.

    ``things`` of each domain; ``words`` of each kind; ``phrases`` of each grade: a template, and for each place in it
    a kind of words and what may stand before one; by split, templates of single ``clauses``, and how ``contrasts`` are
    put, in which the second clause decides.
    """
    return json.loads(Path(__file__).with_name("graded_sentiment.json").read_text(encoding="utf-8"))


def graded_sentiment(
    num_train: int = 3000, num_validation: int = 500, num_test: int = 1000, *, seed: int = 0
) -> dict[str, Any]:
    """Generates the corpus.

    Args:
        num_train: Training sentences.
        num_validation: Validation sentences.
        num_test: Test sentences.
        seed: Seed of the generator; the same seed gives the same sentences.

    Returns:
        ``datasets.Dataset`` objects with the columns ``text`` and ``label`` under ``"train"``, ``"validation"`` and
        ``"test"``; classes as even as the sizes allow, in random order.

    Raises:
        ConfigError: A size is below 10.
    """
    from datasets import Dataset

    sizes = {"train": num_train, "validation": num_validation, "test": num_test}
    corpus = {}
    for name, size in sizes.items():
        if size < 2 * NUM_CLASSES:
            raise ConfigError(f"The {name} split needs at least {2 * NUM_CLASSES} sentences, got {size}.")
        generator = random.Random(f"{seed} {name}")
        labels = [index % NUM_CLASSES for index in range(size)]
        generator.shuffle(labels)
        texts = [_sentence(label, name, generator) for label in labels]
        corpus[name] = Dataset.from_dict({"text": texts, "label": labels})
    return corpus


def _sentence(label: int, split: str, generator: random.Random) -> str:
    domain = generator.choice(sorted(parts()["things"]))
    second, other = generator.sample(parts()["things"][domain], 2)
    clause = _clause(label, domain, second, split, generator)
    if generator.random() < 0.4:
        # The first clause has any other grade, most often one of the other sign: it must not decide.
        distractor = generator.choice([grade for grade in range(NUM_CLASSES) if grade != label])
        first = _clause(distractor, domain, other, split, generator)
        clause = generator.choice(parts()["contrasts"][split]).format(first=first, second=clause)
    return f"{clause} ."


def _clause(label: int, domain: str, thing: str, split: str, generator: random.Random) -> str:
    return generator.choice(parts()["clauses"][split]).format(
        domain=domain, thing=thing, phrase=_phrase(label, split, generator)
    )


def _phrase(label: int, split: str, generator: random.Random) -> str:
    """A phrase of the given grade: a word of that grade, or one that modifiers bring there."""
    template, *places = generator.choice(parts()["phrases"][label])
    known = 0.5 if split == "train" else 1.0  # share of each list of words, from its start, that the split draws from
    found = []
    for kind, before in places:
        words = parts()["words"][kind]
        word = generator.choice(words[: max(1, round(len(words) * known))])
        found.append(f"{generator.choice(parts()['words'][before])} {word}" if before else word)
    return str(template.format(*found))
