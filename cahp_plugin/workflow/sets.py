"""The data sets that a job is given, and those that it makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import torch
from transformers.utils import logging

from cahp_plugin.config import CAHPConfig, RecoverySettings
from cahp_plugin.data import as_dataset
from cahp_plugin.data.sources import like
from cahp_plugin.errors import DataError
from cahp_plugin.tasks import Examples, Options, Task, encode_sets

logger = logging.get_logger(__name__)

_HELD_OUT = 0.1
_SEEN = "Where the model was fine-tuned on them, it does better there than elsewhere."


@dataclasses.dataclass(frozen=True)
class JobSets:
    """Encoded sets of one job.

    Attributes:
        train: Training set.
        evaluation: Evaluation set, where there is one.
        without: Rows of the training set that are evaluated on: neither trained nor refined on.
        certification: Set that a certificate is tested on.
    """

    train: Examples
    evaluation: Examples | None
    without: Collection[int] = frozenset()
    certification: Examples | None = None


def encode_job(
    train: Any,
    evaluation: Any,
    model: Any,
    processor: Any,
    task: Task,
    options: Options,
    recovery: RecoverySettings,
    config: CAHPConfig,
    *,
    budget: bool,
    certify: Any = None,
    alone: bool = False,
) -> JobSets:
    """Encodes what a job is given; what is encoded already stays as it is.

    Args:
        train: The training set, or the sets of the job.
        evaluation: The evaluation set; without it, a tenth of the training set is held out. Under a budget that stays
            part of the training set, too, and the plan does not look at it.
        model: The model.
        processor: Its tokenizer or processor.
        task: Its task.
        options: How rows are read.
        recovery: What happens after pruning, and on how many examples.
        config: The seed.
        budget: Whether there is one: labels are not needed then, unless it is trained on them.
        certify: Set to test a certificate on.
        alone: Whether nothing is held out, for nothing is evaluated.

    Raises:
        DataError: A set can't be used.
    """
    if isinstance(train, JobSets):
        return train
    sets = {"training": as_dataset(train)}
    if evaluation is None and not budget:
        sets = _apart(sets["training"])
    others = {"evaluation": evaluation, "certification": certify}
    sets |= {name: as_dataset(data) for name, data in others.items() if data is not None}
    held, bare = None, {}
    if budget:
        try:
            task.columns(sets["training"], options)
        except DataError as error:
            if recovery.needs_labels or task.two_graphs:
                raise
            logger.warning(f"The training set is read without labels, which are not needed: {error}")
            unlabelled = dataclasses.replace(options, label_column=None, labelled=False)
            bare = encode_sets({"training": sets.pop("training")}, model, processor, task, unlabelled)
    found = bare | (encode_sets(sets, model, processor, task, options) if sets else {})
    if budget and evaluation is None and not bare and not alone:
        held = hold_out(found["training"], recovery.calibration_examples, config.seed)
    without = frozenset() if held is None else frozenset(held.rows)
    return JobSets(found["training"], found.get("evaluation", held), without, found.get("certification"))


def _apart(train: Any) -> dict[str, Any]:
    """A training set without a tenth of its rows, and that tenth as the evaluation set.

    Raises:
        DataError: It is a single row.
    """
    if len(train) < 2:
        raise DataError("No evaluation data was given, and the training set has too few rows to hold some out.")
    logger.warning(
        f"No evaluation data was given: {100 * _HELD_OUT:.0f} % of the training examples are held out. {_SEEN}"
    )
    parts = train.train_test_split(test_size=_HELD_OUT, seed=0)
    return {"training": like(parts["train"], train), "evaluation": like(parts["test"], train)}


def drawn(examples: Examples, count: int, seed: int) -> tuple[list[int], list[int]]:
    """Draws what a plan looks at: the indices of so many examples, and those of all others, in the order of the draw.

    A tenth of the examples is always among the others.
    """
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    count = min(count, len(order) - _tenth(examples))
    return order[:count], order[count:]


def hold_out(examples: Examples, count: int, seed: int) -> Examples | None:
    """A tenth of a training set to evaluate on, of rows that the plan of this seed does not look at.

    So the plan is the same with and without. ``None`` where no such row is left.
    """
    first, others = drawn(examples, count, seed)
    looked_at = {examples.rows[index] for index in first}
    held = {examples.rows[index] for index in others[len(others) - _tenth(examples) :]} - looked_at
    if not held:
        logger.warning("No evaluation data was given, and the training set is too small to hold some out.")
        return None
    logger.warning(f"No evaluation data was given: {len(held)} rows of the training set are held out. {_SEEN}")
    return examples.select([index for index, row in enumerate(examples.rows) if row in held])


def _tenth(examples: Examples) -> int:
    return int(_HELD_OUT * len(examples))
