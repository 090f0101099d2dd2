"""What the files of a folder say, read and checked before anything is drawn."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cahp_plugin.errors import CAHPError, CheckpointError
from cahp_plugin.selectors.cahp.selection import HeadSelection
from cahp_plugin.units import head_entries
from cahp_plugin.units.record import RECORD_KEY

SELECTION_NAME, PRUNE_NAME, CONFIG_NAME = "selection.json", "cahp_report.json", "config.json"
LATENCY_NAME, EXPORT_NAME, DEPLOY_NAME = "latency.json", "cahp_export.json", "cahp_deploy.json"

Read = TypeVar("Read")


@dataclasses.dataclass(frozen=True)
class Pruned:
    """A pruned checkpoint.

    Attributes:
        kept: Layer -> original indices of the kept heads.
        present: Layer -> original indices of the heads before this pruning.
        num_original_heads: Heads that each layer was trained with.
        selection: Where the kept heads came from, or ``None`` where only the result is known.
        architecture: Class of the model, or ``None``.
        origin: The model that was pruned, as its config names it, or ``None``.
        note: How the number of heads came about, or ``""``.
        stages: The states of the model: name, heads, parameters, accuracy in [0, 1], loss in nat.
        seconds: Wall-clock seconds by phase.
        reload_difference: Largest absolute difference of a logit between the model and its saved copy, or ``None``.
        config: Settings of the method.
        recovery: Settings of the recovery.
        versions: Package -> version.
    """

    kept: dict[int, tuple[int, ...]]
    present: dict[int, tuple[int, ...]]
    num_original_heads: int
    selection: HeadSelection | None
    architecture: str | None
    origin: str | None
    note: str
    stages: tuple[dict[str, Any], ...]
    seconds: dict[str, float]
    reload_difference: float | None
    config: dict[str, Any]
    recovery: dict[str, Any]
    versions: dict[str, str]

    @property
    def num_heads(self) -> int:
        """Heads kept."""
        return sum(map(len, self.kept.values()))

    @property
    def num_present(self) -> int:
        """Heads before this pruning."""
        return sum(map(len, self.present.values()))


@dataclasses.dataclass(frozen=True)
class Compared:
    """A comparison of ways of choosing heads.

    Attributes:
        runs: The runs: ``cahp_plugin.compare.runs.Run``.
        rows: Them summed up over seeds: ``cahp_plugin.compare.summary.Row``.
        setup: What all share: settings, versions, fingerprints.
        methods: Names of the ways there are, run or not, in the order that gives each its look.
    """

    runs: tuple[Any, ...]
    rows: tuple[Any, ...]
    setup: dict[str, Any]
    methods: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Timed:
    """Measured times.

    Attributes:
        measurements: One entry a target and shape, as ``cahp benchmark`` writes it; the reference first.
        settings: How it was measured.
        environment: On what.
        convention: What the theoretical ratio counts.
    """

    measurements: tuple[dict[str, Any], ...]
    settings: dict[str, Any]
    environment: dict[str, Any]
    convention: str


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a folder holds.

    Attributes:
        name: Its name, for the page.
        pruned: A pruned checkpoint, or ``None``.
        compared: A comparison, or ``None``.
        timed: Measured times, or ``None``.
        exports: Name -> report of an export to ONNX.
        deployed: Whether ``cahp deploy`` made it, all in one.
    """

    name: str
    pruned: Pruned | None = None
    compared: Compared | None = None
    timed: Timed | None = None
    exports: Mapping[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    deployed: bool = False

    def __bool__(self) -> bool:
        return bool(self.pruned or self.compared or self.timed or self.exports)


def read_contents(folder: Path) -> Contents:
    """Reads what ``cahp prune``, ``benchmark``, ``export`` and ``deploy`` leave in a folder.

    Args:
        folder: The folder. What is not there is left out: the result is false where nothing is.

    Raises:
        CheckpointError: The folder is missing, or a file in it is damaged; the message names it.
    """
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder}.")
    name = folder.resolve().name or str(folder)
    deployed = read_json(folder / DEPLOY_NAME)
    if deployed is not None:
        path, inner = folder / DEPLOY_NAME, folder / "pruned"
        told = checked(path, lambda: _prune_report(deployed["pruning"]))
        pruned = _pruned(inner, told) if inner.is_dir() else None
        if pruned is None:
            kept = checked(path, lambda: _head_map(deployed["pruning"]["kept"]))
            width = _width(kept, told["stages"])
            present = {layer: tuple(range(width)) for layer in kept}
            pruned = Pruned(kept, present, width, None, None, None, **told)
        timed = checked(path, lambda: _timed(deployed["latency"]))
        return Contents(name, pruned, None, timed, checked(path, lambda: _exports(deployed["exports"])), True)
    latency, export = read_json(folder / LATENCY_NAME), read_json(folder / EXPORT_NAME)
    return Contents(
        name,
        _pruned(folder, None),
        None,
        None if latency is None else checked(folder / LATENCY_NAME, lambda: _timed(latency)),
        {} if export is None else checked(folder / EXPORT_NAME, lambda: _exports({name: export})),
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """Reads a JSON object; ``None`` where the file is missing.

    Raises:
        CheckpointError: It is something else, or can't be read.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} can't be read: {error}. It may be cut off; write it again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(values).__name__}.")
    return values


def checked(path: Path, build: Callable[[], Read]) -> Read:
    """Builds something from a file's values.

    Raises:
        CheckpointError: They are not what they should be; the message names the file.
    """
    try:
        return build()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, CAHPError) as error:
        raise CheckpointError(f"{path} is damaged or of another version: {error!r}. Write it again.") from error


def _pruned(folder: Path, told: dict[str, Any] | None) -> Pruned | None:
    """A checkpoint's folder; ``None`` where it was not pruned."""
    config, selected = read_json(folder / CONFIG_NAME) or {}, read_json(folder / SELECTION_NAME)
    report = read_json(folder / PRUNE_NAME)
    if RECORD_KEY not in config and selected is None and report is None:
        return None
    if told is None:
        told = checked(folder / PRUNE_NAME, lambda: _prune_report(report or {}))
    selection = None if selected is None else checked(folder / SELECTION_NAME, lambda: _selection(selected))
    entries = checked(folder / CONFIG_NAME, lambda: head_entries(config))
    if entries:
        kept = {layer: entry.kept for layer, entry in entries.items()}
        width = max(entry.num_heads for entry in entries.values())
    elif selection is not None:
        kept, width = dict(selection.kept.heads), selection.salience.shape[1]
    else:
        kept = checked(folder / PRUNE_NAME, lambda: _head_map((report or {})["kept"]))
        width = _width(kept, told["stages"])
    present = {layer: tuple(range(width)) for layer in kept}
    if selection is not None:
        if selection.kept.heads != kept:
            raise CheckpointError(
                f"{folder / SELECTION_NAME} and {folder / CONFIG_NAME} keep different heads: they "
                "are not of one model."
            )
        present = selection.present
        told = {**told, "note": selection.note, "config": selection.config.to_dict()}
    classes = config.get("architectures")
    architecture = ", ".join(map(str, classes)) if isinstance(classes, list) and classes else None
    origin = config.get("_name_or_path")
    return Pruned(kept, present, width, selection, architecture, str(origin) if origin else None, **told)


def _selection(values: dict[str, Any]) -> HeadSelection:
    selection = HeadSelection.from_dict(values)
    layers, width = selection.salience.shape
    places = [*selection.heads, *((layer, head) for layer, heads in selection.kept.heads.items() for head in heads)]
    if not all(0 <= layer < layers and 0 <= head < width for layer, head in places):
        raise ValueError(f"a head lies outside of {layers} layers of {width} heads")
    if not len(selection.heads) == len(selection.coordinates) == len(selection.clusters):
        raise ValueError("heads, coordinates and clusters differ in number")
    if len(selection.curve.k) != len(selection.curve.mss):
        raise ValueError("the curve's k and mss differ in number")
    return selection


def _prune_report(values: Mapping[str, Any]) -> dict[str, Any]:
    stages = [
        {
            "name": str(stage["name"]),
            "heads": int(stage["heads"]),
            "parameters": int(stage["parameters"]),
            "accuracy": float(stage["accuracy"]),
            "loss": float(stage["loss"]),
        }
        for stage in values.get("stages", ())
    ]
    difference = values.get("reload_difference")
    return {
        "note": str(values.get("note", "")),
        "stages": tuple(stages),
        "seconds": {str(name): float(value) for name, value in values.get("seconds", {}).items()},
        "reload_difference": None if difference is None else float(difference),
        "config": dict(values.get("config", {})),
        "recovery": dict(values.get("recovery") or {}),
        "versions": {str(name): str(value) for name, value in values.get("versions", {}).items()},
    }


def _head_map(values: Mapping[str, Sequence[int]]) -> dict[int, tuple[int, ...]]:
    kept = {int(layer): tuple(int(head) for head in heads) for layer, heads in values.items()}
    if not kept or any(head < 0 for heads in kept.values() for head in heads):
        raise ValueError("the map of heads is empty or holds a negative number")
    return dict(sorted(kept.items()))


def _width(kept: Mapping[int, Sequence[int]], stages: Sequence[Mapping[str, Any]]) -> int:
    """Heads that a layer had, where only the kept ones are named: from the dense model's number, if it was dense."""
    least = max((max(heads) + 1 for heads in kept.values() if heads), default=1)
    return max(least, stages[0]["heads"] // len(kept) if stages else 1)


_NUMBERS = ("p50_ms", "p90_ms", "p99_ms", "iqr_ms", "ratio", "ratio_low", "ratio_high", "theory")


def _timed(values: Mapping[str, Any]) -> Timed:
    measurements = []
    for entry in values["measurements"]:
        words = {name: str(entry[name]) for name in ("target", "backend", "precision")}
        counts = {name: int(entry[name]) for name in ("num_heads", "batch_size", "sequence_length")}
        rest = {name: None if entry.get(name) is None else float(entry[name]) for name in ("mib", "peak_mib")}
        measurements.append({**words, **counts, **{name: float(entry[name]) for name in _NUMBERS}, **rest})
    if not measurements:
        raise ValueError("no measurement in it")
    return Timed(tuple(measurements), dict(values["settings"]), dict(values["environment"]), str(values["convention"]))


_PRECISIONS = {None: "fp32", "dynamic": "int8 dynamic", "static": "int8 static"}


def _exports(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    exports = {}
    for name, entry in values.items():
        evaluations = [entry["quantized"], entry["fp32"]]
        accuracy = next((float(evaluation["accuracy"]) for evaluation in evaluations if evaluation), None)
        optional = {key: None if entry[key] is None else float(entry[key]) for key in ("agreement", "difference")}
        exports[str(name)] = {
            "accuracy": accuracy,
            "precision": _PRECISIONS.get(entry["quantize"], str(entry["quantize"])),
            "num_heads": int(entry["num_heads"]),
            "mib": float(entry["mib"]),
            "parity": max((float(shape["max_abs"]) for shape in entry["parity"]), default=None),
            "quantize": entry["quantize"],
            "optimize": entry["optimize"],
            "versions": {str(key): str(value) for key, value in entry["versions"].items()},
            **optional,
        }
    return exports
