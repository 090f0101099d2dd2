"""The commands that lead to a result, put together from its settings."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from typing import Any

from cahp_plugin.compare.summary import Comparison
from cahp_plugin.config import CAHPConfig, PlanSettings
from cahp_plugin.cost.budget import Budget
from cahp_plugin.export import ExportReport
from cahp_plugin.export.quantize import PRESETS
from cahp_plugin.latency import LatencyReport
from cahp_plugin.plan.certificate import CONFIDENCE
from cahp_plugin.plan.outcome import Outcome
from cahp_plugin.recover import RecoverySettings
from cahp_plugin.report.compared import methods_of, recoveries_of, sizes_of
from cahp_plugin.report.contents import Contents, settings_of
from cahp_plugin.results import PruneReport
from cahp_plugin.tasks import TASKS


def commands(contents: Contents) -> list[str]:
    """The commands for what a folder holds; words in capitals stand for the user's own files."""
    found = []
    output = {"output": contents.name}
    if contents.config is not None:
        task = contents.pruning.task if contents.pruning else "text-classification"
        options = _task(task) | _method(contents.config, task) | _recovery(contents.pruning)
        options |= _budget(contents.plan, contents.deployed) | _certified(contents.pruning)
        if contents.deployed and contents.latency is not None:
            options |= _measured(contents.latency, "threads", "rounds", "warmup")
            options |= _lengths(options["sequence_length"], contents.plan)
            options |= _graph(contents.exports["pruned-int8"]) | _graph(contents.exports["pruned-onnx"])
        verb = "deploy" if contents.deployed else "prune"
        found.append(_command(f"cahp {verb} MODEL --train TRAIN --eval EVAL", output | options))
    if contents.comparison is not None:
        data = "--train TRAIN --test TEST" + (" --eval EVAL" if contents.comparison.setup.get("eval") else "")
        found.append(_command(f"cahp compare MODEL {data}", output | _comparison(contents.comparison)))
    if contents.deployed:
        return found
    for export in contents.exports.values():
        quantized = {"quantize": export.quantize}
        found.append(_command("cahp export -m MODEL", output | quantized | _graph(export)))
    if contents.latency is not None:
        entries = contents.latency.measurements
        targets = dict.fromkeys(shlex.quote(entry.target) for entry in entries)
        options = {"batch_size": list(dict.fromkeys(entry.batch_size for entry in entries))}
        options |= _measured(contents.latency, "threads", "rounds", "warmup", "device", "seed")
        found.append(_command(f"cahp benchmark {' '.join(targets)}", output | options))
    return found


def _graph(export: ExportReport) -> dict[str, Any]:
    """How a graph was made, where it is not the default."""
    found = {"preset": export.preset if export.preset != PRESETS[0] else None, "optimize": export.optimize}
    return {name: value for name, value in found.items() if value is not None}


def _task(name: str, metric: str | None = None) -> dict[str, Any]:
    """The task where it may have to be named: one that shares its class of models with another."""
    task = TASKS.get(name)
    shared = task is not None and task.optimum != task.name
    return {"task": name if shared else None, "metric": metric}


def _method(config: CAHPConfig, task: str) -> dict[str, Any]:
    """The settings of the method that are not those of the task where none is given."""
    own = TASKS[task].conditioning if task in TASKS else "label"
    return _changed(config.to_dict(), CAHPConfig, conditioning=own)


def _command(start: str, options: Mapping[str, Any]) -> str:
    """One option a line, as a shell takes it; those that are ``None`` are left out."""
    lines = [start]
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        if value is True:
            lines.append(f"--{name}")
        elif value is not None:
            lines.append(f"--{name.replace('_', '-')} {' '.join(shlex.quote(str(entry)) for entry in values)}")
    return " \\\n  ".join(lines)


def _changed(values: Mapping[str, Any], *kinds: type[Any], **others: Any) -> dict[str, Any]:
    """Those of the values that are settings of a kind and not its default, or another one, as text."""
    defaults = {field.name: field.default for kind in kinds for field in dataclasses.fields(kind)} | others
    return {
        name: value if isinstance(value, list) else str(value)
        for name, value in values.items()
        if name in defaults and (tuple(value) if isinstance(value, list) else value) != defaults[name]
    }


def _budget(outcome: Outcome | None, deployed: bool) -> dict[str, Any]:
    """What the budget was, and what is not the default of it and of its plan."""
    if outcome is None:
        return {}
    own = ("sequence_length", "threads") if deployed else ()
    values = {name: value for name, value in {**outcome.budget, **outcome.planning}.items() if name not in own}
    return _changed(values, Budget, PlanSettings)


def _certified(pruning: PruneReport | None) -> dict[str, Any]:
    """What a certificate was asked for by."""
    found = pruning.certificate if pruning else None
    if found is None:
        return {}
    sure = found.confidence if found.confidence != CONFIDENCE else None
    return {"certify": "HELD_OUT", "confidence": sure, "group_column": found.group_column}


def _recovery(pruning: PruneReport | None) -> dict[str, Any]:
    if pruning is not None and pruning.recovery is not None:
        return {"recover": pruning.recovery.method, **_recovery_options(pruning.recovery)}
    names = [stage.name for stage in pruning.stages] if pruning else []  # an older report names the stages alone
    steps = {"bias": "bias", "least-squares": "least-squares", "recovered": "finetune"}
    return {"recover": "+".join(step for name, step in steps.items() if name in names) or "none"}


def _recovery_options(settings: RecoverySettings) -> dict[str, Any]:
    options = _changed(dataclasses.asdict(settings), RecoverySettings, method=settings.method, training_arguments={})
    if "training_arguments" in options:
        options["training_arguments"] = json.dumps(dict(settings.training_arguments), default=str)
    return options


def _comparison(comparison: Comparison) -> dict[str, Any]:
    rows = comparison.rows()
    methods = methods_of(rows)
    config, recovery = settings_of(comparison)
    task = str(comparison.setup.get("task"))
    config = dataclasses.replace(config, seed=0, num_heads=None)  # each run's own
    sizes = sizes_of(rows)
    length = (comparison.setup.get("budget") or {}).get("sequence_length")
    epochs = comparison.setup.get("gate_epochs")
    return {
        **(
            {"planners": ",".join(methods), "macs": [f"{size / 100:g}" for size in sizes]}
            if comparison.planned
            else {"methods": ",".join(methods), "heads": [f"{size:g}" for size in sizes]}
        ),
        "sequence_length": None if length in (None, 128) else length,
        "seeds": sorted({run.seed for run in comparison.runs if run.method in methods}),
        "recover": recoveries_of(rows),
        **_recovery_options(recovery),
        **_method(config, task),
        **_task(task, comparison.setup.get("metric")),
        "gate_epochs": None if epochs == 1 else epochs,
        "knee": comparison.knee and True,
    }


def _lengths(measured: list[int], outcome: Outcome | None) -> dict[str, Any]:
    """The measured lengths, that of the budget first, as ``cahp deploy`` takes them."""
    own = outcome.budget.get("sequence_length") if outcome else measured[0]
    if own not in measured and own in (None, Budget.sequence_length):
        return {"sequence_length": None}  # it was not given
    return {"sequence_length": list(dict.fromkeys([own, *measured]))}


def _measured(latency: LatencyReport, *names: str) -> dict[str, Any]:
    lengths = dict.fromkeys(entry.sequence_length for entry in latency.measurements)
    return {"sequence_length": list(lengths), **{name: latency.settings.get(name) for name in names}}
