"""A plan from a model and a data set, in a folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cahp_plugin.config import CAHPConfig, PlanSettings, RecoverySettings
from cahp_plugin.errors import CheckpointError
from cahp_plugin.plan.plan import PLAN_NAME, Plan
from cahp_plugin.processes import processes
from cahp_plugin.report import plan_charts, save_charts
from cahp_plugin.selectors.base import resolved
from cahp_plugin.tasks import Options, task_of, with_targets
from cahp_plugin.workflow.budget import calibration_of, make_plan
from cahp_plugin.workflow.sets import encode_job

PROGRESS_NAME = "cahp_plan.progress.jsonl"


def plan_model(
    model: Any,
    processor: Any,
    train: Any,
    *,
    planning: PlanSettings | None = None,
    recovery: RecoverySettings | None = None,
    config: CAHPConfig | None = None,
    multiple_of: int = 16,
    task: str | None = None,
    output_dir: str | os.PathLike[str],
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    max_length: int | None = None,
    overwrite: bool = False,
    figures: bool = True,
) -> Plan:
    """Measures what every size of a model loses, and writes it to a folder.

    Stopped, the same call goes on where it was: what was measured is in the folder.

    Args:
        model: The model; unchanged.
        processor: Its tokenizer, or its processor of images or speech.
        train: Training set, as for :func:`cahp_plugin.prune_model`; labels are not needed.
        planning: How the plan is made.
        recovery: Number of calibration examples, and the batch size.
        config: Seed of the draw, and the settings of the selector that orders the heads.
        multiple_of: As for :func:`cahp_plugin.plan_pruning`.
        task: As for :func:`cahp_plugin.prune_model`.
        output_dir: Folder of the plan.
        text_columns: As for :func:`cahp_plugin.prune_model`.
        label_column: As for :func:`cahp_plugin.prune_model`.
        max_length: As for :func:`cahp_plugin.prune_model`.
        overwrite: Whether a plan that is there is replaced.
        figures: Whether the curve is drawn, in the folder's ``figures``.

    Returns:
        The plan.

    Raises:
        CheckpointError: There is a plan in the folder, or the folder can't be written.
        DataError: The data can't be used.
        UnsupportedModelError: The model can't.
    """
    folder = Path(output_dir)
    if (folder / PLAN_NAME).exists() and not overwrite:
        raise CheckpointError(f"{folder} holds a plan. Pass `overwrite=True` (`--overwrite`) or another folder.")
    here = processes()
    if here.device is not None:
        model.to(here.device)
    does = task_of(model, task)
    config = resolved(CAHPConfig() if config is None else config, does)
    recovery = dataclasses.replace(recovery or RecoverySettings(), method="none")  # labels are not needed
    options = Options(text_columns, label_column, max_length)
    sets = encode_job(train, None, model, processor, does, options, recovery, config, budget=True, alone=True)
    batches, _ = calibration_of(model, with_targets(model, sets.train), recovery, config.seed)
    progress = folder / PROGRESS_NAME
    plan = make_plan(model, batches, planning or PlanSettings(), config, multiple_of, progress if here.main else None)
    if here.main:
        plan.save(folder)
        if figures:
            save_charts(plan_charts(plan), folder / "figures")
        progress.unlink(missing_ok=True)
    here.all(None)
    return plan
