"""A recovery as its settings say."""

from __future__ import annotations

from typing import Any

import torch

from cahp_plugin.config import RecoveryMethod, RecoverySettings
from cahp_plugin.data import by_length, make_dataloader
from cahp_plugin.recover.closed_form import recover_bias, recover_least_squares
from cahp_plugin.recover.finetune import finetune

__all__ = ["RecoveryMethod", "RecoverySettings", "repair", "train_again"]


def repair(model: Any, dense: Any, encoded: Any, tokenizer: Any, settings: RecoverySettings, *, seed: int) -> None:
    """Recovers a pruned model in closed form where the settings say so.

    Args:
        model: The pruned model; changed in place.
        dense: The model before pruning.
        encoded: Training set, from ``encode``.
        tokenizer: Pads the batches.
        settings: What to do.
        seed: Seed of the choice of examples.
    """
    if settings.closed_form is None:
        return
    fit = recover_bias if settings.closed_form == "bias" else recover_least_squares
    drawn = torch.randperm(len(encoded), generator=torch.Generator().manual_seed(seed))[: settings.num_examples]
    sample = encoded.select(drawn.tolist())
    # Every fifth batch is held out, and of fewer the last: sorted, that one would hold the longest examples alone.
    if len(sample) >= 5 * settings.batch_size:
        sample = by_length(sample)
    batches = make_dataloader(sample, tokenizer, batch_size=settings.batch_size)
    fit(model, dense, batches, num_examples=settings.num_examples)


def train_again(model: Any, encoded: Any, tokenizer: Any, settings: RecoverySettings, *, seed: int) -> None:
    """Fine-tunes a pruned model where the settings say so.

    Args:
        model: The pruned model; changed in place.
        encoded: Training set, from ``encode``.
        tokenizer: Pads the batches.
        settings: What to do.
        seed: Seed of the order of the examples and of dropout.
    """
    if not settings.finetunes:
        return
    finetune(
        model,
        encoded,
        tokenizer,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        seed=seed,
        training_arguments=dict(settings.training_arguments),
    )
