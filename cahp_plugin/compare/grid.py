"""Runs every way of choosing heads at every number of heads, with every recovery and seed."""

from __future__ import annotations

import copy
import dataclasses
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from transformers.utils import logging

from cahp_plugin._compat import package_versions
from cahp_plugin.architectures import attention_layers
from cahp_plugin.baselines.ranking import head_count
from cahp_plugin.compare.methods import METHODS, Candidate
from cahp_plugin.compare.runs import Run, RunLog, fingerprint_of_data, fingerprint_of_model, pack
from cahp_plugin.compare.summary import Comparison
from cahp_plugin.config import CAHPConfig
from cahp_plugin.data import by_length, encode, find_columns, make_dataloader
from cahp_plugin.errors import ConfigError
from cahp_plugin.prune import CAHPPruner
from cahp_plugin.recover import Evaluation, RecoveryMethod, RecoverySettings, evaluate_classifier
from cahp_plugin.recover.settings import repair, train_again
from cahp_plugin.select import select_heads

logger = logging.get_logger(__name__)


def compare_methods(
    model: Any,
    tokenizer: Any,
    train: Any,
    test: Any,
    *,
    output_dir: str | os.PathLike[str],
    methods: Sequence[str] = ("cahp", "salience-layernorm", "obs", "random"),
    heads: Sequence[int | float] = (0.5, 0.25),
    seeds: Sequence[int] = (0, 1, 2),
    recoveries: Sequence[str] = ("none", "least-squares"),
    config: CAHPConfig | None = None,
    recovery: RecoverySettings | None = None,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    max_length: int | None = None,
) -> Comparison:
    """Compares ways of choosing heads: the same number of heads, the same recovery, the same seeds.

    Every run is a line of ``runs.jsonl``; runs that are there are not repeated, so the same call goes on after a kill.
    ``setup.json`` holds fingerprints of the model and the data, settings and versions; a folder with another set-up is
    refused.

    Args:
        model: The fine-tuned classifier; unchanged.
        tokenizer: Its tokenizer.
        train: Training set: for the observation, the calibration and the fine-tuning.
        test: Examples that every run is evaluated on.
        output_dir: Folder of the runs.
        methods: Names from :data:`cahp_plugin.compare.methods.METHODS`.
        heads: Numbers of heads, each a count or a share in (0, 1).
        seeds: Seeds.
        recoveries: ``"none"``, ``"bias"``, ``"least-squares"``, ``"finetune"``, ``"least-squares+finetune"``.
        config: Settings of CAHP and of the observation.
        recovery: Settings of the recoveries; its ``method`` is not looked at.
        text_columns: One or two text columns; found by their usual names without it.
        label_column: Column of the labels; found without it.
        max_length: Tokens that examples are truncated to.

    Returns:
        All runs of the folder.

    Raises:
        ConfigError: A method or recovery is unknown, or a list is empty.
        SelectionError: A number of heads does not fit the model.
        CheckpointError: The folder holds runs of another set-up.
        DataError: The data can't be used.
    """
    config = CAHPConfig() if config is None else config
    recovery = RecoverySettings() if recovery is None else recovery
    _check_names("methods", methods, tuple(METHODS))
    _check_names("recoveries", recoveries, get_args(RecoveryMethod))
    layers = attention_layers(model)
    present = sum(len(layer.heads) for layer in layers)
    least = sum(min(config.min_heads_per_layer, len(layer.heads)) for layer in layers)
    counts = list(dict.fromkeys(head_count(asked, present, least) for asked in heads))
    if not counts or not seeds:
        raise ConfigError("`heads` and `seeds` must hold at least one number each.")
    columns = find_columns(train, text_columns, label_column)
    encoded = encode(train, columns, tokenizer, model, max_length=max_length)
    encoded_test = by_length(encode(test, columns, tokenizer, model, max_length=max_length))
    evaluated = make_dataloader(encoded_test, tokenizer, batch_size=recovery.batch_size)
    log = RunLog(output_dir, _setup(model, encoded, encoded_test, config, recovery))
    labels = np.asarray(encoded_test["labels"])

    if ("dense", present, 0, "none") not in log.runs:
        log.add(_run(("dense", present, 0, "none"), model, evaluate_classifier(model, evaluated), labels, {}))
    wanted = [
        (method, count, seed, how) for how in recoveries for count in counts for seed in seeds for method in methods
    ]
    missing = [key for key in wanted if key not in log.runs]
    logger.info(f"{len(wanted) - len(missing)} of {len(wanted)} runs are there; {len(missing)} to go.")
    observed = select_heads(model, make_dataloader(by_length(encoded), tokenizer), config) if missing else None
    for method, count, seed, how in logging.tqdm(missing, desc="Comparing", unit="run"):
        assert observed is not None  # it was made for these
        start = time.perf_counter()
        calibration = make_dataloader(encoded, tokenizer, shuffle=True, seed=seed)
        importance = METHODS[method](Candidate(model, observed, calibration, count, seed))
        chosen = time.perf_counter()
        twin = _twin(log.runs.values(), importance.resolve(layers), seed, how)
        if twin is not None:
            seconds = twin.seconds | {"choose": round(chosen - start, 2)}
            log.add(dataclasses.replace(twin, method=method, num_heads=count, seed=seed, seconds=seconds))
            continue
        pruned = copy.deepcopy(model)
        if count < present:
            inputs = {name: value[:1] for name, value in next(iter(evaluated)).items() if name != "labels"}
            CAHPPruner(pruned, inputs, importance=importance).step()
        settings = dataclasses.replace(recovery, method=how)  # type: ignore[arg-type]  # checked above
        cut = time.perf_counter()
        if count < present:
            repair(pruned, model, encoded, tokenizer, settings, seed=seed)
        train_again(pruned, encoded, tokenizer, settings, seed=seed)
        recovered = time.perf_counter()
        evaluation = evaluate_classifier(pruned, evaluated)
        seconds = {"choose": chosen - start, "recover": recovered - cut, "evaluate": evaluation.seconds}
        log.add(_run((method, count, seed, how), pruned, evaluation, labels, seconds))
    shown = {("dense", present, 0, "none"), *wanted}
    return Comparison(Path(output_dir), tuple(run for key, run in log.runs.items() if key in shown))


