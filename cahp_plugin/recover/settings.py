"""A recovery as its settings say."""

from __future__ import annotations

from typing import Any

import torch

from cahp_plugin.config import RecoverySettings
from cahp_plugin.recover.closed_form import recover_bias, recover_least_squares
from cahp_plugin.recover.distill import distill
from cahp_plugin.recover.finetune import finetune
from cahp_plugin.tasks import Examples


def repair(model: Any, dense: Any, examples: Examples, settings: RecoverySettings, *, seed: int) -> None:
    """Recovers a pruned model in closed form where the settings say so.

    Args:
        model: The pruned model; changed in place.
        dense: The model before pruning.
        examples: Training set, from ``encode``.
        settings: What to do.
        seed: Seed of the choice of examples.
    """
    if settings.closed_form is None:
        return
    fit = recover_bias if settings.closed_form == "bias" else recover_least_squares
    drawn = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))[: settings.fitted_examples]
    sample = examples.select(drawn.tolist())
    # Every fifth batch is held out, and of fewer the last: sorted, that one would hold the longest examples alone.
    if len(sample) >= 5 * settings.batch_size:
        sample = sample.by_length()
    fit(model, dense, sample.batches(settings.batch_size), num_examples=settings.fitted_examples)


def train_again(model: Any, dense: Any, examples: Examples, settings: RecoverySettings, *, seed: int) -> None:
    """Fine-tunes or distills a pruned model where the settings say so.

    Args:
        model: The pruned model; changed in place.
        dense: The model before pruning, for distillation.
        examples: Training set, from ``encode``.
        settings: What to do.
        seed: Seed of the order of the examples and of dropout.
    """
    shared: dict[str, Any] = {
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "seed": seed,
        "training_arguments": dict(settings.training_arguments),
    }
    if settings.learning_rate is not None:
        shared["learning_rate"] = settings.learning_rate
    if settings.trains == "finetune":
        finetune(model, examples, **shared)
    elif settings.trains == "distill":
        shares = {name: getattr(settings, name) for name in ("temperature", "label_share", "hidden_share")}
        distill(model, dense, examples, **shares, **shared)
