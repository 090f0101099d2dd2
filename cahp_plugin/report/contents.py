"""What a folder holds, read and checked before anything is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cahp_plugin.compare.rows import DENSE
from cahp_plugin.compare.runs import RUNS_NAME, SETUP_NAME
from cahp_plugin.compare.summary import Comparison
from cahp_plugin.config import CAHPConfig
from cahp_plugin.errors import CheckpointError
from cahp_plugin.export import ExportReport
from cahp_plugin.export.session import EXPORT_REPORT_NAME
from cahp_plugin.files import checked, from_plain, load, read_json
from cahp_plugin.latency import LatencyReport
from cahp_plugin.latency.report import LATENCY_NAME
from cahp_plugin.plan.outcome import Outcome
from cahp_plugin.prune.certificate import told_of
from cahp_plugin.prune.saving import SELECTION_NAME
from cahp_plugin.recover import RecoverySettings
from cahp_plugin.results import DEPLOY_NAME, PRUNE_NAME, DeployReport, PruneReport, bare_selection
from cahp_plugin.selectors.cahp.selection import HeadSelection
from cahp_plugin.units import head_entries

CONFIG_NAME = "config.json"


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a folder holds; ``None`` or empty stands for what it does not.

    Attributes:
        name: Its name, for the page.
        selection: The heads that were kept.
        pruning: How they came to be kept, and what that cost.
        model: The pruned model's ``config.json``.
        comparison: Ways of choosing heads, side by side; at least one run besides the dense model's.
        latency: Measured times.
        exports: Name -> export to ONNX.
        deployed: Whether ``cahp deploy`` made it, all in one.
        certified: What is to be said of its certificate; nothing without one.
    """

    name: str
    selection: HeadSelection | None = None
    pruning: PruneReport | None = None
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    comparison: Comparison | None = None
    latency: LatencyReport | None = None
    exports: Mapping[str, ExportReport] = dataclasses.field(default_factory=dict)
    deployed: bool = False
    certified: tuple[str, ...] = ()

    @property
    def plan(self) -> Outcome | None:
        """What a budget led to."""
        return self.pruning.plan if self.pruning else None

    def __bool__(self) -> bool:
        return bool(self.selection or self.comparison or self.latency or self.exports)

    @property
    def config(self) -> CAHPConfig | None:
        """Settings of the method, where more is known than the heads that were kept."""
        selection = self.selection
        return selection.config if selection and (self.pruning or selection.num_clusters) else None

    @property
    def architecture(self) -> str:
        """Class of the pruned model; empty where it is not known."""
        classes = self.model.get("architectures")
        return ", ".join(map(str, classes)) if isinstance(classes, list) else ""


def read_folder(folder: Path) -> Contents:
    """Reads whatever ``cahp prune``, ``compare``, ``benchmark``, ``export`` and ``deploy`` left in a folder.

    Raises:
        CheckpointError: The folder is missing, nothing in it can be shown, or a file is damaged; the message names it.
    """
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder}.")
    name = folder.resolve().name or str(folder)
    deployed = (folder / DEPLOY_NAME).exists()
    place = folder / "pruned" if deployed else folder
    model = read_json(place / CONFIG_NAME) or {}
    known = load(place / SELECTION_NAME, _checked_selection)
    bare = checked(place / CONFIG_NAME, lambda: _kept_by(model))
    if known is not None and bare is not None and known.kept.heads != bare.kept.heads:
        raise CheckpointError(
            f"{place / SELECTION_NAME} and {place / CONFIG_NAME} keep different heads: they are not of one model."
        )
    report = load(folder / DEPLOY_NAME, lambda values: DeployReport.from_dict(values, folder, known))
    if report is not None:
        pruning = report.pruning
        contents = Contents(name, pruning.selection, pruning, model, None, report.latency, report.exports, True)
    else:
        told = load(folder / PRUNE_NAME, lambda values: PruneReport.from_dict(values, known))
        export = load(folder / EXPORT_REPORT_NAME, ExportReport.from_dict)
        contents = Contents(
            name,
            told.selection if told else known or bare,
            told,
            model,
            _read_comparison(folder),
            load(folder / LATENCY_NAME, LatencyReport.from_dict),
            {name: export} if export else {},
        )
    if not contents:
        raise CheckpointError(
            f"{folder} holds nothing to report. Looked for a pruned checkpoint (config.json with `cahp_config`, "
            "selection.json, cahp_report.json), a comparison with finished runs (runs.jsonl), latency.json, "
            "cahp_export.json and cahp_deploy.json."
        )
    return dataclasses.replace(contents, certified=tuple(told_of(folder / "pruned-int8" if deployed else folder)))


def _kept_by(config: dict[str, Any]) -> HeadSelection | None:
    """The heads that a pruned model's config names."""
    entries = head_entries(config)
    width = max((entry.num_heads for entry in entries.values()), default=0)
    return bare_selection({layer: entry.kept for layer, entry in entries.items()}, width) if entries else None


def _checked_selection(values: dict[str, Any]) -> HeadSelection:
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


def _read_comparison(folder: Path) -> Comparison | None:
    if not (folder / RUNS_NAME).exists():
        return None
    comparison = Comparison.read(folder)
    checked(folder / SETUP_NAME, lambda: settings_of(comparison))
    return comparison if any(run.method != DENSE for run in comparison.runs) else None


def settings_of(comparison: Comparison) -> tuple[CAHPConfig, RecoverySettings]:
    """Settings of the method and of the recoveries that a comparison's runs share.

    Raises:
        ConfigError: A setting is none.
        TypeError: A setting is of another type.
    """
    setup = comparison.setup
    return CAHPConfig.from_dict(setup.get("config", {})), from_plain(RecoverySettings, setup.get("recovery", {}))
