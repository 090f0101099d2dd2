"""Single steps of a job: removing units, holding the saved copy against the model, keeping the time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from cahp_plugin.errors import CheckpointError, DataError
from cahp_plugin.prune import CAHPImportance, CAHPPruner, Stage, load_pruned
from cahp_plugin.recover.pruned import keeps_all
from cahp_plugin.tasks import Evaluation, known_task
from cahp_plugin.units import KeptSet, prunable_layers
from cahp_plugin.units.kept import KINDS
from cahp_plugin.units.state import call_options

logger = logging.get_logger(__name__)

_TOLERANCE = 1e-6


def prune_to(model: Any, kept: KeptSet, batch: Mapping[str, Any]) -> None:
    """Removes the units that are not kept, in place; a set that keeps all leaves the model."""
    if keeps_all(model, kept):
        logger.warning("Every head and every neuron is kept: the model stays as it is.")
        return
    example = {name: value[:1] for name, value in _inputs(model, batch).items()}
    CAHPPruner(model, example, importance=CAHPImportance(kept)).step()


def reload_difference(model: Any, folder: Path, batch: Mapping[str, Any]) -> float:
    """Largest absolute difference of an output between a model and its saved copy, on one batch.

    Raises:
        CheckpointError: It exceeds 1e-6 of the largest output: the copy is not the model.
    """
    attention = model.config._attn_implementation
    copy = load_pruned(folder, dtype=model.dtype, attn_implementation=attention).to(model.device)
    inputs, options = _inputs(model, batch), call_options(type(model))
    with torch.inference_mode():
        ours, theirs = model.eval()(**inputs, **options), copy.eval()(**inputs, **options)
    found = 0.0
    for name in known.outputs if (known := known_task(model)) else ["logits"]:
        if not hasattr(ours, name):
            continue
        difference = float((ours[name] - theirs[name]).abs().max())
        if not difference <= _TOLERANCE * max(1.0, float(ours[name].abs().max())):
            raise CheckpointError(f"The saved model differs from the one in memory by {difference:.2e} in `{name}`.")
        found = max(found, difference)
    return found


def _inputs(model: Any, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    inputs = {name: value.to(model.device) for name, value in batch.items() if name not in ("labels", "label")}
    if not inputs:
        raise DataError(f"The batch holds nothing but labels; its keys are {sorted(batch)}.")
    return inputs


def stage_of(name: str, model: Any, evaluation: Evaluation | None) -> Stage:
    """A stage of the job: what the model has, and how it does."""
    layers = prunable_layers(model)
    heads, neurons = (sum(len(layer.present) for layer in layers if layer.noun == kind) for kind in KINDS)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if evaluation is None:
        return Stage(name, heads, parameters, None, (), neurons=neurons)
    return Stage(name, heads, parameters, evaluation.loss, evaluation.scores, evaluation.num_examples, neurons)


class Clock:
    """Wall-clock seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Times a phase."""
        start = time.perf_counter()
        yield
        self.seconds[phase] = time.perf_counter() - start
