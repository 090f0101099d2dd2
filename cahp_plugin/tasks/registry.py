"""The table of tasks. A new one is a file beside this one and a row here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from cahp_plugin.data import as_dataset, check_same_classes
from cahp_plugin.errors import ConfigError, UnsupportedModelError
from cahp_plugin.tasks.base import Options, Task
from cahp_plugin.tasks.examples import Examples
from cahp_plugin.tasks.feature_extraction import FeatureExtraction
from cahp_plugin.tasks.fill_mask import FillMask
from cahp_plugin.tasks.image_classification import ImageClassification
from cahp_plugin.tasks.multi_label import MultiLabel
from cahp_plugin.tasks.question_answering import QuestionAnswering
from cahp_plugin.tasks.regression import Regression
from cahp_plugin.tasks.speech_recognition import SpeechRecognition
from cahp_plugin.tasks.text2text import Text2Text
from cahp_plugin.tasks.text_classification import TextClassification
from cahp_plugin.tasks.text_generation import TextGeneration
from cahp_plugin.tasks.token_classification import TokenClassification
from cahp_plugin.tasks.zero_shot import ZeroShotImageClassification

#: In the order in which models are matched: `GPT2LMHeadModel` is no bare model.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        MultiLabel(),
        Regression(),
        TextClassification(),
        TokenClassification(),
        QuestionAnswering(),
        FillMask(),
        ImageClassification(),
        TextGeneration(),
        Text2Text(),
        SpeechRecognition(),
        ZeroShotImageClassification(),
        FeatureExtraction(),
    )
}


def task_of_class(class_name: str, main_input: str, config: Any) -> Task | None:
    """Finds the task of a class of models; ``None`` where it is none of the table's.

    Args:
        class_name: Name of the class.
        main_input: Name of its first input.
        config: The model's config.
    """
    fitting = [task for task in TASKS.values() if task.fits(class_name, config)]
    return next((task for task in fitting if task.main_input == main_input), fitting[0] if fitting else None)


def known_task(model: Any) -> Task | None:
    """The task that a model's class and config tell; ``None`` where they tell none."""
    main_input = str(getattr(model, "main_input_name", "input_ids"))
    for cls in type(model).__mro__:  # a class of the user's own does what the class that it is made from does
        task = task_of_class(cls.__name__, main_input, model.config)
        if task is not None:
            return task.of(model)
    return None


def task_of(model: Any, name: str | None = None) -> Task:
    """The task of a model: the one that is named, or that its class and config tell.

    Args:
        model: A transformers model.
        name: A name in the table.

    Raises:
        ConfigError: There is no such task.
        UnsupportedModelError: The model can't do it, or does none of the table's.
    """
    if name is not None and name not in TASKS:
        raise ConfigError(f"The task {name!r} is not known; expected one of {', '.join(TASKS)}.")
    task = known_task(model) if name is None else TASKS[name].of(model)
    if task is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} does none of the tasks {', '.join(TASKS)}. Load it with the `Auto` class of its "
            "head (`AutoModelForSequenceClassification`...)."
        )
    if name is not None:
        task.settle(model)
    return task


def encode(
    data: Any,
    model: Any,
    processor: Any,
    *,
    task: Task | None = None,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    max_length: int | None = None,
) -> Examples:
    """Makes examples of a data set, as a model's task takes them.

    Args:
        data: A ``datasets.Dataset``.
        model: The model: its class tells the task, its positions bound the length, its classes the labels.
        processor: Its tokenizer, or its processor of images or speech.
        task: The task, where it is known.
        text_columns: Columns of the input; found by their usual names without it.
        label_column: Column of what is to be predicted; found without it.
        max_length: Tokens of an example at most; the model's limit without it.

    Raises:
        DataError: A row can't be used; the message names it.
        UnsupportedModelError: The model does no task that is known.
    """
    options = Options(text_columns, label_column, max_length)
    return encode_sets({"data": data}, model, processor, task or task_of(model), options)["data"]


def encode_sets(
    sets: Mapping[str, Any], model: Any, processor: Any, task: Task, options: Options
) -> dict[str, Examples]:
    """Makes examples of several data sets of the same columns, and checks that these number their classes alike.

    Args:
        sets: What each is for -> a ``datasets.Dataset``, or what :func:`cahp_plugin.data.as_dataset` makes one of.
        model: The model.
        processor: Its tokenizer, or its processor of images or speech.
        task: The task.
        options: How rows are read.

    Raises:
        DataError: A set can't be used.
    """
    found = {name: as_dataset(data) for name, data in sets.items()}
    columns = task.columns(next(iter(found.values())), options)
    options = dataclasses.replace(options, text_columns=columns.text, label_column=columns.label or None)
    if columns.label and task.conditioning == "label" and task.classes_of == "examples":
        for data in found.values():
            task.columns(data, options)
        check_same_classes(found, columns.label, model.config)
    labelled = bool(columns.label) or not task.labelled
    return {
        name: dataclasses.replace(task.encode(data, model, processor, options), labelled=labelled)
        for name, data in found.items()
    }
