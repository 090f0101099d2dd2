"""Recovery by fine-tuning, as in the paper (step 10), through ``transformers.Trainer``."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch

from cahp_plugin.errors import CAHPError, ConfigError, DataError
from cahp_plugin.processes import processes
from cahp_plugin.recover.state import in_fp32
from cahp_plugin.tasks import Examples, Task

_OWN_ARGUMENTS = ("output_dir", "num_train_epochs", "learning_rate", "per_device_train_batch_size", "seed")

#: ``loss(model, inputs, labels)``: the mean loss of a batch, and the model's output.
Loss = Callable[[Any, Any, Any], tuple[torch.Tensor, Any]]


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tuning did.

    Attributes:
        steps: Optimiser steps.
        train_loss: Mean training loss, nat; NaN for no step.
        seconds: Wall-clock seconds.
    """

    steps: int
    train_loss: float
    seconds: float


def finetune(
    model: Any,
    examples: Examples,
    *,
    epochs: float = 3,
    learning_rate: float = 2e-5,
    batch_size: int = 32,
    warmup_ratio: float = 0.1,
    weight_decay: float = 0.01,
    max_grad_norm: float = 1.0,
    seed: int = 0,
    training_arguments: dict[str, Any] | None = None,
    callbacks: Sequence[Any] | None = None,
    loss: Loss | None = None,
) -> FinetuneResult:
    """Fine-tunes a model in place on its labels: AdamW, linear decay after a linear warm-up, clipped gradients.

    Every module that a pruned model has lost stays lost; parameters that are frozen stay frozen. Weights in half
    precision are trained in fp32 and cast back. The process's random state is the same afterwards as before, and the
    same seed gives the same weights.

    A copy is trained, and the model takes its weights over at the end: nothing else that a ``Trainer`` puts on a model
    (autocast, hooks, settings of the config) reaches it, and a training that is interrupted leaves it as it was.

    Args:
        model: The model, pruned or not.
        examples: Training set, from :func:`cahp_plugin.tasks.encode`.
        epochs: Passes over the training set; 0 returns at once.
        learning_rate: Peak learning rate.
        batch_size: Examples a step; several processes share them.
        warmup_ratio: Share of the steps that the learning rate rises over, in [0, 1].
        weight_decay: AdamW's weight decay.
        max_grad_norm: Norm that gradients are clipped to.
        seed: Seed of the order of the examples and of dropout.
        training_arguments: More arguments of ``transformers.TrainingArguments``, such as ``bf16`` (mixed precision)
            or ``gradient_accumulation_steps``.
        callbacks: ``TrainerCallback`` objects.
        loss: ``loss(model, inputs, labels)`` gives a batch's mean loss and the model's output; labels are ``None``
            where there are none. That of the task without it.

    Returns:
        Steps, loss and seconds. The model is left in eval mode.

    Raises:
        ConfigError: A number is out of its range, or ``training_arguments`` holds one that has a parameter here.
        DataError: The training set is empty, or has no labels and there is no other loss.
        CAHPError: The loss became NaN or infinite.
    """
    extra = dict(training_arguments or {})
    taken = sorted(set(extra) & set(_OWN_ARGUMENTS))
    if taken:
        raise ConfigError(f"`training_arguments` holds {', '.join(taken)}; `finetune` has parameters for them.")
    if epochs < 0 or learning_rate <= 0 or batch_size < 1 or not 0 <= warmup_ratio <= 1:
        raise ConfigError(
            "`epochs` must be at least 0, `learning_rate` above 0, `batch_size` at least 1 and `warmup_ratio` in "
            f"[0, 1]; got {epochs}, {learning_rate}, {batch_size}, {warmup_ratio}."
        )
    if batch_size % processes().size:
        raise ConfigError(
            f"`batch_size` is {batch_size}; {processes().size} processes share it, so it must be a multiple of that."
        )
    if len(examples) == 0:
        raise DataError("The training set is empty.")
    if loss is None and not examples.labelled:
        raise DataError("The training set has no labels to train on. `distill` needs none.")
    if epochs == 0:
        model.eval()
        return FinetuneResult(0, math.nan, 0.0)

    from transformers import TrainingArguments
    from transformers.utils import logging

    start = time.perf_counter()
    device, trained = model.device, copy.deepcopy(model)
    steps = math.ceil(len(examples) / batch_size / extra.get("gradient_accumulation_steps", 1)) * epochs
    values: dict[str, Any] = {
        "num_train_epochs": epochs,
        "learning_rate": learning_rate,
        "per_device_train_batch_size": batch_size // processes().size,
        "lr_scheduler_type": "linear",
        "warmup_steps": math.ceil(warmup_ratio * steps),
        "weight_decay": weight_decay,
        "max_grad_norm": max_grad_norm,
        "seed": seed,
        "save_strategy": "no",
        "report_to": [],
        "remove_unused_columns": False,
        "logging_steps": 50,
        "logging_nan_inf_filter": False,
        "disable_tqdm": not logging.is_progress_bar_enabled(),
        "use_cpu": device.type == "cpu",
        "dataloader_pin_memory": device.type == "cuda",
    }
    cuda = list(range(torch.cuda.device_count()))
    with (
        torch.random.fork_rng(devices=cuda),
        tempfile.TemporaryDirectory() as folder,
        contextlib.ExitStack() as seeded,  # by `Trainer`: states that are put back
        mock.patch.dict(os.environ),  # what `TrainingArguments` leaves there for the next training goes
        in_fp32(trained),
    ):
        seeded.callback(random.setstate, random.getstate())
        seeded.callback(np.random.set_state, np.random.get_state())
        try:
            arguments = TrainingArguments(output_dir=folder, **(values | extra))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"`training_arguments` can't be used: {error}") from error
        trainer = _trainer(
            loss or _loss_of(examples.task),
            model=trained,
            args=arguments,
            train_dataset=_Numbered(examples),
            data_collator=lambda rows: examples.batch([row["index"] for row in rows]),
            callbacks=callbacks and list(callbacks),
        )
        _watch(trainer)
        output = trainer.train()
    model.load_state_dict(trained.state_dict())
    model.eval()
    return FinetuneResult(output.global_step, output.training_loss, time.perf_counter() - start)


