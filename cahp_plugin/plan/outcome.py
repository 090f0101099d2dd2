"""What a budget led to: sizes, cost and loss, predicted and measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from cahp_plugin.cost.times import Speed
from cahp_plugin.plan.refine import Refined
from cahp_plugin.units.kept import Kind


@dataclasses.dataclass(frozen=True)
class Left:
    """What is left of a layer.

    Attributes:
        name: Path of its block.
        kind: What its units are.
        index: Position among the model's layers of this kind.
        before: Units that it had.
        after: Units that it has.
    """

    name: str
    kind: Kind
    index: int
    before: int
    after: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a model costs, before and after.

    Attributes:
        layers: Share of the transformer layers that is left.
        before: The whole model, before.
        after: The whole model, after.
    """

    layers: float
    before: float
    after: float

    def told(self) -> str:
        """The figures in words, in millions."""
        return (
            f"{100 * self.layers:.1f} % of the layers', {100 * self.after / self.before:.1f} % of the whole model's "
            f"({self.before / 1e6:,.1f} -> {self.after / 1e6:,.1f} M)"
        )


@dataclasses.dataclass(frozen=True)
class Point:
    """A size of the model and what it loses.

    Attributes:
        macs: Share of the layers' multiply-accumulates.
        loss: Mean divergence of the outputs from the dense model's.
    """

    macs: float
    loss: float


@dataclasses.dataclass(frozen=True)
class Drop:
    """What a model lost on the evaluation set, in points (per cent of numbers that are better when they are lower).

    Attributes:
        value: The drop; below 0 where it got better.
        low: Lower end of its 95 % bootstrap interval over the examples.
        high: Upper end.
        macs: Share of the layers' multiply-accumulates that it keeps.
    """

    value: float
    low: float | None
    high: float | None
    macs: float

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:.2f}{interval} points"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a budget led to.

    Attributes:
        budget: The budget, as plain values.
        told: The budget in words.
        planning: How the plan was made and bettered, as plain values.
        ridge: Ridge of the repair.
        compared: What losses are.
        layers: What is left of each layer.
        macs: Multiply-accumulates of one example of ``sequence_length`` tokens.
        parameters: Parameters.
        predicted: Loss that the plan predicts for these sizes.
        divergence: Loss of the repaired model on held-out examples.
        refined: How the sizes were bettered.
        curve: Predicted losses at other sizes of the model.
        measured: Losses of other repaired models on the held-out examples.
        speed: Measured speed, where the budget is set for it.
        drops: What the models lost that were tried for ``max_drop``, the chosen one last.
        seconds: Wall-clock seconds of the plan's phases.
    """

    budget: Mapping[str, Any]
    told: str
    planning: Mapping[str, Any]
    ridge: float
    compared: str
    layers: tuple[Left, ...]
    macs: Cost
    parameters: Cost
    predicted: float
    divergence: float
    refined: Refined | None
    curve: tuple[Point, ...]
    measured: tuple[Point, ...] = ()
    speed: Speed | None = None
    drops: tuple[Drop, ...] = ()
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the outcome as plain JSON values."""
        return dataclasses.asdict(self)

    def count(self, kind: Kind) -> tuple[int, int]:
        """Heads or neurons that are left, and that were there."""
        own = [layer for layer in self.layers if layer.kind == kind]
        return sum(layer.after for layer in own), sum(layer.before for layer in own)

    def rows(self) -> list[dict[str, str]]:
        """One row a transformer layer: what is left of its heads and of its neurons."""
        return [
            {"layer": layer.name, "units": layer.kind, "left": f"{layer.after:,} of {layer.before:,}"}
            for layer in self.layers
        ]

    def sentences(self) -> list[str]:
        """The outcome in words."""
        heads, neurons = (self.count(kind) for kind in ("heads", "neurons"))
        length = self.budget.get("sequence_length", 128)
        told = [
            f"Budget: {self.told}. {heads[0]:,} of {heads[1]:,} heads and {neurons[0]:,} of {neurons[1]:,} neurons "
            "stay.",
            f"Multiply-accumulates at {length} tokens: {self.macs.told()}. Parameters: {self.parameters.told()}.",
            f"Divergence from the dense model ({self.compared}) on held-out examples: {self.divergence:.4g} after the "
            f"repair, ridge {self.ridge:g}; predicted {self.predicted:.4g}. Heads were ordered by "
            f"{self.planning['order']}.",
        ]
        if self.refined is not None and self.refined.trials:
            ended = "" if self.refined.complete else ", ended by its time limit"
            told.append(
                f"Refined by {self.refined.trials} whole models in {self.refined.seconds:.0f} s{ended}: "
                f"{self.refined.before:.4g} -> {self.refined.after:.4g}."
            )
        if self.speed is not None:
            told.append(f"Measured: {self.speed}.")
        if self.drops:
            told.append(f"Drop on the evaluation set: {self.drops[-1]}, with 95 % interval.")
        layers = self.parameters.before - self.parameters.after
        other = self.parameters.before - layers / max(1 - self.parameters.layers, 1e-9)
        if self.parameters.layers < 1 and other > 0.4 * self.parameters.before:
            told.append(
                f"{100 * other / self.parameters.before:.0f} % of the dense model's parameters lie outside of the "
                "layers, most in the embeddings: the file shrinks little by pruning. int8 (`cahp export --quantize "
                "dynamic`) or a smaller vocabulary would shrink it."
            )
        return told


def points(values: Sequence[tuple[float, float]]) -> tuple[Point, ...]:
    """Points from large to small."""
    return tuple(Point(*value) for value in sorted(values, reverse=True))
