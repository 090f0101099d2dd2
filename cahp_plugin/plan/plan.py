"""What was measured about a model's layers, from which any budget is met in milliseconds."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cahp_plugin.cost.budget import TARGETS, Budget
from cahp_plugin.cost.layers import LayerCost, at_length
from cahp_plugin.errors import CheckpointError, ConfigError
from cahp_plugin.files import checked, from_plain, read_json, write_text
from cahp_plugin.observe.batches import Batch
from cahp_plugin.plan.knapsack import Array, allocate
from cahp_plugin.table import format_table
from cahp_plugin.units import KeptSet, PrunableLayer
from cahp_plugin.units.kept import Kind

PLAN_NAME = "cahp_plan.json"
_FORMAT = 1
#: Shares of the work that the curve is drawn at.
CURVE = tuple(round(share, 2) for share in np.arange(0.95, 0.04, -0.05))


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """One layer's units in their order, and what its sizes lose.

    Attributes:
        path: Path of its output projection.
        name: Path of its block.
        kind: What its units are.
        index: Position among the model's layers of this kind.
        order: Original index of each unit (the first of a group of heads); the last to go first.
        group_size: Heads that go together; 1 for neurons.
        sizes: Numbers of units that it may keep, descending, all of them first.
        losses: What each size loses at the model's outputs while all other layers are whole.
        cost: What a unit costs.
    """

    path: str
    name: str
    kind: Kind
    index: int
    order: tuple[int, ...]
    group_size: int
    sizes: tuple[int, ...]
    losses: tuple[float, ...]
    cost: LayerCost

    def units(self, size: int) -> list[int]:
        """Original indices of the heads or neurons that are left at a size, ascending."""
        return sorted(first + offset for first in self.order[:size] for offset in range(self.group_size))


@dataclasses.dataclass(frozen=True)
class Plan:
    """A model's layers, measured: see :func:`cahp_plugin.plan_pruning`.

    Attributes:
        layers: One entry a prunable layer.
        macs: Multiply-accumulates of the whole model for one example, as a polynomial of its tokens.
        parameters: Parameters of the whole model.
        compared: What the losses are.
        ridge: Ridge of the repair that the losses count on.
        settings: What it was made with: seed, order, numbers of examples.
        seconds: Wall-clock seconds of each phase.
        model: Fingerprint of the model.
        data: Fingerprint of the data.
        versions: Versions of the packages that decide the result.
    """

    layers: tuple[LayerPlan, ...]
    macs: tuple[float, ...]
    parameters: int
    compared: str
    ridge: float
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    model: str = ""
    data: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def keep(self, budget: Budget) -> KeptSet:
        """The units to keep under a budget: the sizes of the least predicted loss.

        Args:
            budget: A budget for multiply-accumulates or parameters.

        Raises:
            ConfigError: The budget is below the smallest model, or is set for what a plan alone does not know.
        """
        return self.kept(self.sizes_for(budget))

    def sizes_for(self, budget: Budget) -> tuple[int, ...]:
        """The number of units of each layer under a budget; see :meth:`keep`."""
        name, value = budget.target
        if name not in ("macs", "parameters"):
            raise ConfigError(
                f"A plan alone knows multiply-accumulates and parameters; `{name}` is measured on the pruned model. "
                "Use `cahp prune` or `prune_model`, or a budget for `macs` or `parameters`."
            )
        costs = self.costs(name, budget)
        return self.solve(costs, value * sum(float(own[0]) for own in costs), budget)

    def costs(self, name: str, budget: Budget) -> list[Array]:
        """For each layer, the multiply-accumulates (of one example) or parameters of each size."""
        tokens = budget.sequence_length
        return [
            np.array(layer.sizes)
            * (at_length(layer.cost.macs, tokens) if name == "macs" else float(layer.cost.parameters))
            for layer in self.layers
        ]

    def solve(
        self, costs: Sequence[Array], capacity: float, budget: Budget, weights: Sequence[float] | None = None
    ) -> tuple[int, ...]:
        """Sizes of the least predicted loss whose costs stay within a capacity.

        Args:
            costs: For each layer, the cost of each size.
            capacity: The limit.
            budget: Which layers may be cut, and to what.
            weights: What each layer's losses count; 1 each without it.

        Raises:
            ConfigError: The smallest model is above the capacity, or a pattern matches no layer.
        """
        allowed = self.allowed(budget)
        picked = allocate(
            [own[places] for own, places in zip(costs, allowed, strict=True)],
            [
                weight * np.array(layer.losses)[places]
                for layer, places, weight in zip(self.layers, allowed, weights or [1.0] * len(allowed), strict=True)
            ],
            capacity,
        )
        if picked is None:
            least = self.least(costs, budget)
            whole = sum(float(own[0]) for own in costs)
            raise ConfigError(
                f"The budget ({budget}) is below the smallest model, which keeps {100 * least / whole:.2f} % of what "
                "the budget is set for."
            )
        return tuple(
            layer.sizes[places[choice]] for layer, places, choice in zip(self.layers, allowed, picked, strict=True)
        )

    def allowed(self, budget: Budget) -> list[list[int]]:
        """For each layer, the places of the sizes that a budget allows.

        Raises:
            ConfigError: A pattern matches no layer.
        """
        named = [(layer, _matches(layer, budget.keep)) for layer in self.layers]
        for pattern in budget.keep:
            if not any(_matches(layer, [pattern]) for layer in self.layers):
                known = ", ".join(layer.name for layer in self.layers[:3])
                raise ConfigError(f"`keep` names no layer by {pattern!r}. The model's layers are {known}, ...")
        allowed = []
        for layer, kept in named:
            whole = kept or budget.units not in ("both", layer.kind)
            step = budget.multiple_of if layer.kind == "neurons" else 1
            allowed.append(
                [place for place, size in enumerate(layer.sizes) if not place or not (whole or size % step)]
            )
        return allowed

    def kept(self, sizes: Sequence[int]) -> KeptSet:
        """The kept set of some sizes; every layer is named."""
        kinds: dict[str, dict[int, list[int]]] = {"heads": {}, "neurons": {}}
        for layer, size in zip(self.layers, sizes, strict=True):
            kinds[layer.kind][layer.index] = layer.units(size)
        return KeptSet(**kinds)

    def loss(self, sizes: Sequence[int]) -> float:
        """Predicted loss of some sizes: the sum over the layers."""
        return sum(layer.losses[layer.sizes.index(size)] for layer, size in zip(self.layers, sizes, strict=True))

    def share(self, sizes: Sequence[int], name: str, budget: Budget) -> float:
        """Share of the layers' multiply-accumulates or parameters that some sizes keep."""
        costs = self.costs(name, budget)
        left = sum(
            float(own[layer.sizes.index(size)]) for own, layer, size in zip(costs, self.layers, sizes, strict=True)
        )
        return left / sum(float(own[0]) for own in costs)

    def least(self, costs: Sequence[Array], budget: Budget) -> float:
        """Cost of the smallest model that a budget's patterns and units allow."""
        return sum(
            float(min(own[place] for place in places)) for own, places in zip(costs, self.allowed(budget), strict=True)
        )

    def curve(self, budget: Budget | None = None) -> list[dict[str, Any]]:
        """Predicted loss at some shares of the multiply-accumulates, from large to small.

        Args:
            budget: What may be cut, and at which length work is counted; all by default.
        """
        points: list[dict[str, Any]] = []
        targets: dict[str, Any] = dict.fromkeys(TARGETS)
        for share in CURVE:
            budget = dataclasses.replace(budget or Budget(macs=1.0), **targets | {"macs": float(share)})
            try:
                sizes = self.sizes_for(budget)
            except ConfigError:
                break
            points.append({"macs": float(share), "loss": self.loss(sizes), "sizes": list(sizes)})
        return points

    def rows(self) -> list[dict[str, str]]:
        """The curve as rows of a table."""
        rows = []
        for point in self.curve():
            left = [0, 0]
            for layer, size in zip(self.layers, point["sizes"], strict=True):
                left[layer.kind == "neurons"] += size * layer.group_size
            parameters = self.share(point["sizes"], "parameters", Budget(macs=1.0))
            rows.append(
                {
                    "MACs of the layers": f"{100 * point['macs']:.0f} %",
                    "their parameters": f"{100 * parameters:.0f} %",
                    "heads": f"{left[0]}",
                    "neurons": f"{left[1]:,}",
                    "predicted loss": f"{point['loss']:.4g}",
                }
            )
        return rows

    def __str__(self) -> str:
        return "\n".join([f"Predicted loss: {self.compared}.", format_table(self.rows())])

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as plain JSON values."""
        return {"format": _FORMAT} | dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Builds a plan from what :meth:`to_dict` returned.

        Raises:
            KeyError: A part is missing.
            TypeError: A part is of another type.
            ValueError: It is of another version, or no plan.
        """
        if values["format"] != _FORMAT:
            raise ValueError(f"its format is {values['format']}, and this version reads {_FORMAT}")
        plan = from_plain(cls, values)
        for layer in plan.layers:
            known = len(layer.sizes) == len(layer.losses) and layer.sizes[:1] == (len(layer.order),)
            known = known and all(map(math.isfinite, layer.losses))
            if not known or list(layer.sizes) != sorted(set(layer.sizes), reverse=True):
                raise ValueError(f"the sizes of {layer.name} are none")
        return plan

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes ``cahp_plan.json`` into a folder, which is made where it is missing."""
        path = Path(folder) / PLAN_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(self.to_dict()) + "\n")
        return path

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Plan:
        """Reads the plan in a folder.

        Raises:
            CheckpointError: There is none, or it is damaged or of another version.
        """
        path = Path(folder) / PLAN_NAME
        values = read_json(path)
        if values is None:
            raise CheckpointError(f"There is no {PLAN_NAME} in {folder}. `cahp plan` writes one.")
        return checked(path, lambda: cls.from_dict(values))


def _matches(layer: LayerPlan, patterns: Sequence[str]) -> bool:
    names = (layer.name, layer.path)
    return any(
        fnmatch.fnmatchcase(name, way) for pattern in patterns for way in (pattern, f"*.{pattern}") for name in names
    )


def layer_plan(
    layer: PrunableLayer, order: Sequence[int], sizes: Sequence[int], losses: Sequence[float], cost: LayerCost
) -> LayerPlan:
    """What was measured about one layer.

    Args:
        layer: The layer.
        order: Places of its units, the last to go first.
        sizes: Numbers of units, descending, all of them first.
        losses: Of each size, 0 for the first; made monotone.
        cost: What a unit costs.
    """
    firsts = tuple(layer.units[place][0] for place in order)
    monotone = tuple(np.maximum.accumulate(np.maximum(losses, 0.0)).tolist())
    return LayerPlan(
        layer.output_path, layer.name, layer.noun, layer.index, firsts, layer.group_size, tuple(sizes), monotone, cost
    )


def fingerprint_of_batches(batches: Sequence[Batch]) -> str:
    """First 16 digits of the SHA-256 of what the batches of a calibration set give to a model."""
    digest = hashlib.sha256()
    for batch in batches:
        for name, value in sorted(batch.inputs.items()):
            digest.update(name.encode())
            digest.update(value.cpu().float().numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
    return digest.hexdigest()[:16]
