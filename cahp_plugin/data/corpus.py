"""A synthetic corpus of graded sentiment, for the demo and the tests. No text in it was written by a person.

Five classes, 0 (very negative) to 4 (very positive). A sentence states a polarity and a grade through templates, so
that word counts alone do not give the class away: negation turns a phrase around and weakens it ("not good" is mildly
negative), intensifiers and diminishers move the grade ("truly", "a little"), and in a contrast ("... , but ...") the
second clause decides. The templates of train, validation and test are disjoint, and about half of the sentiment words
appear in validation and test only: those grades have to come from what the encoder knows.
"""

from __future__ import annotations

import random
from typing import Any

from cahp_plugin.errors import ConfigError

NUM_CLASSES = 5

_THINGS = {
    "film": ("plot", "acting", "ending", "dialogue", "soundtrack", "camera work"),
    "restaurant": ("food", "service", "menu", "dessert", "soup", "wine list"),
    "hotel": ("room", "breakfast", "staff", "location", "bed", "pool"),
    "phone": ("screen", "battery", "camera", "keyboard", "speaker", "design"),
    "novel": ("story", "opening chapter", "prose", "hero", "translation", "last page"),
    "concert": ("singer", "sound", "band", "hall", "encore", "light show"),
    "course": ("teacher", "material", "exercises", "pace", "lecture", "final project"),
    "train ride": ("seat", "view", "timetable", "crew", "ticket", "coffee"),
}
_POSITIVE = ("good", "pleasant", "charming", "solid", "enjoyable", "likeable", "clever", "tasteful", "fresh", "warm")
_VERY_POSITIVE = ("superb", "brilliant", "magnificent", "flawless", "stunning", "wonderful", "outstanding", "perfect")
_NEGATIVE = ("weak", "dull", "clumsy", "tired", "bland", "awkward", "flat", "messy", "shabby", "cold")
_VERY_NEGATIVE = ("dreadful", "awful", "terrible", "horrible", "atrocious", "unbearable", "disastrous", "abysmal")
_NEUTRAL = (
    "ordinary",
    "average",
    "standard",
    "usual",
    "typical",
    "plain",
    "unremarkable",
    "middling",
    "so-so",
    "okay",
)
_STRONG = ("truly", "utterly", "remarkably", "incredibly", "extremely", "really")
_SLIGHT = ("a little", "slightly", "somewhat", "a bit", "mildly", "rather")
_NOT = ("not", "far from", "anything but")
_NEVER = ("not at all", "never")

#: Phrases of each grade: a template, and for each of its places a list of words and of what may stand before one.
_PHRASES = (
    (("{}", (_VERY_NEGATIVE, ())), ("{}", (_NEGATIVE, _STRONG)), ("{}", (_VERY_NEGATIVE, _STRONG))),
    (
        ("{}", (_NEGATIVE, ())),
        ("{}", (_NEGATIVE, _SLIGHT)),
        ("{}", (_POSITIVE, _NOT)),
        ("{}", (_VERY_POSITIVE, _NEVER)),
    ),
    (
        ("{}", (_NEUTRAL, ())),
        ("{} and {}", (_NEUTRAL, ()), (_NEUTRAL, ())),
        ("neither {} nor {}", (_POSITIVE, ()), (_NEGATIVE, ())),
        ("neither {} nor {}", (_NEGATIVE, ()), (_POSITIVE, ())),
    ),
    (
        ("{}", (_POSITIVE, ())),
        ("{}", (_POSITIVE, _SLIGHT)),
        ("{}", (_NEGATIVE, _NOT)),
        ("{}", (_VERY_NEGATIVE, _NEVER)),
    ),
    (("{}", (_VERY_POSITIVE, ())), ("{}", (_POSITIVE, _STRONG)), ("{}", (_VERY_POSITIVE, _STRONG))),
)

#: Templates of single clauses, by split: {thing} of the {domain} with a sentiment {phrase}.
_CLAUSES = {
    "train": (
        "the {thing} of this {domain} is {phrase}",
        "i found the {thing} {phrase}",
        "everyone called the {thing} {phrase}",
        "in this {domain} the {thing} was {phrase}",
        "what a {domain} , its {thing} is {phrase}",
        "the {thing} turned out {phrase}",
        "for such a {domain} the {thing} is {phrase}",
        "we thought that the {thing} seemed {phrase}",
    ),
    "validation": (
        "honestly the {thing} felt {phrase}",
        "their {thing} remained {phrase} throughout the {domain}",
        "my friends describe the {thing} as {phrase}",
    ),
    "test": (
        "as far as the {domain} goes , the {thing} proved {phrase}",
        "you will find its {thing} {phrase}",
        "the critics consider the {thing} {phrase}",
    ),
}
#: How a contrast is put, by split: the {second} clause decides.
_CONTRASTS = {
    "train": ("{first} , but {second}", "although {first} , {second}", "{first} ; however , {second}"),
    "validation": ("while {first} , {second}", "{first} , yet {second}"),
    "test": ("even though {first} , {second}", "{first} , and still {second}"),
}


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
    domain = generator.choice(sorted(_THINGS))
    second, other = generator.sample(_THINGS[domain], 2)
    clause = _clause(label, domain, second, split, generator)
    if generator.random() < 0.4:
        # The first clause has any other grade, most often one of the other sign: it must not decide.
        distractor = generator.choice([grade for grade in range(NUM_CLASSES) if grade != label])
        first = _clause(distractor, domain, other, split, generator)
        clause = generator.choice(_CONTRASTS[split]).format(first=first, second=clause)
    return f"{clause} ."


def _clause(label: int, domain: str, thing: str, split: str, generator: random.Random) -> str:
    return generator.choice(_CLAUSES[split]).format(
        domain=domain, thing=thing, phrase=_phrase(label, split, generator)
    )


def _phrase(label: int, split: str, generator: random.Random) -> str:
    """A phrase of the given grade: a word of that grade, or one that modifiers bring there."""
    template, *places = generator.choice(_PHRASES[label])
    known = 0.5 if split == "train" else 1.0  # share of each list of words, from its start, that the split draws from
    parts = []
    for words, before in places:
        word = generator.choice(words[: max(1, round(len(words) * known))])
        parts.append(f"{generator.choice(before)} {word}" if before else word)
    return template.format(*parts)
