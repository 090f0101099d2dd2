"""Which task a model is exported for, under Optimum's names."""

from __future__ import annotations

import dataclasses
from typing import Any

from cahp_plugin.errors import ExportError

BATCH = {0: "batch_size"}
TOKENS = {0: "batch_size", 1: "sequence_length"}
TARGETS = {0: "batch_size", 1: "decoder_sequence_length"}


@dataclasses.dataclass(frozen=True)
class Task:
    """One task of Optimum's exporters.

    Attributes:
        name: Optimum's name of the task.
        suffixes: Endings of the class names of the models that do it.
        outputs: Output name -> its dynamic axes.
        two_graphs: Whether encoder and decoder are a graph each; the outputs are the decoder's.
        main_input: Start of the names of the inputs that tell the task from others of the same suffixes.
    """

    name: str
    suffixes: tuple[str, ...]
    outputs: dict[str, dict[int, str]]
    two_graphs: bool = False
    main_input: str = "input_ids"


#: In the order in which classes are matched: `GPT2LMHeadModel` is no bare model.
TASKS = {
    task.name: task
    for task in (
        Task("text-classification", ("ForSequenceClassification",), {"logits": BATCH}),
        Task("token-classification", ("ForTokenClassification",), {"logits": TOKENS}),
        Task("question-answering", ("ForQuestionAnswering",), {"start_logits": TOKENS, "end_logits": TOKENS}),
        Task("fill-mask", ("ForMaskedLM",), {"logits": TOKENS}),
        Task(
            "image-classification",
            ("ForImageClassification", "ForImageClassificationWithTeacher"),
            {"logits": BATCH},
            main_input="pixel_values",
        ),
        Task("text-generation", ("ForCausalLM", "LMHeadModel"), {"logits": TOKENS}),
        Task("text2text-generation", ("ForConditionalGeneration", "MTModel"), {"logits": TARGETS}, two_graphs=True),
        Task(
            "automatic-speech-recognition",
            ("ForConditionalGeneration",),
            {"logits": TARGETS},
            two_graphs=True,
            main_input="input_features",
        ),
        Task(
            "zero-shot-image-classification",
            ("CLIPModel",),
            {
                "logits_per_image": {0: "image_batch_size", 1: "text_batch_size"},
                "logits_per_text": {0: "text_batch_size", 1: "image_batch_size"},
                "text_embeds": {0: "text_batch_size"},
                "image_embeds": {0: "image_batch_size"},
            },
        ),
        Task("feature-extraction", ("Model", "WithProjection"), {"last_hidden_state": TOKENS}),
    )
}


def task_named(name: str) -> Task:
    """Finds a task by Optimum's name.

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


def own_task(class_name: str, main_input: str) -> Task | None:
    """Finds the task of a class of models.

    Args:
        class_name: Name of the class.
        main_input: Name of its first input.
    """
    fitting = [task for task in TASKS.values() if class_name.endswith(task.suffixes)]
    return next((task for task in fitting if task.main_input == main_input), fitting[0] if fitting else None)


def task_of(model: Any, name: str | None = None) -> Task:
    """Finds the task of a model from its class, or checks that it can do the one that is asked for.

    Args:
        model: A transformers model.
        name: Optimum's name of a task; ``feature-extraction`` is possible for every model of one sequence.

    Raises:
        ExportError: The task is unknown, unsupported, or not what the model's head does.
    """
    asked = None if name is None else task_named(name)
    class_name = type(model).__name__
    own = own_task(class_name, str(getattr(model, "main_input_name", "input_ids")))
    if own is None:
        raise ExportError(
            f"{class_name} belongs to none of the supported tasks ({', '.join(TASKS)}); `task='feature-extraction'` "
            "exports the model below its head."
            if name is None
            else f"{class_name} can't be exported for {name!r}."
        )
    task = own if asked is None else asked
    features = task.name == "feature-extraction"
    if task != own and not features:
        raise ExportError(
            f"{class_name} does {own.name}, not {name}: its head was trained for that. Export it for {own.name!r} or "
            "for 'feature-extraction', or load the checkpoint with the class you want and train its head first."
        )
    if features and (own.two_graphs or own.name == "zero-shot-image-classification"):
        raise ExportError(f"{class_name} has no one sequence of features; export it for {own.name!r}.")
    if features and own != task and model.base_model is model:
        raise ExportError(f"{class_name} has no model below its head; export it for {own.name!r}.")
    if features and getattr(model.config, "is_encoder_decoder", False) and hasattr(model.base_model, "decoder"):
        raise ExportError(
            f"{class_name} is an encoder-decoder, whose features are two sequences; export its encoder "
            "(`model.get_encoder()`), or the model with its head for 'text2text-generation'."
        )
    return task


def exported_model(model: Any, task: Task) -> Any:
    """The part of a model that is exported: the whole, or what lies below its head for ``feature-extraction``."""
    below = task.name == "feature-extraction" and task_of(model).name != task.name
    return model.base_model if below else model
