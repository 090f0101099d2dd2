"""Which recovery, and with what settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch

from cahp_plugin.data import by_length, make_dataloader
from cahp_plugin.errors import ConfigError
from cahp_plugin.recover.closed_form import recover_bias, recover_least_squares
from cahp_plugin.recover.finetune import finetune

RecoveryMethod = Literal["none", "bias", "least-squares", "finetune", "least-squares+finetune"]


@dataclasses.dataclass(frozen=True)
class RecoverySettings:
    """How the pruned model is recovered; the paper's way and settings are the default (step 10).

    Args:
        method: ``"finetune"`` (the paper), ``"least-squares"`` or ``"bias"`` (closed form: seconds, no labels, no
            gradient), ``"least-squares+finetune"``, or ``"none"``.
        num_examples: Training examples that a closed form is fitted on.
        epochs: Passes over the training set for fine-tuning; 0 leaves it out.
        learning_rate: Peak learning rate of AdamW, after the warm-up.
        batch_size: Examples a step.
        training_arguments: Anything else that ``transformers.TrainingArguments`` takes (mixed precision, ...).
    """

    method: RecoveryMethod = "finetune"
    num_examples: int = 384
    epochs: float = 3
    learning_rate: float = 2e-5
    batch_size: int = 32
    training_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in get_args(RecoveryMethod):
            raise ConfigError(f"`method` must be one of {', '.join(get_args(RecoveryMethod))}; got {self.method!r}.")

    @property
    def closed_form(self) -> str | None:
        """``"bias"``, ``"least-squares"`` or ``None``."""
        first = self.method.split("+")[0]
        return first if first in ("bias", "least-squares") else None

    @property
    def finetunes(self) -> bool:
        """Whether the weights are trained."""
        return self.method.endswith("finetune") and self.epochs > 0


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