class _Numbered(torch.utils.data.Dataset[Any]):
    """The numbers of examples, of which a batch is made at once; and as many tokens as they have, for their length."""

    def __init__(self, examples: Examples) -> None:
        self._lengths = examples.lengths

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index, "input_ids": range(self._lengths[index])}

    def __len__(self) -> int:
        return len(self._lengths)


def _loss_of(task: Task) -> Loss | None:
    """A task's loss; ``None`` for the one that the model makes itself."""

    def loss(model: Any, inputs: Any, labels: Any) -> tuple[torch.Tensor, Any]:
        output = model(**inputs)
        return task.losses(output, inputs, labels).mean(), output

    return None if task.own_loss else loss


def _trainer(loss: Loss | None, **arguments: Any) -> Any:
    """A ``Trainer`` with a loss, where the model does not make it."""
    from transformers import Trainer

    if loss is None:
        return Trainer(**arguments)
    weighed = loss

    class LossTrainer(Trainer):
        """Takes the loss from a function."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            """The mean loss of a batch."""
            found, output = weighed(model, inputs, inputs.pop("labels", None))
            return (found, output) if return_outputs else found

    trainer = LossTrainer(**arguments)
    trainer.model_accepts_loss_kwargs = False  # the mean of each of the batches that one step is made of
    return trainer


def _watch(trainer: Any) -> None:
    """Keeps ``Trainer``'s progress bar, stops it from printing its logs, and watches the loss."""
    from transformers import PrinterCallback, ProgressCallback, TrainerCallback

    shown = any(isinstance(callback, ProgressCallback) for callback in trainer.callback_handler.callbacks)
    base: Any = ProgressCallback if shown else TrainerCallback

    class Watch(base):
        """Prints nothing, for standard output belongs to the result; ends a training that has nothing to save."""

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            loss = (logs or {}).get("loss", (logs or {}).get("train_loss"))
            if loss is not None and not math.isfinite(float(loss)):
                raise CAHPError(
                    f"The training loss is {loss} at step {state.global_step}. Lower `learning_rate`, or check the "
                    "model's weights and dtype. The model is as it was."
                )

    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Watch())
