"""The numbers that are reported: how they come from predictions and references, and their intervals."""

from __future__ import annotations

import dataclasses
import importlib
import math
import operator
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from cahp_plugin.errors import ConfigError, DataError
from cahp_plugin.files import from_plain

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class Score:
    """One number about a model on a data set.

    Attributes:
        name: Name of the metric.
        value: The number; a share in [0, 1] where it is shown in %.
        interval: Its 95 % percentile bootstrap interval over the examples; ``None`` where it is not known.
        higher_is_better: Its direction.
        percent: Whether it is shown in %.

    Raises:
        ValueError: The interval has another number of ends than two.
    """

    name: str
    value: float
    interval: tuple[float, float] | None = None
    higher_is_better: bool = True
    percent: bool = False

    def __post_init__(self) -> None:
        if self.interval is not None and len(self.interval) != 2:
            raise ValueError(f"an interval has two ends, got {self.interval}")

    @classmethod
    def of_accuracy(cls, value: float) -> Score:
        """An accuracy of which no more is known than the share, in [0, 1]."""
        return from_plain(cls, {"name": "accuracy", "value": value, "percent": True})

    @property
    def title(self) -> str:
        """The name as it stands in tables and pictures."""
        return "word error rate" if self.name == "wer" else self.name.replace("_", " ")

    @property
    def heading(self) -> str:
        """The name as it begins a sentence."""
        return self.title[:1].upper() + self.title[1:]

    @property
    def legend(self) -> str:
        """What a table's column of bare numbers holds, with its direction where that is not the usual one."""
        return f"{self.heading}{' in %' if self.percent else ''}{'' if self.higher_is_better else ', lower is better'}"

    @property
    def axis(self) -> str:
        """What an axis holds, with its direction where that is not the usual one."""
        return f"{self.title}{', %' if self.percent else ''}{'' if self.higher_is_better else ' (lower is better)'}"

    @property
    def direction(self) -> str:
        """Its direction in words."""
        return f"{'higher' if self.higher_is_better else 'lower'} is better"

    @property
    def scale(self) -> int:
        """What the number is multiplied by on an axis."""
        return 100 if self.percent else 1

    def shown(self, value: float | None = None) -> str:
        """The number, or another one of its kind, as text."""
        value = self.value if value is None else value
        return f"{100 * value:.2f} %" if self.percent else f"{value:.4g}"

    def bare(self, value: float | None = None, sign: str = "") -> str:
        """The number, or another one of its kind, without its unit, as text; ``sign="+"`` is for a difference."""
        value = self.value if value is None else value
        return f"{100 * value:{sign}.1f}" if self.percent else f"{value:{sign}.4g}"

    def cell(self) -> str:
        """The number with its interval, as it stands in tables."""
        if self.interval is None:
            return self.shown()
        low, high = (self.shown(end).removesuffix(" %") for end in self.interval)
        return f"{self.shown()} [{low}, {high}]"

    def change(self, before: Score) -> str:
        """The difference from an earlier score of the same metric, as text."""
        if self.percent:
            return f"{100 * (self.value - before.value):+.1f} points"
        return f"{self.value - before.value:+.3g}"

    def __str__(self) -> str:
        return f"{self.title} {self.cell()}"


def scores_to_dict(scores: Sequence[Score]) -> dict[str, Any]:
    """Scores as plain JSON values: each number by its name, and under ``"scores"`` all that is known of it."""
    numbers = {score.name: score.value for score in scores}
    return {**numbers, "scores": [dataclasses.asdict(score) for score in scores]}


def scores_from_dict(values: Mapping[str, Any]) -> tuple[Score, ...]:
    """Builds scores from what :func:`scores_to_dict` returned; from an older file, its accuracy.

    Raises:
        KeyError: A part is missing.
        TypeError: A part is of another type.
        ValueError: There is no score.
    """
    if "scores" not in values:
        return (Score.of_accuracy(values["accuracy"]),)
    if not values["scores"]:
        raise ValueError("there is no score")
    return tuple(from_plain(Score, score) for score in values["scores"])


