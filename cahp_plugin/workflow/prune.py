"""The main job in one call: measure, select, prune, recover, save, reload, compare."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from cahp_plugin._compat import package_versions
from cahp_plugin.compare.runs import fingerprint_of_data, fingerprint_of_model
from cahp_plugin.config import CAHPConfig
from cahp_plugin.data import check_same_classes, encode, find_columns, make_dataloader
from cahp_plugin.errors import CheckpointError, DataError, UnsupportedModelError
from cahp_plugin.files import write_text
from cahp_plugin.processes import processes
from cahp_plugin.prune import (
    CAHPImportance,
    CAHPPruner,
    Stage,
    check_output_directory,
    load_pruned,
    replaced_folder,
)
from cahp_plugin.prune.checkpoint import class_named, load_tokenizer
from cahp_plugin.prune.folders import keep_beside
from cahp_plugin.prune.saving import write_checkpoint
from cahp_plugin.recover import Evaluation, RecoverySettings, evaluate_classifier
from cahp_plugin.recover.settings import repair, train_again
from cahp_plugin.report import save_figures, write_folder_page
from cahp_plugin.results import PAGE_NAME, PRUNE_NAME, PruneReport
from cahp_plugin.selectors.cahp.selection import HeadSelection
from cahp_plugin.selectors.complementary import select_heads
from cahp_plugin.tasks.metrics import scores_of
from cahp_plugin.units import attention_layers

logger = logging.get_logger(__name__)

_RELOAD_TOLERANCE = 1e-6


def prune_classifier(
    model: Any,
    tokenizer: Any,
    train: Any,
    evaluation: Any,
    config: CAHPConfig | None = None,
    *,
    output_dir: str | os.PathLike[str] | None = None,
    recovery: RecoverySettings | None = None,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    max_length: int | None = None,
    overwrite: bool = False,
    figures: bool = True,
) -> PruneReport:
    """Prunes a fine-tuned sequence classifier by CAHP, recovers it, saves it and checks the saved copy.

    Args:
        model: The classifier, of a supported architecture; pruned in place.
        tokenizer: Its tokenizer.
        train: Training set, a ``datasets.Dataset`` with text and label columns.
        evaluation: Evaluation set with the same columns.
        config: Settings of the method.
        output_dir: Folder to write the pruned model, tokenizer, selection, report and figures to; it appears whole or
            not at all. Nothing is written without it.
        recovery: Fine-tuning after pruning; the paper's by default.
        text_columns: One or two text columns; found by their usual names without it.
        label_column: Column of the labels; found without it.
        max_length: Tokens that examples are truncated to; the model's own limit without it.
        overwrite: Whether a non-empty ``output_dir`` is replaced.
        figures: Whether pictures are drawn, and ``report.html`` with all of it.

    Returns:
        The report. ``model`` is the pruned and recovered model, in eval mode.

    Raises:
        DataError: The data can't be used.
        UnsupportedModelError: The model can't, or could not be loaded again.
        CheckpointError: The folder is not empty, or holds the model or the data, or the saved copy does not agree with
            the model.
    """
    config = CAHPConfig() if config is None else config
    recovery = RecoverySettings() if recovery is None else recovery
    output = None if output_dir is None else Path(output_dir)
    here = processes()
    if here.device is not None:
        model.to(here.device)
    if output is not None:
        inputs = read_from(model, tokenizer, train, evaluation)
        here.share(lambda: check_output_directory(output, overwrite=overwrite, inputs=inputs))
        if class_named(model.config, type(model).__name__) is not type(model):
            raise UnsupportedModelError(
                f"{type(model).__name__} is no class of transformers, nor registered with it "
                "(`AutoModelFor....register`): what is saved could not be loaded again."
            )
    attention_layers(model)
    clock = _Clock()
    with (
        replaced_folder(output, overwrite=overwrite) if output is not None and here.main else nullcontext() as partial
    ):
        with clock("encode"):
            columns = find_columns(train, text_columns, label_column)
            find_columns(evaluation, columns.text, columns.label)
            check_same_classes({"training": train, "evaluation": evaluation}, columns.label, model.config)
            encoded, encoded_evaluation = (
                encode(data, columns, tokenizer, model, max_length=max_length) for data in (train, evaluation)
            )
        if here.size > 1:
            given = {"recovery": recovery, "model": fingerprint_of_model(model)}
            data = {"train": fingerprint_of_data(encoded), "evaluation": fingerprint_of_data(encoded_evaluation)}
            here.check_same({**given, **data, "settings": config.to_dict(), "versions": package_versions()})
        observed = make_dataloader(encoded, tokenizer, batch_size=recovery.batch_size)
        evaluated = make_dataloader(encoded_evaluation, tokenizer, batch_size=recovery.batch_size)

        stages = []
        with clock("evaluate dense"):
            stages.append(_stage("dense", model, evaluate_classifier(model, evaluated)))
        with clock("select heads"):
            selection = select_heads(model, observed, config)
        pictures: dict[str, Path] = {}
        if partial is not None and output is not None and figures:
            with clock("figures"):  # before the long part: a failure here costs no training
                drawn = save_figures(selection, partial / "figures")
                pictures = {name: output / path.relative_to(partial) for name, path in drawn.items()}
        original = copy.deepcopy(model) if recovery.closed_form else None
        with clock("prune"):
            prune_to(model, selection, next(iter(evaluated)))
        with clock("evaluate one-shot"):
            stages.append(_stage("one-shot", model, evaluate_classifier(model, evaluated)))
        if original is not None:
            with clock("repair"):
                repair(model, original, encoded, tokenizer, recovery, seed=config.seed)
            original = None
            with clock("evaluate repaired"):
                stages.append(_stage(str(recovery.closed_form), model, evaluate_classifier(model, evaluated)))
        if recovery.finetunes:
            with clock("recover"):
                train_again(model, encoded, tokenizer, recovery, seed=config.seed)
            with clock("evaluate recovered"):
                stages.append(_stage("recovered", model, evaluate_classifier(model, evaluated)))

        difference = None
        if partial is not None and output is not None:
            with clock("save and reload"):
                write_checkpoint(model, partial, place=output, selection=selection, tokenizer=tokenizer, stages=stages)
                try:
                    difference = reload_difference(model, partial, next(iter(evaluated)))
                except CheckpointError as error:
                    raise CheckpointError(f"{error} It is in {keep_beside(partial, output)}.") from error
        report = PruneReport(
            selection,
            tuple(stages),
            clock.seconds,
            difference,
            output,
            pictures,
            package_versions(),
            recovery,
            here.size,
        )
        if partial is not None and output is not None:
            # The folder may be moved: what it holds does not say where it lies.
            entries = {name: value for name, value in report.to_dict().items() if name not in ("output", "figures")}
            write_text(partial / PRUNE_NAME, json.dumps(entries, indent=2) + "\n")
            if figures:
                _write_page(partial, output)
        here.all(None)  # the folder appears once all have come so far
    return report


def _write_page(folder: Path, place: Path) -> None:
    """Writes the page about a folder that will lie at ``place``."""
    try:
        write_folder_page(folder, name=place.absolute().name)
    except Exception as error:  # whatever it is, it must not cost the pruned model
        logger.warning(f"{PAGE_NAME} could not be made ({type(error).__name__}: {error}); all else is in {place}.")


def read_from(*sources: Any) -> list[str]:
    """Files and folders that models, tokenizers and data sets were read from, as far as they know them."""
    names = ("name_or_path", "source_path")  # of models and tokenizers; of what `load_examples` read
    places = [str(found) for source in sources for name in names if (found := getattr(source, name, None))]
    return places + [entry["filename"] for source in sources for entry in getattr(source, "cache_files", ())]


def load_classifier(name: str) -> tuple[Any, Any]:
    """Loads a fine-tuned classifier, pruned before or not, and its tokenizer from a folder or the Hub.

    Raises:
        CheckpointError: There is no such checkpoint, or it has no tokenizer.
    """
    return load_pruned(name), load_tokenizer(name)


def prune_to(model: Any, selection: HeadSelection, batch: Mapping[str, Any]) -> None:
    """Removes the heads that a selection does not keep, in place; a selection that keeps all leaves the model."""
    if selection.num_heads == selection.num_present:
        logger.warning("The selection keeps every head: the model stays as it is.")
        return
    example = {name: value[:1] for name, value in _inputs(model, batch).items()}
    CAHPPruner(model, example, importance=CAHPImportance(selection)).step()


def reload_difference(model: Any, folder: Path, batch: Mapping[str, Any]) -> float:
    """Largest absolute difference of a logit between a model and its saved copy, on one batch.

    Raises:
        CheckpointError: It exceeds 1e-6 of the largest logit: the copy is not the model.
    """
    attention = model.config._attn_implementation
    copy = load_pruned(folder, dtype=model.dtype, attn_implementation=attention).to(model.device)
    inputs = _inputs(model, batch)
    with torch.inference_mode():
        ours, theirs = model.eval()(**inputs).logits, copy.eval()(**inputs).logits
    difference = float((ours - theirs).abs().max())
    if not difference <= _RELOAD_TOLERANCE * max(1.0, float(ours.abs().max())):
        raise CheckpointError(f"The saved model differs from the one in memory by {difference:.2e}.")
    return difference


def _inputs(model: Any, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    inputs = {name: value.to(model.device) for name, value in batch.items() if name not in ("labels", "label")}
    if not inputs:
        raise DataError(f"The batch holds nothing but labels; its keys are {sorted(batch)}.")
    return inputs


def _stage(name: str, model: Any, evaluation: Evaluation) -> Stage:
    heads = sum(len(layer.heads) for layer in attention_layers(model))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Stage(name, heads, parameters, evaluation.loss, scores_of(evaluation), evaluation.num_examples)


class _Clock:
    """Wall-clock seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = time.perf_counter() - start
