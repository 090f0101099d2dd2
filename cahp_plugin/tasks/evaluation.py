"""How a model, in torch or as a graph, does on examples."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging

from cahp_plugin.errors import DataError
from cahp_plugin.processes import processes
from cahp_plugin.tasks.examples import Examples
from cahp_plugin.tasks.metrics import Metric, Score, scores_from_dict, scores_to_dict
from cahp_plugin.units.positions import config_positions
from cahp_plugin.units.state import call_options, kept_state

_NEW_TOKENS = 256


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How a model does on a data set.

    Attributes:
        scores: The numbers, the task's first.
        loss: Mean loss, nat where it is a cross-entropy; of models of tokens, over tokens.
        num_examples: Rows of the data set that count.
        predictions: What the model predicts for each row, in order.
        rows: What each row adds to the first number, ``(num_examples, ...)``.
        seconds: Wall-clock seconds.
    """

    scores: tuple[Score, ...]
    loss: float
    num_examples: int
    predictions: tuple[Any, ...]
    rows: np.ndarray[Any, Any]
    seconds: float

    @property
    def score(self) -> Score:
        """The task's number."""
        return self.scores[0]

    def to_dict(self) -> dict[str, Any]:
        """The numbers without the predictions, as plain JSON values; each metric under its name too."""
        numbers = {"loss": self.loss, "num_examples": self.num_examples, "seconds": self.seconds}
        return scores_to_dict(self.scores) | numbers

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """Builds an evaluation from what :meth:`to_dict` returned, without what each row adds.

        Raises:
            KeyError: A part is missing.
            TypeError: A part is of another type.
        """
        numbers = (float(values["loss"]), int(values["num_examples"]), (), np.empty(0), float(values["seconds"]))
        return cls(scores_from_dict(values), *numbers)

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.scores))}, loss {self.loss:.4f}, n = {self.num_examples}"


class Runner(Protocol):
    """A model that examples are put through."""

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        """The outputs of a batch, by their names in transformers."""
        ...

    def generate(self, inputs: Mapping[str, Any], most: int) -> Tensor:
        """Tokens of texts that are made, greedily, ``(batch, tokens)``, ``most`` at most."""
        ...