def _twin(runs: Iterable[Run], kept: Mapping[int, tuple[int, ...]], seed: int, how: str) -> Run | None:
    """A run that kept the same heads and did the same with them: doing it again would give the same numbers."""
    wanted = {str(layer): list(heads) for layer, heads in kept.items()}
    for run in runs:
        if run.kept == wanted and run.recover == how and (run.seed == seed or how == "none"):
            return run
    return None


def _run(
    key: tuple[str, int, int, str],
    model: Any,
    evaluation: Evaluation,
    labels: np.ndarray[Any, Any],
    seconds: dict[str, float],
) -> Run:
    return Run(
        *key,
        accuracy=evaluation.accuracy,
        loss=evaluation.loss,
        correct=pack(np.asarray(evaluation.predictions) == labels),
        num_examples=evaluation.num_examples,
        kept={str(layer.index): list(layer.heads) for layer in attention_layers(model)},
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        seconds={name: round(value, 2) for name, value in seconds.items()},
    )


def _setup(model: Any, train: Any, test: Any, config: CAHPConfig, recovery: RecoverySettings) -> dict[str, Any]:
    settings = dataclasses.asdict(recovery)
    settings.pop("method")
    return {
        "model": fingerprint_of_model(model),
        "train": fingerprint_of_data(train),
        "test": fingerprint_of_data(test),
        "config": config.to_dict(),
        "recovery": settings,
        "versions": package_versions(),
    }


def _check_names(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ConfigError(f"`{what}` holds {', '.join(unknown) or 'nothing'}; known are {', '.join(known)}.")
