"""Accuracy and loss of a sequence classifier."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from transformers.utils import logging

from cahp_plugin.errors import DataError
from cahp_plugin.processes import processes
from cahp_plugin.units import kept_state


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How a classifier does on a data set.

    Attributes:
        accuracy: Share of examples classified right, in [0, 1].
        loss: Mean cross-entropy, nat.
        num_examples: Number of examples.
        predictions: Predicted class of each example, in order.
        seconds: Wall-clock seconds.
    """

    accuracy: float
    loss: float
    num_examples: int
    predictions: tuple[int, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Returns the figures, without the predictions, as plain JSON values."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "predictions"}

    def __str__(self) -> str:
        return f"accuracy {100 * self.accuracy:.2f} %, loss {self.loss:.4f} nat over {self.num_examples} examples"


def evaluate_classifier(model: Any, dataloader: Iterable[Mapping[str, Any]]) -> Evaluation:
    """Runs a classifier over labelled batches, in eval mode and without gradients; its mode is put back.

    Args:
        model: A sequence classifier.
        dataloader: Dict batches with ``labels`` of shape ``(batch,)``.

    Raises:
        DataError: There is no batch, or one without labels.
    """

    def logits_of(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return model(**{name: value.to(model.device) for name, value in inputs.items()}).logits

    with kept_state(model), torch.inference_mode():
        model.eval()
        return evaluate_logits(logits_of, dataloader)


def evaluate_logits(
    logits_of: Callable[[Mapping[str, torch.Tensor]], torch.Tensor], dataloader: Iterable[Mapping[str, Any]]
) -> Evaluation:
    """Runs any classifier over labelled batches, which several processes share.

    Args:
        logits_of: From a batch's inputs, without the labels, to logits of shape ``(batch, classes)``.
        dataloader: Dict batches with ``labels`` of shape ``(batch,)``.

    Raises:
        DataError: There is no batch, or one without labels.
    """
    start, here = time.perf_counter(), processes()
    own: list[tuple[int, float, list[int], int]] = []
    for position, batch in enumerate(logging.tqdm(dataloader, desc="Evaluating", unit="batch")):
        if position % here.size != here.rank:
            continue
        if "labels" not in batch:
            raise DataError(f"A batch has no `labels`; its keys are {', '.join(sorted(batch))}.")
        logits = logits_of({name: value for name, value in batch.items() if name != "labels"}).float()
        labels = batch["labels"].to(logits.device)
        loss = float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        predicted = logits.argmax(dim=-1)
        own.append((position, loss, predicted.tolist(), int((predicted == labels).sum())))
    parts = sorted(part for parts in here.all(own) for part in parts)
    predictions = [label for _, _, labels, _ in parts for label in labels]
    loss, right, count = sum(part[1] for part in parts), sum(part[3] for part in parts), len(predictions)
    if not count:
        raise DataError("The evaluation set is empty: the dataloader gave no batch.")
    return Evaluation(right / count, loss / count, count, tuple(predictions), time.perf_counter() - start)
