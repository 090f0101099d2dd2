"""Which task a model is exported for, under Optimum's names."""

from __future__ import annotations

from typing import Any

from cahp_plugin.errors import ExportError
from cahp_plugin.tasks import TASKS, Task, known_task


def task_named(name: str) -> Task:
    """Finds a task by its name.

    Raises:
        ExportError: It is unknown or unsupported.
    """
    if name.endswith("-with-past"):
        raise ExportError(
            f"The task {name!r} puts a key-value cache into the graph. Optimum's exporter and its ORTModel classes "
            "take the shapes of that cache from the config: one head count for all layers, which a pruned model does "
            "not have, so the graph would fail or be wrong. "
            f"Export {name.removesuffix('-with-past')!r} instead, which computes all tokens anew at each step (load "
            "it with `use_cache=False`), or generate in torch, where the cache works."
        )
    if name not in TASKS:
        raise ExportError(f"The task {name!r} is not supported; expected one of {', '.join(TASKS)}.")
    return TASKS[name]


def task_of(model: Any, name: str | None = None) -> Task:
    """Finds the task of a model from its class, or checks that it can do the one that is asked for.

    Args:
        model: A transformers model.
        name: Name of a task; ``feature-extraction`` is possible for every model of one sequence.

    Raises:
        ExportError: The task is unknown, unsupported, or not what the model's head does.
    """
    asked = None if name is None else task_named(name)
    class_name, own = type(model).__name__, known_task(model)
    if own is None:
        raise ExportError(
            f"{class_name} belongs to none of the supported tasks ({', '.join(TASKS)}); `task='feature-extraction'` "
            "exports the model below its head."
            if name is None
            else f"{class_name} can't be exported for {name!r}."
        )
    task = own if asked is None or asked.optimum == own.optimum else asked
    features = task.name == "feature-extraction"
    if task.name != own.name and not features:
        raise ExportError(
            f"{class_name} does {own.name}, not {name}: its head was trained for that. Export it for {own.name!r} or "
            "for 'feature-extraction', or load the checkpoint with the class you want and train its head first."
        )
    if features and (own.two_graphs or own.name == "zero-shot-image-classification"):
        raise ExportError(f"{class_name} has no one sequence of features; export it for {own.name!r}.")
    if features and own.name != task.name and model.base_model is model:
        raise ExportError(f"{class_name} has no model below its head; export it for {own.name!r}.")
    if features and getattr(model.config, "is_encoder_decoder", False) and hasattr(model.base_model, "decoder"):
        raise ExportError(
            f"{class_name} is an encoder-decoder, whose features are two sequences; export its encoder "
            "(`model.get_encoder()`), or the model with its head for 'text2text-generation'."
        )
    return task.of(model)


def exported_model(model: Any, task: Task) -> Any:
    """The part of a model that is exported: the whole, or what lies below its head for ``feature-extraction``."""
    below = task.name == "feature-extraction" and task_of(model).name != task.name
    return model.base_model if below else model
