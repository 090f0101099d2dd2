"""Which task a model is exported for, under Optimum's names, and what goes in and comes out."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from cahp_plugin.errors import ExportError

_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclasses.dataclass(frozen=True)
class Task:
    """One task of Optimum's exporters.

    Attributes:
        name: Optimum's name of the task.
        suffixes: Endings of the class names of the models that do it.
        outputs: Output name -> its dynamic axes.
    """

    name: str
    suffixes: tuple[str, ...]
    outputs: dict[str, dict[int, str]]


_BATCH = {0: "batch_size"}
_TOKENS = {0: "batch_size", 1: "sequence_length"}

TASKS = {
    task.name: task
    for task in (
        Task("text-classification", ("ForSequenceClassification",), {"logits": _BATCH}),
        Task("token-classification", ("ForTokenClassification",), {"logits": _TOKENS}),
        Task("question-answering", ("ForQuestionAnswering",), {"start_logits": _TOKENS, "end_logits": _TOKENS}),
        Task("fill-mask", ("ForMaskedLM",), {"logits": _TOKENS}),
        Task("feature-extraction", ("Model",), {"last_hidden_state": _TOKENS}),
    )
}


def task_named(name: str) -> Task:
    """Finds a task by Optimum's name.

    Raises:
        ExportError: It is unknown or unsupported.
    """
    if name.endswith("-with-past"):
        raise ExportError(
            f"The task {name!r} exports a key-value cache, whose shapes Optimum takes from the config: one head count "
            f"for all layers, which a pruned model does not have. Export {name.removesuffix('-with-past')!r} instead."
        )
    if name not in TASKS:
        raise ExportError(f"The task {name!r} is not supported; expected one of {', '.join(TASKS)}.")
    return TASKS[name]


def task_of(model: Any, name: str | None = None) -> Task:
    """Finds the task of a model from its class, or checks that it can do the one that is asked for.

    Args:
        model: A transformers model.
        name: Optimum's name of a task; ``feature-extraction`` is possible for every model.

    Raises:
        ExportError: The task is unknown, unsupported, or not what the model's head does.
    """
    asked = None if name is None else task_named(name)
    class_name = type(model).__name__
    own = next((task for task in TASKS.values() if class_name.endswith(task.suffixes)), None)
    if own is None:
        raise ExportError(
            f"{class_name} belongs to none of the supported tasks ({', '.join(TASKS)}); `task='feature-extraction'` "
            "exports the model below its head."
            if name is None
            else f"{class_name} can't be exported for {name!r}."
        )
    if asked is None or asked == own:
        return own
    if asked.name == "feature-extraction":
        return asked
    raise ExportError(
        f"{class_name} does {own.name}, not {name}: its head was trained for that. Export it for {own.name!r} or for "
        "'feature-extraction', or load the checkpoint with the class you want and train its head first."
    )


def exported_model(model: Any, task: Task) -> Any:
    """The part of a model that is exported: the whole, or what lies below its head for ``feature-extraction``."""
    own = task_of(model)
    return model.base_model if task.name == "feature-extraction" and own.name != task.name else model


def input_names(model: Any) -> tuple[str, ...]:
    """Names of the inputs that the exported graph takes, in order.

    Token types are an input where the model has more than one of them, as in Optimum.
    """
    accepted = inspect.signature(model.forward).parameters
    names = [name for name in _TEXT_INPUTS if name in accepted]
    if "token_type_ids" in names and getattr(model.config, "type_vocab_size", 0) < 2:
        names.remove("token_type_ids")
    if "input_ids" not in names:
        raise ExportError(f"{type(model).__name__} takes no `input_ids`; only text models can be exported.")
    return tuple(names)
