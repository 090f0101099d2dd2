"""The data sets that a job is given, and those that it makes of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from transformers.utils import logging

from cahp_plugin.data import as_dataset
from cahp_plugin.data.sources import like
from cahp_plugin.errors import DataError
from cahp_plugin.tasks import Examples, Options, Task, encode_sets

logger = logging.get_logger(__name__)

_HELD_OUT = 0.1


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
    logger.warning(f"No evaluation data was given: {100 * _HELD_OUT:.0f} % of the training examples are held out.")
    parts = train.train_test_split(test_size=_HELD_OUT, seed=0)
    return {"training": like(parts["train"], train), "evaluation": like(parts["test"], train)}


def encode_for_budget(
    train: Any,
    evaluation: Any,
    model: Any,
    processor: Any,
    task: Task,
    options: Options,
    *,
    hold_out: bool = False,
    labelled: bool = False,
) -> tuple[Examples, Examples | None]:
    """Training and evaluation set, of which the first needs no labels.

    Args:
        train: The training set.
        evaluation: The evaluation set, or ``None``.
        model: The model.
        processor: Its tokenizer or processor.
        task: Its task.
        options: How rows are read.
        hold_out: Whether a tenth of a labelled training set is held out where there is no evaluation set.
        labelled: Whether the training set needs labels after all, for it is trained on.

    Raises:
        DataError: A set can't be used.
    """
    train = as_dataset(train)
    try:
        task.columns(train, options)
    except DataError as error:
        if labelled:
            raise
        logger.warning(f"The training set is read without labels, which are not needed: {error}")
        bare = dataclasses.replace(options, label_column=None, labelled=False)
        examples = encode_sets({"training": train}, model, processor, task, bare)["training"]
        if evaluation is None:
            return examples, None
        return examples, encode_sets({"evaluation": evaluation}, model, processor, task, options)["evaluation"]
    if evaluation is None and not hold_out:
        return encode_sets({"training": train}, model, processor, task, options)["training"], None
    sets = training_and_evaluation(train, evaluation)
    examples, evaluated = encode_sets(sets, model, processor, task, options).values()
    return examples, evaluated