class TorchRunner:
    """A model in torch, without a cache."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        """See :class:`Runner`."""
        return self.model(**self._on_device(inputs), **call_options(type(self.model)))

    def generate(self, inputs: Mapping[str, Any], most: int) -> Tensor:
        """See :class:`Runner`."""
        given = {name: value for name, value in self._on_device(inputs).items() if not name.startswith("decoder_")}
        room = config_positions(self.model.config)
        most = most if room is None else min(most, room - 1)
        return self.model.generate(**given, do_sample=False, num_beams=1, max_new_tokens=most)

    def _on_device(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value.to(self.model.device) for name, value in inputs.items()}


@contextlib.contextmanager
def running(model: Any) -> Iterator[Runner]:
    """A model in torch as a runner, in eval mode and without gradients while it is used; a runner as it is."""
    if not isinstance(model, torch.nn.Module):
        yield model
        return
    with kept_state(model), torch.inference_mode():
        model.eval()
        yield TorchRunner(model)


def evaluate(model: Any, examples: Examples, *, metric: str | None = None, batch_size: int = 32) -> Evaluation:
    """Puts examples through a model, batched by length, and takes the task's numbers of what comes out.

    Several processes share the batches.

    Args:
        model: A model in torch, or a :class:`Runner`.
        examples: From :func:`cahp_plugin.tasks.encode`.
        metric: A metric besides the task's own, which then comes first; see :func:`metric_named`.
        batch_size: Examples a batch.

    Raises:
        ConfigError: The task does not have the metric.
        DataError: There is no example.
    """
    if not len(examples):
        raise DataError("The evaluation set is empty: it holds no example.")
    metrics = examples.task.chosen_metrics(examples, metric)
    start = time.perf_counter()
    with running(model) as run:
        losses, weights, outcomes = _measure(run, examples, metrics, batch_size)
    sums = np.zeros((len(examples.references), 2))
    np.add.at(sums, np.asarray(examples.rows), np.stack([losses * weights, weights], axis=1))
    counted = np.flatnonzero(sums[:, 1] > 0).tolist()
    both = examples.task.predictions(examples, outcomes)
    predictions, references = ([values[row] for row in counted] for values in both)
    found = [
        entry.rows(list(sums[counted]), ()) if entry.of_loss else entry.rows(predictions, references)
        for entry in metrics
    ]
    return Evaluation(
        tuple(entry.score(own) for entry, own in zip(metrics, found, strict=True)),
        float(sums[:, 0].sum() / sums[:, 1].sum()),
        len(counted),
        tuple(predictions),
        found[0],
        time.perf_counter() - start,
    )


def _measure(
    run: Any, examples: Examples, metrics: Sequence[Metric], batch_size: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[Any]]:
    """Loss, its weight, and the outcome of each example."""
    task, here = examples.task, processes()
    makes_text = task.two_graphs and any(not entry.of_loss for entry in metrics)
    groups = examples.groups_by_length(batch_size)
    own: list[tuple[list[int], list[float], list[float], list[Any]]] = []
    for position, group in enumerate(logging.tqdm(groups, desc="Evaluating", unit="batch")):
        if position % here.size != here.rank:
            continue
        features = examples.features(group)
        batch = examples.collated(features, group)
        labels = batch.pop("labels", None)
        output = run(batch)
        losses = task.losses(output, batch, labels)
        if makes_text:
            most = int((labels != -100).sum(dim=1).max()) * 2 + 8
            output = run.generate(batch, min(most, _NEW_TOKENS))
        outcomes = task.outcomes(output, features, batch)
        own.append((group, losses.double().tolist(), task.weights(batch, labels).tolist(), outcomes))
    all_losses, weights = np.zeros(len(examples)), np.zeros(len(examples))
    found: list[Any] = [None] * len(examples)
    for parts in here.all(own):
        for group, values, counts, outcomes in parts:
            all_losses[group], weights[group] = values, counts
            for index, outcome in zip(group, outcomes, strict=True):
                found[index] = outcome
    return all_losses, weights, found


def with_targets(model: Any, examples: Examples, *, batch_size: int = 32) -> Examples:
    """Examples whose labels are outputs of the dense model, where the task's are; others as they are.

    Args:
        model: The dense model, or a :class:`Runner`.
        examples: From :func:`cahp_plugin.tasks.encode`.
        batch_size: Examples a batch.
    """
    if not examples.task.needs_targets(examples):
        return examples
    found: list[Tensor] = [torch.empty(0)] * len(examples)
    groups = examples.groups_by_length(batch_size)
    with running(model) as run:
        for group in logging.tqdm(groups, desc="Embedding", unit="batch"):
            batch = examples.batch(group)
            for index, target in zip(group, examples.task.target(run(batch), batch).cpu(), strict=True):
                found[index] = target
    return dataclasses.replace(examples, targets=torch.stack(found).clone())


def mean_divergence(ours: Runner, theirs: Runner, examples: Examples, *, batch_size: int = 32) -> float:
    """How far one model's outputs are from another's on examples, as their task has it: the mean over the examples."""
    total = 0.0
    for group in examples.groups_by_length(batch_size):
        batch = examples.batch(group)
        labels = batch.pop("labels", None)
        total += float(examples.task.divergence(ours(batch), theirs(batch), batch, labels).sum())
    return total / len(examples)


def agreeing(ours: Sequence[Any], theirs: Sequence[Any]) -> float | None:
    """Share of predictions that are the same: of each part, where they are lists; ``None`` where they are numbers."""
    if isinstance(ours[0], float) or (isinstance(ours[0], list) and isinstance(ours[0][0], float)):
        return None
    pairs = [
        (a, b)
        for one, other in zip(ours, theirs, strict=True)
        for a, b in (zip(one, other, strict=False) if isinstance(one, list) else [(one, other)])
    ]
    return sum(a == b for a, b in pairs) / max(len(pairs), 1)
