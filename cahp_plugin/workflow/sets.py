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
) -> JobSets:
    """Encodes what a job is given; what is encoded already stays as it is.

    Args:
        train: The training set, or the sets of the job.
        evaluation: The evaluation set; without it, a part of the training set is held out.
        model: The model.
        processor: Its tokenizer or processor.
        task: Its task.
        options: How rows are read.
        recovery: What happens after pruning, and on how many examples.
        config: The seed.
        budget: Whether there is one: labels are not needed then, unless it is trained on them.
        certify: Set to test a certificate on.

    Raises:
        DataError: A set can't be used.
    """
    if isinstance(train, JobSets):
        return train
    if not budget:
        sets = training_and_evaluation(train, evaluation)
        return JobSets(*encode_sets(sets, model, processor, task, options).values())
    draw = (recovery.calibration_examples, config.seed)
    return encode_for_budget(
        train, evaluation, model, processor, task, options,
        held_out=draw, labelled=recovery.needs_labels, certify=certify,
    )  # fmt: skip


def training_and_evaluation(train: Any, evaluation: Any) -> dict[str, Any]:
    """The two sets; where there is none to evaluate on, a tenth of the training set is held out for that.

    Raises:
        DataError: They are no data sets, or a single row.
    """
    train = as_dataset(train)
    if evaluation is not None:
        return {"training": train, "evaluation": as_dataset(evaluation)}
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


def encode_for_budget(
    train: Any,
    evaluation: Any,
    model: Any,
    processor: Any,
    task: Task,
    options: Options,
    *,
    held_out: tuple[int, int] | None = None,
    labelled: bool = False,
    certify: Any = None,
) -> JobSets:
    """Training and evaluation set, of which the first needs no labels.

    Args:
        train: The training set.
        evaluation: The evaluation set, or ``None``.
        model: The model.
        processor: Its tokenizer or processor.
        task: Its task.
        options: How rows are read.
        held_out: Number of examples that a plan looks at and the seed of their draw, where a tenth of a labelled
            training set is to be held out if there is no evaluation set. It stays part of the training set, too.
        labelled: Whether the training set needs labels after all, for it is trained on.
        certify: Set to test a certificate on.

    Raises:
        DataError: A set can't be used.
    """
    train = as_dataset(train)
    others = {"evaluation": evaluation, "certification": certify}
    given = {name: as_dataset(data) for name, data in others.items() if data is not None}
    try:
        task.columns(train, options)
    except DataError as error:
        if labelled or task.two_graphs:
            raise
        logger.warning(f"The training set is read without labels, which are not needed: {error}")
        bare = dataclasses.replace(options, label_column=None, labelled=False)
        found = encode_sets({"training": train}, model, processor, task, bare)
        found |= encode_sets(given, model, processor, task, options) if given else {}
        return JobSets(found["training"], found.get("evaluation"), certification=found.get("certification"))
    found = encode_sets({"training": train, **given}, model, processor, task, options)
    examples = found["training"]
    held = found.get("evaluation")
    if evaluation is None and held_out is not None:
        held = hold_out(examples, *held_out)
    without = frozenset() if evaluation is not None or held is None else frozenset(held.rows)
    return JobSets(examples, held, without, found.get("certification"))
