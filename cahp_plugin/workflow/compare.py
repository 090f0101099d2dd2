"""Runs every way of choosing heads, or every planner, at every size, with every recovery and seed."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from transformers.utils import logging

from cahp_plugin._compat import package_versions
from cahp_plugin.compare.check import check_runs, committed_runs
from cahp_plugin.compare.knee import KneeTable, knee_under_noise
from cahp_plugin.compare.packing import pack_halves
from cahp_plugin.compare.rows import DENSE
from cahp_plugin.compare.runs import STRUCTURE_NAME, Key, Run, RunLog, measured, read_missed, recovery_entries
from cahp_plugin.compare.summary import OWN, Comparison, read_knee
from cahp_plugin.config import CAHPConfig
from cahp_plugin.cost.budget import Budget
from cahp_plugin.errors import ConfigError, PruningError
from cahp_plugin.files import write_text
from cahp_plugin.observe.batches import read_inputs
from cahp_plugin.observe.conditioning import CONDITIONINGS
from cahp_plugin.observe.streams import layer_tokens
from cahp_plugin.planners import PLANNERS
from cahp_plugin.processes import processes
from cahp_plugin.prune import CAHPImportance, CAHPPruner
from cahp_plugin.recover import RecoveryMethod, RecoverySettings, prune_and_repair
from cahp_plugin.recover.settings import repair, train_again
from cahp_plugin.report import write_folder_page
from cahp_plugin.selectors import View, default_selectors, make_selector, selectors
from cahp_plugin.selectors.base import resolved
from cahp_plugin.tasks import Evaluation, Examples, Options, encode_sets, evaluate, task_of, with_targets
from cahp_plugin.units import attention_layers, kept_state, prunable_layers
from cahp_plugin.units.counts import HeadUnits
from cahp_plugin.units.state import call_options, fingerprint_of_model
from cahp_plugin.workflow.choose import Chooser
from cahp_plugin.workflow.planned import Planned, wanted_of

logger = logging.get_logger(__name__)


def compare_methods(
    model: Any,
    processor: Any,
    train: Any,
    test: Any,
    *,
    task: str | None = None,
    metric: str | None = None,
    validation: Any = None,
    output_dir: str | os.PathLike[str],
    methods: Sequence[str] | None = None,
    heads: Sequence[int | float] | None = None,
    planners: Sequence[str] | None = None,
    macs: Sequence[float] | None = None,
    sequence_length: int = 128,
    seeds: Sequence[int] = (0, 1, 2),
    recoveries: Sequence[str] | None = None,
    config: CAHPConfig | None = None,
    recovery: RecoverySettings | None = None,
    gate_epochs: float = 1.0,
    knee: bool = False,
    check: str | os.PathLike[str] | None = None,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    max_length: int | None = None,
) -> Comparison:
    """Compares ways of choosing heads, or planners under a budget: the same size, the same recovery, the same seeds.

    Every run is a line of ``runs.jsonl``; runs that are there are not repeated, so the same call goes on after a kill.
    At the end ``report.html`` shows all runs of the folder.
    ``setup.json`` holds fingerprints of the model and the data, settings and versions; a folder with another set-up is
    refused. ``structure.json`` says where the kept heads of all runs in the folder are.

    Nothing is computed twice. Heads are chosen once for each method, number and seed (once for all seeds where the
    method has none), and every run that uses the choice carries the seconds that it took. Without a recovery, a run
    of the same heads as another has its figures: it is written with them and not evaluated again.

    Args:
        model: The fine-tuned model; unchanged.
        processor: Its tokenizer, or its processor of images or speech.
        train: Training set: for the observation, the calibration and the fine-tuning.
        test: Rows that every run is evaluated on.
        task: As for :func:`cahp_plugin.prune_model`.
        metric: As for :func:`cahp_plugin.prune_model`.
        validation: Rows to choose among the runs by: the metric on them is recorded too, and the report's best way is
            then the best on these, with its metric on the test set.
        output_dir: Folder of the runs.
        methods: Names of :func:`cahp_plugin.selectors.selectors`; its defaults without.
        heads: Numbers of heads, each a count or a share in (0, 1); without it .5 and .25.
        planners: Names of :data:`cahp_plugin.planners.PLANNERS`, in place of ``methods``; all without.
        macs: Shares in (0, 1] of the layers' multiply-accumulates that may stay, in place of ``heads``: planners are
            compared then, also by the divergence of the outputs from the dense model's.
        sequence_length: Tokens an example, for multiply-accumulates.
        seeds: Seeds; of planners, also of the calibration examples that are drawn.
        recoveries: ``"none"``, ``"bias"``, ``"least-squares"``, ``"finetune"``, ``"distill"``, or the
            last two after the repair: ``"least-squares+finetune"``, ``"least-squares+distill"``. Of planners also
            ``"own"``: each planner's own repair, where it has one. Without it ``"none"`` and ``"least-squares"``, of
            planners ``"least-squares"`` and ``"own"``.
        config: Settings of CAHP and of the observation.
        recovery: Settings of the recoveries; its ``method`` is not looked at.
        gate_epochs: Passes over the training set for methods that train gates (``"voita"``, ``"dsp"``).
        knee: Whether to look for the knee in noise too (:func:`cahp_plugin.compare.knee.knee_under_noise`).
        check: Folder of an earlier comparison on the same model, data and settings, whose results are held against
            these.
        text_columns: As for :func:`cahp_plugin.prune_model`.
        label_column: As for :func:`cahp_plugin.prune_model`.
        max_length: As for :func:`cahp_plugin.prune_model`.

    Returns:
        All runs of the folder.

    Raises:
        ConfigError: A method or recovery is unknown or does not go with the settings, or a list is empty.
        SelectionError: A number of heads does not fit the model.
        CheckpointError: The folder holds runs of another set-up, or ``check`` has nothing to compare.
        DataError: The data can't be used.
        PruningError: The model's activations are not finite.
    """
    does = task_of(model, task)
    config = resolved(CAHPConfig() if config is None else config, does)
    recovery = RecoverySettings() if recovery is None else recovery
    if macs is not None:
        if methods is not None or heads is not None or knee:
            raise ConfigError("`macs` compares planners: leave out `methods`, `heads` and `knee`.")
        planners = tuple(PLANNERS) if planners is None else planners
        _check_names("planners", planners, tuple(PLANNERS))
        for share in macs:
            Budget(macs=share, sequence_length=sequence_length)  # it is one
    elif planners is not None:
        raise ConfigError("`planners` are compared under budgets: name some, such as `--macs 0.6 0.4`.")
    methods = default_selectors() if methods is None else methods
    heads = (0.5, 0.25) if heads is None else heads
    if recoveries is None:
        recoveries = ("none", "least-squares") if macs is None else ("least-squares", OWN)
    _check_names("methods", methods, tuple(selectors()))
    _check_names("recoveries", recoveries, (*get_args(RecoveryMethod), *(() if macs is None else (OWN,))))
    if not gate_epochs > 0:
        raise ConfigError(f"`gate_epochs` must be above 0; got {gate_epochs}.")
    ways = {name: make_selector(name, epochs=gate_epochs) for name in methods} if macs is None else {}
    if knee and not (CONDITIONINGS[config.conditioning].classes and config.clustering != "louvain"):
        raise ConfigError(
            "The knee under noise takes a class separation and a clustering with a knee: conditioning 'label' or "
            "'prediction', clustering 'kmedoids' or 'hierarchical'."
        )
    units = HeadUnits.of(attention_layers(model), config.min_heads_per_layer)
    present = units.num_heads
    counts = list(dict.fromkeys(units.count(asked) * units.group_size for asked in heads))
    if not (counts if macs is None else macs) or not seeds:
        raise ConfigError(f"`{'heads' if macs is None else 'macs'}` and `seeds` must hold at least one number each.")
    here = processes()
    if here.device is not None:
        model.to(here.device)
    sets = {"training": train, "test": test} | ({} if validation is None else {"validation": validation})
    encoded = encode_sets(sets, model, processor, does, Options(text_columns, label_column, max_length))
    encoded = {name: with_targets(model, examples) for name, examples in encoded.items()}
    examples, evaluated = encoded["training"], encoded["test"].by_length()
    validated = encoded.get("validation")
    does.chosen_metrics(evaluated, metric)

    def evaluated_on(model: Any, on: Examples) -> Evaluation:
        return evaluate(model, on, metric=metric, batch_size=recovery.batch_size)

    view = View(
        model,
        examples.by_length().batches(),  # no order is better for the one walk over all
        config,
        shuffled=lambda seed, grouped: examples.batches(
            recovery.batch_size, shuffle=True, seed=seed, group_by_length=grouped
        ),
        shrink=prune_and_repair,
    )
    for way in ways.values():
        view.check(way)
    _check_activations(model, evaluated)
    dense = ("dense", present, 0, "none")
    wanted: list[Key]
    if macs is not None and planners is not None:
        wanted = wanted_of(planners, macs, seeds, recoveries)
    else:
        keys = itertools.product(recoveries, counts, seeds, methods)
        wanted = list(dict.fromkeys((method, count, seed, how) for how, count, seed, method in keys))
    setup = {
        "model": fingerprint_of_model(model),
        "train": examples.fingerprint(),
        "test": evaluated.fingerprint(),
        "eval": None if validated is None else validated.by_length().fingerprint(),
        "config": config.to_dict(),
        "recovery": recovery_entries(recovery),
        "gate_epochs": float(gate_epochs),
        "versions": package_versions(),
        "task": does.name,
        "metric": metric,
    }
    setup |= {} if macs is None else {"budget": {"sequence_length": sequence_length}}
    committed = None if check is None else committed_runs(check, [dense, *wanted], setup)
    here.check_same({**setup, "wanted": wanted})
    log = here.share(lambda: RunLog(output_dir, setup))
    folder = Path(output_dir)
    planned = None
    if macs is not None:
        own = OWN in recoveries
        planned = Planned(model, examples, evaluated, folder, config, recovery, sequence_length, own)

    def run(key: Key, model: Any, seconds: dict[str, float]) -> Run:
        start = time.perf_counter()
        found = measured(evaluated_on(model, evaluated))
        seconds = seconds and seconds | {"evaluate": time.perf_counter() - start}
        method, size, seed, how = key
        layers = attention_layers(model)
        under: dict[str, Any] = {}
        if planned is not None and method != DENSE:
            neurons = {str(own.index): len(own.present) for own in prunable_layers(model) if own.noun == "neurons"}
            under = {"macs": size / 100, "neurons": neurons, "divergence": pack_halves(planned.divergences(model))}
        return Run(
            method,
            sum(len(layer.heads) for layer in layers),
            seed,
            how,
            kept={str(layer.index): list(layer.heads) for layer in layers},
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            seconds={name: round(value, 2) for name, value in seconds.items()},
            validation=None if validated is None else evaluated_on(model, validated).score.value,
            **found,
            **under,
        )

    if dense not in log.runs:
        _add(log, run(dense, model, {}))
    missing = [key for key in wanted if key not in log.runs]
    logger.info(f"{len(wanted) - len(missing)} of {len(wanted)} runs are there; {len(missing)} to go.")
    chooser = Chooser(log, view, ways)
    inputs = {name: value for name, value in evaluated.batch([0]).items() if name != "labels"}
    for method, count, seed, how in logging.tqdm(missing, desc="Comparing", unit="run"):
        key = (method, count, seed, how)
        if planned is not None:
            made = planned.make(method, count / 100, seed, how)
            if made is not None:
                _add(log, run(key, made[0], {"choose": made[1], "recover": made[2]}))
            continue
        kept, choosing = chooser.choose(method, int(count), seed)
        twin = log.twin({str(layer): list(heads) for layer, heads in kept.heads.items()}) if how == "none" else None
        if twin is not None:
            seconds = twin.seconds | {"choose": round(choosing, 2), "recover": 0.0}
            _add(log, dataclasses.replace(twin, method=method, num_heads=int(count), seed=seed, seconds=seconds))
            continue
        pruned = copy.deepcopy(model)
        if count < present:
            CAHPPruner(pruned, inputs, importance=CAHPImportance(kept)).step()
        settings = dataclasses.replace(recovery, method=how)  # type: ignore[arg-type]  # checked above
        cut = time.perf_counter()
        if count < present:
            repair(pruned, model, examples, settings, seed=seed)
        train_again(pruned, model, examples, settings, seed=seed)
        _add(log, run(key, pruned, {"choose": choosing, "recover": time.perf_counter() - cut}))
    shown = {dense, *wanted}
    runs = tuple(run for key, run in log.runs.items() if key in shown)
    missed: tuple[tuple[str, float, str], ...] = ()
    if planned is not None:  # now or by an earlier call
        reached = {(run.method, run.macs) for run in log.runs.values()}
        both = dict.fromkeys((*read_missed(folder), *planned.missed))
        missed = tuple(entry for entry in both if entry[:2] not in reached)
    comparison = Comparison(folder, runs, _knee(folder, view, seeds) if knee else None, missed=missed)
    everything = dataclasses.replace(comparison, runs=tuple(log.runs.values()))
    here.share(lambda: _write_structure(everything))
    if any(run.method != DENSE for run in everything.runs):
        here.share(lambda: write_folder_page(folder))
    if committed is not None and check is not None:
        comparison = dataclasses.replace(comparison, check=check_runs(comparison.rows(), committed, check))
    return comparison


def _add(log: RunLog, run: Run) -> None:
    """Adds a run in all processes, as the first has it; that one writes it."""
    here = processes()

    def add() -> Run:
        log.add(run)
        return run

    found = here.share(add)
    log.runs[found.key] = found


def _knee(folder: Path, view: View, seeds: Sequence[int]) -> KneeTable:
    """The knee in noise; read back where an earlier call has written it."""
    known = read_knee(folder)
    if known is not None and known.seeds == tuple(seeds):
        return known
    evidence = view.evidence
    return processes().share(lambda: knee_under_noise(evidence, seeds=seeds))


def _write_structure(comparison: Comparison) -> None:
    """Writes where the heads are; a knee table of an earlier call stays."""
    known = comparison.knee or read_knee(comparison.output)
    values: dict[str, Any] = {
        "structure": [dataclasses.asdict(place) for place in comparison.structure()],
        "knee": None if known is None else known.to_dict(),
    }
    if comparison.planned:
        values = {"structure": [], "knee": None, "missed": [list(entry) for entry in comparison.missed]}
    write_text(comparison.output / STRUCTURE_NAME, json.dumps(values, indent=2) + "\n")


def _check_activations(model: Any, examples: Examples) -> None:
    """Runs one batch, so that a broken model is told by its first broken layer and before any work.

    Raises:
        PruningError: A layer's activations, or the logits, are not finite.
    """
    layers = [layer for layer in attention_layers(model) if layer.heads]
    batch = next(read_inputs([examples.batch(range(min(len(examples), 32)))], model))
    with kept_state(model), torch.inference_mode():
        model.eval()
        found = layer_tokens(model, layers, batch) if layers else {}
        output = model(**batch.inputs_on(model.device), **call_options(type(model)))
    for layer in layers:
        if not bool(torch.isfinite(found[layer.output_path].behind).all()):
            raise PruningError(
                f"{layer} has activations that are not finite. Check the model's weights, and its dtype: half "
                "precision overflows in some models."
            )
    for name in examples.task.outputs:
        if not bool(torch.isfinite(output[name]).all()):
            told = f"The model's {name.replace('_', ' ')} are not finite, behind attention layers that are."
            raise PruningError(f"{told} Check its weights.")


def _check_names(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ConfigError(f"`{what}` holds {', '.join(unknown) or 'nothing'}; known are {', '.join(known)}.")