def score_cells(several: Sequence[Sequence[Score]]) -> list[dict[str, str]]:
    """Scores of several models as cells of a table, the same columns for each; ``-`` where a model lacks one."""
    titles = dict.fromkeys(score.title for scores in several for score in scores)
    return [dict.fromkeys(titles, "-") | {score.title: score.cell() for score in scores} for scores in several]


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a number comes from predictions and references.

    Attributes:
        name: Its name, for ``--metric`` and in reports.
        rows: Predictions and references of n examples -> what each adds, an array of n rows.
        value: Any such rows -> the number.
        higher_is_better: Its direction.
        percent: Whether it is a share that is shown in %.
        resamples: Resamples of its bootstrap interval.
        of_loss: Whether its rows are made of the summed loss and the weight of each example, in place of predictions.
    """

    name: str
    rows: Callable[[Sequence[Any], Sequence[Any]], Array]
    value: Callable[[Array], float]
    higher_is_better: bool = True
    percent: bool = False
    resamples: int = 1000
    of_loss: bool = False

    @property
    def is_mean(self) -> bool:
        """Whether the number is the mean of the rows."""
        return self.value is _mean

    def score(self, rows: Array) -> Score:
        """The number of these rows, with its interval."""
        return Score(self.name, self.value(rows), self.interval(rows), self.higher_is_better, self.percent)

    def interval(self, rows: Array) -> tuple[float, float]:
        """95 % percentile bootstrap interval over the rows."""
        return bootstrap_interval(lambda drawn: self.value(rows[drawn]), len(rows), self.resamples)


def bootstrap_interval(
    statistic: Callable[..., Any], count: int, resamples: int = 2000, *, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a number that is computed on examples.

    Args:
        statistic: Indices of examples, drawn with replacement -> the number. One with a parameter ``axis`` is given
            many draws at once, which is faster.
        count: Number of examples.
        resamples: How often they are drawn.
        seed: Seed of the draws.
    """
    from scipy.stats import bootstrap

    if count < 2:
        only = float(statistic(np.arange(count)))
        return only, only
    found = bootstrap(
        (np.arange(count),), statistic, n_resamples=resamples, method="percentile", rng=seed, batch=100
    ).confidence_interval
    return float(found.low), float(found.high)


def _numbers(values: Sequence[Any]) -> Array:
    return np.asarray(values, dtype=np.float64)


def _mean(rows: Array) -> float:
    return float(np.mean(rows))


def _ratio(rows: Array) -> float:
    """Sum of the first column over the sum of the second."""
    over, under = rows.sum(axis=0)
    return float(over / under) if under else 0.0


def _given(predictions: Sequence[Any], references: Sequence[Any]) -> Array:
    """Summed loss and weight of each example, as they are."""
    return _numbers(predictions)


def _pairs(predictions: Sequence[Any], references: Sequence[Any]) -> Array:
    """Prediction and reference of each example, as objects."""
    rows = np.empty((len(predictions), 2), dtype=object)
    for row, pair in enumerate(zip(predictions, references, strict=True)):
        rows[row, 0], rows[row, 1] = pair
    return rows


def _of_entities(predictions: Sequence[Any], references: Sequence[Any]) -> Array:
    """Entities that are right twice over, and those predicted and there: F1 is the ratio of the sums."""
    from seqeval.metrics.sequence_labeling import get_entities

    rows = np.zeros((len(predictions), 2))
    for row, (ours, theirs) in zip(rows, zip(predictions, references, strict=True), strict=True):
        predicted, true = set(get_entities(list(ours))), set(get_entities(list(theirs)))
        row[:] = 2 * len(predicted & true), len(predicted) + len(true)
    return rows


def _of_words(predictions: Sequence[Any], references: Sequence[Any]) -> Array:
    """Words that are right, and words there."""
    pairs = zip(predictions, references, strict=True)
    return _numbers([(sum(map(operator.eq, ours, theirs)), len(theirs)) for ours, theirs in pairs])


def _f1(rows: Array, *, micro: bool) -> float:
    """F1 of labels; scikit-learn's takes a hundred times as long, which a bootstrap has no time for."""
    ours, theirs = np.split(rows, 2, axis=1)
    right, there = 2 * (ours * theirs).sum(axis=0), (ours + theirs).sum(axis=0)
    if micro:
        right, there = right.sum(), there.sum()
    return float(np.mean(right / np.maximum(there, 1)))


def _sets(predictions: Sequence[Any], references: Sequence[Any]) -> Array:
    """Labels predicted, then labels there, 0 or 1 each."""
    return np.concatenate([np.asarray(predictions, dtype=int), np.asarray(references, dtype=int)], axis=1)


def _spearman(rows: Array) -> float:
    """Rank correlation; 0 where one side is constant."""
    from scipy.stats import spearmanr

    if any(np.ptp(column) == 0 for column in rows.T):
        return 0.0
    return float(spearmanr(rows[:, 0], rows[:, 1]).statistic)


def _squad(predictions: Sequence[Any], references: Sequence[Any], *, part: str) -> Array:
    """A part of SQuAD's score of each answer."""
    from torchmetrics.functional.text import squad

    found = []
    for ours, theirs in zip(predictions, references, strict=True):
        answers = {"text": list(theirs) or [""], "answer_start": [0] * max(1, len(theirs))}
        found.append(squad({"prediction_text": ours, "id": ""}, {"answers": answers, "id": ""})[part].item() / 100)
    return _numbers(found)


def _errors(predictions: Sequence[Any], references: Sequence[Any]) -> Array:
    """Words that are wrong, and words there."""
    from torchmetrics.text import WordErrorRate

    counted = _counted(WordErrorRate(), zip(predictions, references, strict=True))
    return _numbers([(float(found["errors"]), float(found["total"])) for found in counted])


