"""The commands that lead to a result, put together from its settings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from cahp_plugin.config import CAHPConfig
from cahp_plugin.report.html.charts_comparison import counts_of, methods_of, recoveries_of
from cahp_plugin.report.html.data import Compared, Contents, Pruned, Timed

#: Setting of the recovery -> option and the command's default.
_RECOVERY = {
    "num_examples": ("--recover-examples", 384),
    "epochs": ("--epochs", 3),
    "learning_rate": ("--learning-rate", 2e-5),
    "batch_size": ("--batch-size", 32),
}


def commands(contents: Contents) -> list[str]:
    """The commands for what a folder holds; words in capitals stand for the user's own files.

    Args:
        contents: What the folder holds.
    """
    found = []
    output = shlex.quote(contents.name)
    if contents.pruned is not None and (contents.pruned.config or contents.deployed):
        verb = "deploy" if contents.deployed else "prune"
        found.append(_wrapped([f"cahp {verb} MODEL", "--train TRAIN --eval EVAL", f"-o {output}", *_prune(contents)]))
    if contents.compared is not None:
        found.append(_wrapped(_compare(contents.compared, output)))
    if not contents.deployed:
        for export in contents.exports.values():
            words = ["cahp export -m MODEL", f"-o {output}"]
            words += [
                f"--{name} {shlex.quote(str(export[name]))}" for name in ("quantize", "optimize") if export[name]
            ]
            found.append(_wrapped(words))
        if contents.timed is not None:
            found.append(_wrapped(_benchmark(contents.timed, output)))
    return found


def _wrapped(words: list[str]) -> str:
    """One option a line, as a shell takes it."""
    return " \\\n  ".join(words)


def _prune(contents: Contents) -> list[str]:
    pruned = contents.pruned
    assert pruned is not None
    words = [*_method(pruned.config), *_recovery_words(pruned)]
    if contents.deployed and contents.timed is not None:
        lengths = dict.fromkeys(entry["sequence_length"] for entry in contents.timed.measurements)
        words.append(f"--sequence-length {' '.join(map(str, lengths))}")
        words += _options(contents.timed.settings, ("threads", "rounds", "warmup"))
    return words


def _recovery_words(pruned: Pruned) -> list[str]:
    if pruned.recovery:
        return [
            f"--recover {shlex.quote(str(pruned.recovery.get('method', 'finetune')))}",
            *_recovery(pruned.recovery),
        ]
    names = {stage["name"] for stage in pruned.stages}  # an older report names the stages alone
    steps = [name for name in ("bias", "least-squares") if name in names]
    steps += ["finetune"] if "recovered" in names else []
    return [f"--recover {'+'.join(steps) or 'none'}"]


def _recovery(settings: Mapping[str, Any]) -> list[str]:
    words = []
    for name, (option, default) in _RECOVERY.items():
        value = settings.get(name, default)
        if value != default:
            words.append(f"{option} {shlex.quote(f'{value:g}' if isinstance(value, float) else str(value))}")
    if settings.get("training_arguments"):
        import json

        words.append(f"--training-arguments {shlex.quote(json.dumps(settings['training_arguments']))}")
    return words


def _method(config: Mapping[str, Any]) -> list[str]:
    """The settings that are not the default."""
    return [
        f"--{name.replace('_', '-')} {shlex.quote(str(config[name]))}"
        for name, default in CAHPConfig().to_dict().items()
        if config.get(name, default) != default
    ]


def _compare(compared: Compared, output: str) -> list[str]:
    seeds = sorted({run.seed for run in compared.runs if run.method in methods_of(compared)})
    config = {
        key: value for key, value in compared.setup.get("config", {}).items() if key not in ("seed", "num_heads")
    }
    return [
        "cahp compare MODEL",
        "--train TRAIN --test TEST",
        *(["--eval EVAL"] if compared.setup.get("eval") else []),
        f"-o {output}",
        f"--methods {shlex.quote(','.join(methods_of(compared)))}",
        f"--heads {' '.join(map(str, counts_of(compared)))}",
        f"--seeds {' '.join(map(str, seeds))}",
        f"--recover {' '.join(map(shlex.quote, recoveries_of(compared)))}",
        *_recovery(compared.setup.get("recovery", {})),
        *_method(config),
    ]


def _benchmark(timed: Timed, output: str) -> list[str]:
    targets = dict.fromkeys(entry["target"] for entry in timed.measurements)
    lengths = dict.fromkeys(entry["sequence_length"] for entry in timed.measurements)
    batches = dict.fromkeys(entry["batch_size"] for entry in timed.measurements)
    return [
        f"cahp benchmark {' '.join(shlex.quote(target) for target in targets)}",
        f"--batch-size {' '.join(map(str, batches))}",
        f"--sequence-length {' '.join(map(str, lengths))}",
        *_options(timed.settings, ("threads", "rounds", "warmup", "device", "seed")),
        f"-o {output}",
    ]


def _options(settings: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    return [f"--{name} {shlex.quote(str(settings[name]))}" for name in names if name in settings]
