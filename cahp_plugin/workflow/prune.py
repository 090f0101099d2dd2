"""The main job in one call: measure, select, prune, recover, save, reload, compare."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from transformers.utils import logging

from cahp_plugin._compat import package_versions
from cahp_plugin.config import CAHPConfig, PlanSettings
from cahp_plugin.cost.budget import Budget
from cahp_plugin.data import as_dataset
from cahp_plugin.errors import CheckpointError, ConfigError, UnsupportedModelError
from cahp_plugin.files import write_text
from cahp_plugin.observe.batches import Batch
from cahp_plugin.plan.certificate import CONFIDENCE
from cahp_plugin.plan.plan import Plan
from cahp_plugin.processes import processes
from cahp_plugin.prune import check_output_directory, load_pruned, replaced_folder
from cahp_plugin.prune.certificate import CERTIFICATE_KEY, write_certificate
from cahp_plugin.prune.checkpoint import class_named
from cahp_plugin.prune.folders import keep_beside
from cahp_plugin.prune.saving import write_checkpoint
from cahp_plugin.recover import RecoverySettings
from cahp_plugin.recover.settings import repair, train_again
from cahp_plugin.report import plan_charts, save_charts, save_figures, write_folder_page
from cahp_plugin.results import PAGE_NAME, PRUNE_NAME, PruneReport, bare_selection
from cahp_plugin.selectors.base import resolved
from cahp_plugin.selectors.complementary import select_heads
from cahp_plugin.tasks import (
    Evaluation,
    Options,
    evaluate,
    metric_named,
    task_of,
    with_targets,
)
from cahp_plugin.units import attention_layers
from cahp_plugin.units.state import fingerprint_of_model
from cahp_plugin.workflow.budget import Chosen, calibration_of, check_plan, choose_under
from cahp_plugin.workflow.certify import Certifier, check_certify
from cahp_plugin.workflow.sets import encode_job
from cahp_plugin.workflow.steps import Clock, prune_to, reload_difference, stage_of

logger = logging.get_logger(__name__)


def prune_model(
    model: Any,
    processor: Any,
    train: Any,
    evaluation: Any = None,
    config: CAHPConfig | None = None,
    *,
    budget: Budget | None = None,
    certify: Any = None,
    confidence: float = CONFIDENCE,
    group_column: str | None = None,
    plan: Plan | str | os.PathLike[str] | None = None,
    planning: PlanSettings | None = None,
    task: str | None = None,
    metric: str | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    recovery: RecoverySettings | None = None,
    graphs: Mapping[str, Any] | None = None,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    max_length: int | None = None,
    overwrite: bool = False,
    figures: bool = True,
) -> PruneReport:
    """Prunes a fine-tuned model by CAHP or under a budget, recovers it, saves it and checks the saved copy.

    Without a budget the paper's method removes heads and fine-tunes. With one, heads and neurons go by what each
    layer's sizes lose at the outputs (:func:`cahp_plugin.plan_pruning`), and what stays is repaired by least squares:
    labels are not needed, and without an evaluation set nothing is evaluated unless the training set has labels.

    Args:
        model: The model, of a supported architecture and a task of ``cahp_plugin.tasks.TASKS``; pruned in place.
        processor: Its tokenizer, or its processor of images or speech.
        train: Training set: a ``datasets.Dataset``, streaming or not, a file or an id, or a list of texts or rows.
        evaluation: Evaluation set with the same columns; without it, a tenth of the training set is held out.
        config: Settings of the method; of a budget, its seed, and what the selector that orders the heads looks at.
        budget: What the model may cost, or may lose.
        certify: Examples that nothing else has touched: the smallest model is taken of which they certify that it
            loses no more than ``max_drop``. Or a :class:`cahp_plugin.workflow.certify.Certifier`.
        confidence: Of the certificate, in (0.5, 1).
        group_column: Column of ``certify`` whose values are the same for rows that belong together, which count as
            one.
        plan: A plan of this model and this training set, or its folder; made without it.
        planning: How the plan is made and bettered.
        task: Name of the task; the model's class tells it.
        metric: A number to report besides the task's own: a name that the task has, or ``module:function``.
        output_dir: Folder to write the pruned model, tokenizer, selection, report and figures to; it appears whole or
            not at all. Nothing is written without it.
        recovery: What happens after pruning: the paper's fine-tuning by default; with a budget, least squares with the
            plan's ridge, which takes the place of the one that the closed form has without a budget.
        graphs: Arguments of :func:`cahp_plugin.export.export_pruned` (``quantize``, ``preset``, ``optimize``) for the
            graphs that are timed for a budget of time; plain fp32 without it.
        text_columns: Columns of the input; found by their usual names without it.
        label_column: Column of what is to be predicted; found without it.
        max_length: Tokens of an example at most; the model's own limit without it.
        overwrite: Whether a non-empty ``output_dir`` is replaced.
        figures: Whether pictures are drawn, and ``report.html`` with all of it.

    Returns:
        The report. ``model`` is the pruned and recovered model, in eval mode.

    Raises:
        BudgetError: The budget can't be met; nothing is written.
        ConfigError: A setting does not go with another.
        DataError: The data can't be used.
        UnsupportedModelError: The model can't, or could not be loaded again.
        CheckpointError: The folder is not empty, or holds the model or the data, or the saved copy does not agree with
            the model.
    """
    config = CAHPConfig() if config is None else config
    planning = PlanSettings() if planning is None else planning
    recovery = recovery or RecoverySettings("finetune" if budget is None else "least-squares")
    if not isinstance(certify, Certifier):
        check_certify(budget, certify, confidence, group_column)
    if budget is None and plan is not None:
        raise ConfigError("A plan is for a budget: name one, such as `--macs 0.6`.")
    plan = plan if plan is None or isinstance(plan, Plan) else Plan.load(plan)
    output = None if output_dir is None else Path(output_dir)
    here = processes()
    if here.device is not None:
        model.to(here.device)
    if output is not None:
        inputs = read_from(model, processor, train, evaluation, certify)
        here.share(lambda: check_output_directory(output, overwrite=overwrite, inputs=inputs))
        if class_named(model.config, type(model).__name__) is not type(model):
            raise UnsupportedModelError(
                f"{type(model).__name__} is no class of transformers, nor registered with it "
                "(`AutoModelFor....register`): what is saved could not be loaded again."
            )
    attention_layers(model)
    does = task_of(model, task)
    config = resolved(config, does)
    if metric is not None:
        metric_named(metric)
    clock = Clock()
    with (
        replaced_folder(output, overwrite=overwrite) if output is not None and here.main else nullcontext() as partial
    ):
        with clock("encode"):
            options = Options(text_columns, label_column, max_length)
            data = None if certify is None or isinstance(certify, Certifier) else as_dataset(certify)
            sets = encode_job(
                train, evaluation, model, processor, does, options, recovery, config,
                budget=budget is not None, certify=data,
            )  # fmt: skip
            examples, evaluated = sets.train, sets.evaluation
            if evaluated is not None:
                does.chosen_metrics(evaluated, metric)
        if here.size > 1:
            given = {"recovery": recovery, "model": fingerprint_of_model(model), "budget": budget and budget.to_dict()}
            given |= {"train": examples.fingerprint(), "evaluation": evaluated and evaluated.fingerprint()}
            here.check_same({**given, "settings": config.to_dict(), "versions": package_versions()})
        if does.needs_targets(examples):
            with clock("embed"):
                examples = with_targets(model, examples)
                evaluated = evaluated and with_targets(model, evaluated)
        first = examples.batch([0])
        batches: tuple[list[Batch], list[Batch]] = [], []
        if budget is not None:
            more = planning.refine_examples if planning.refine else 0
            batches = calibration_of(model, examples, recovery, config.seed, more, sets.without)
            if plan is not None:  # before anything that takes long
                check_plan(plan, model, batches[0])

        certifier = certify if isinstance(certify, Certifier) else None
        if data is not None and budget is not None:
            with clock("evaluate dense for the certificate"):
                certifier = Certifier(
                    model, data, sets, budget=budget, task=does, metric=metric,
                    confidence=confidence, group_column=group_column, seed=config.seed,
                    batch_size=recovery.batch_size, follows=[config, recovery, planning, plan and plan.layers],
                )  # fmt: skip
        vars(model.config).pop(CERTIFICATE_KEY, None)  # of the model as it came

        def measured(model: Any) -> Evaluation:
            assert evaluated is not None
            return evaluate(model, evaluated, metric=metric, batch_size=recovery.batch_size)

        stages = []

        def stage(name: str) -> Evaluation | None:
            with clock(f"evaluate {name}"):
                found = None if evaluated is None else measured(model)
                stages.append(stage_of(name, model, found))
            return found

        dense = stage("dense")
        chosen: Chosen | None = None
        progress = None
        if budget is None:
            with clock("select heads"):
                selection = select_heads(model, examples.batches(recovery.batch_size), config)
            kept, note = selection.kept, None
        else:
            if output is not None and here.main:
                progress = output.absolute().with_name(f"{output.absolute().name}.plan.jsonl")
            with clock("plan"):
                chosen = choose_under(
                    model,
                    budget,
                    *batches,
                    processor=processor,
                    plan=plan,
                    planning=planning,
                    config=config,
                    evaluate=None if evaluated is None else measured,
                    dense=dense,
                    lengths=() if evaluated is None else evaluated.lengths,
                    graphs=graphs or {},
                    progress=progress,
                    # What is trained afterwards, or repaired otherwise, is tested itself, once, at the end.
                    walk=certifier.walk if certifier and recovery.method == "least-squares" else None,
                )
            kept, note = chosen.kept, " ".join(chosen.outcome.sentences())
            there = attention_layers(model)
            width = max(layer.num_original for layer in there)
            selection = dataclasses.replace(
                bare_selection(kept.heads, width, note=str(note), config=config),
                heads=tuple((layer.index, head) for layer in there for head in layer.heads),
            )
        pictures: dict[str, Path] = {}
        if partial is not None and output is not None and figures:
            with clock("figures"):  # before the long part: a failure here costs no training
                drawn = (save_figures(selection, partial / "figures") if chosen is None
                         else save_charts(plan_charts(chosen.outcome), partial / "figures"))  # fmt: skip
                pictures = {name: output / path.relative_to(partial) for name, path in drawn.items()}
        original = copy.deepcopy(model) if recovery.closed_form or recovery.trains == "distill" else None
        with clock("prune"):
            prune_to(model, kept, first)
        stage("one-shot")
        if recovery.closed_form:
            with clock("repair"):
                if chosen is not None and recovery.closed_form == "least-squares":
                    chosen.repair(model, original)
                else:
                    repair(model, original, examples, recovery, seed=config.seed)
            stage(str(recovery.closed_form))
        if recovery.trains:
            with clock("recover"):
                own = [index for index, row in enumerate(examples.rows) if row not in sets.without]
                train_again(model, original, examples.select(own), recovery, seed=config.seed)
            stage("recovered")

        certificate = None
        if certifier is not None and chosen is not None and not certifier.of_graph:
            with clock("certify"):
                certificate = certifier.certificate(model, chosen.outcome.macs.layers)
        difference = None
        if partial is not None and output is not None:
            with clock("save and reload"):
                saved = selection if chosen is None else None
                write_checkpoint(
                    model, partial, place=output, selection=saved, tokenizer=processor, stages=stages, note=note
                )
                if chosen is not None:
                    chosen.plan.save(partial)
                if certificate is not None:
                    certificate = write_certificate(partial, certificate, name=output.name)
                does.save_beside(partial)
                try:
                    sample = examples if evaluated is None else evaluated
                    difference = reload_difference(model, partial, sample.batch(range(min(len(sample), 32))))
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
            does.name,
            tuple(dict.fromkeys(own.told for own in (examples, evaluated) if own is not None and own.told)),
            None if chosen is None else chosen.outcome,
            certificate,
        )
        if partial is not None and output is not None:
            write_report(report, partial, output, page=figures)
        here.all(None)  # the folder appears once all have come so far
    if progress is not None:
        progress.unlink(missing_ok=True)
    return report


def write_report(report: PruneReport, folder: Path, place: Path, *, page: bool) -> None:
    """Writes the report, and the page, about a folder that will lie at ``place`` into it."""
    # The folder may be moved: what it holds does not say where it lies.
    entries = {name: value for name, value in report.to_dict().items() if name not in ("output", "figures")}
    write_text(folder / PRUNE_NAME, json.dumps(entries, indent=2) + "\n")
    if not page:
        return
    try:
        write_folder_page(folder, name=place.absolute().name)
    except Exception as error:  # whatever it is, it must not cost the pruned model
        logger.warning(f"{PAGE_NAME} could not be made ({type(error).__name__}: {error}); all else is in {place}.")


def read_from(*sources: Any) -> list[str]:
    """Files and folders that models, tokenizers and data sets were read from, as far as they know them."""
    names = ("name_or_path", "source_path")  # of models and tokenizers; of what `load_examples` read
    places = [str(found) for source in sources for name in names if (found := getattr(source, name, None))]
    return places + [entry["filename"] for source in sources for entry in getattr(source, "cache_files", ())]


def load_model(name: str, *, task: str | None = None, device: str | None = None) -> tuple[Any, Any]:
    """Loads a fine-tuned model, pruned before or not, and its tokenizer or processor, from a folder or the Hub.

    Args:
        name: Folder or Hub id.
        task: Name of its task; its class tells it.
        device: Where it is moved; where it lies in several processes is Accelerate's choice.

    Raises:
        CheckpointError: There is no such checkpoint, or it has no tokenizer or processor.
        ConfigError: The device can't be used, or there are several processes.
    """
    if device is not None and processes().size > 1:
        raise ConfigError(f"`device` is {device!r}; of several processes each has its own. Leave it out.")
    model = load_pruned(name, device=device)
    return model, task_of(model, task).load_processor(name)