def _counted(metric: Any, pairs: Iterable[tuple[Any, Any]]) -> Iterator[Mapping[str, Any]]:
    """What a metric of torchmetrics counts for each pair: the score of many is made of the sums."""
    for ours, theirs in pairs:
        metric.reset()
        metric.update([ours], [theirs])
        yield metric.metric_state


def _rouge(predictions: Sequence[Any], references: Sequence[Any], *, key: str) -> Array:
    """ROUGE's F of each text."""
    from torchmetrics.functional.text import rouge_score

    pairs = zip(predictions, references, strict=True)
    return _numbers([float(rouge_score(a, b, rouge_keys=key)[f"{key}_fmeasure"]) for a, b in pairs])


_GRAMS = [f"{kind}_{order}" for kind, most in (("char", 6), ("word", 2)) for order in range(1, most + 1)]


def _grams(predictions: Sequence[Any], references: Sequence[Any]) -> Array:
    """N-grams of letters and words that are in both texts, in ours and in theirs."""
    from torchmetrics.text import CHRFScore

    names = [f"total_{part}_{gram}_grams" for part in ("matching", "preds", "target") for gram in _GRAMS]
    counted = _counted(CHRFScore(), ((a, [b]) for a, b in zip(predictions, references, strict=True)))
    return _numbers([[float(found[name]) for name in names] for found in counted])


def _chrf(rows: Array) -> float:
    """chrF++: the mean over the n-grams of F2. Counted once for a row: a bootstrap has no time for more."""
    both, ours, theirs = np.split(rows.sum(axis=0), 3)
    return float(np.mean(5 * both / np.maximum(ours + 4 * theirs, 1)))


#: Name -> metric. Predictions and references are numbers, lists of tags, texts... as the tasks make them.
METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", lambda ours, theirs: _numbers([a == b for a, b in zip(ours, theirs, strict=True)]), _mean,
               percent=True),
        Metric("f1_micro", _sets, partial(_f1, micro=True), percent=True),
        Metric("f1_macro", _sets, partial(_f1, micro=False), percent=True),
        Metric("f1_entities", _of_entities, _ratio, percent=True),
        Metric("word_accuracy", _of_words, _ratio, percent=True),
        Metric("exact_match", partial(_squad, part="exact_match"), _mean, percent=True),
        Metric("f1_words", partial(_squad, part="f1"), _mean, percent=True),
        Metric("spearman", lambda ours, theirs: np.stack([_numbers(ours), _numbers(theirs)], axis=1), _spearman),
        Metric("mean_squared_error", lambda ours, theirs: (_numbers(ours) - _numbers(theirs)) ** 2, _mean,
               higher_is_better=False),
        Metric("perplexity", _given, lambda rows: math.exp(min(_ratio(rows), 700)), higher_is_better=False,
               of_loss=True),
        Metric("token_loss", _given, _ratio, higher_is_better=False, of_loss=True),
        Metric("cosine", _given, lambda rows: 1 - _ratio(rows), of_loss=True),
        Metric("rouge1", partial(_rouge, key="rouge1"), _mean, percent=True),
        Metric("rouge2", partial(_rouge, key="rouge2"), _mean, percent=True),
        Metric("rougeL", partial(_rouge, key="rougeL"), _mean, percent=True),
        Metric("chrf", _grams, _chrf, percent=True),
        Metric("wer", _errors, _ratio, higher_is_better=False, percent=True),
    )
}  # fmt: skip


def metric_named(name: str) -> Metric:
    """Finds a metric by its name, or makes one of a function of the user's.

    Args:
        name: A name of :data:`METRICS`, or ``module:function``, installed or a file of the current folder.
            The function takes the predictions and the references as two lists and returns a number; higher is better
            unless it has ``higher_is_better = False``.

    Raises:
        ConfigError: There is no such metric or function.
    """
    if name in METRICS:
        return METRICS[name]
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ConfigError(f"`metric` is {name!r}; expected module:function, or one of {', '.join(METRICS)}.")
    try:
        function = getattr(_imported(module), attribute)
    except Exception as error:  # whatever stands in the user's file
        raise ConfigError(f"The metric {name!r} can't be imported: {type(error).__name__}: {error}.") from error
    if not callable(function):
        raise ConfigError(f"The metric {name!r} is no function: {function!r}.")

    def value(rows: Array) -> float:
        found = function(list(rows[:, 0]), list(rows[:, 1]))
        try:
            return float(found)
        except (TypeError, ValueError) as error:
            raise DataError(f"The metric {name!r} must return a number; got {found!r}.") from error

    return Metric(attribute, _pairs, value, bool(getattr(function, "higher_is_better", True)), resamples=200)


def _imported(module: str) -> Any:
    """Imports a module, behind all others from the current folder: no file in it may stand in for a library."""
    before = list(sys.path)
    sys.path.append(os.getcwd())
    try:
        return importlib.import_module(module)
    finally:
        sys.path[:] = before
