"""What a pruned model may cost, or may lose."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from cahp_plugin.config import _setting, _Settings
from cahp_plugin.errors import ConfigError

Units = Literal["both", "heads", "neurons"]
Runtime = Literal["onnxruntime", "torch"]
Lengths = Literal["one", "data"]
#: What a budget can be set for.
TARGETS = ("macs", "parameters", "speedup", "latency_ms", "max_drop")


@dataclasses.dataclass(frozen=True)
class Budget(_Settings):
    """What a pruned model may cost, or may lose: exactly one of the first five.

    Args:
        macs: Share of the multiply-accumulates of the transformer layers that may stay, in (0, 1]: projections,
            attention products and feed-forward at ``sequence_length``, without embeddings, pooler and head.
        parameters: Share of their parameters that may stay, in (0, 1].
        speedup: How many times as fast the whole model is to be, measured on this machine.
        latency_ms: Milliseconds that one call of the whole model may take, measured on this machine.
        max_drop: Points of the task's number that may be lost on the evaluation set: of accuracy, F1, correlation
            and other shares; per cent of numbers that are better when they are lower, such as perplexity.
        keep: Patterns of the layers not to touch, as in the names of ``model.named_modules()``, with or without the
            prefix of the base model: ``"encoder.layer.0.*"``.
        units: What may go.
        multiple_of: Feed-forward widths are multiples of this, which kernels like; 1 allows any.
        sequence_length: Tokens an example, for costs and times.
        latency_batch_size: Examples a call, for times.
        threads: Threads inside an operator, for times.
        runtime: What runs the model, for times.
        lengths: ``"data"`` takes the times over the lengths of the evaluation set in place of ``sequence_length``.

    Raises:
        ConfigError: There is none of the five or more than one, or a value is out of its range.

    Example:
        >>> Budget(macs=0.6).target
        ('macs', 0.6)
    """

    macs: float | None = _setting(
        None, "share of the transformer layers' multiply-accumulates that may stay", (0.0, 1.0, "(]")
    )
    parameters: float | None = _setting(
        None, "share of the transformer layers' parameters that may stay", (0.0, 1.0, "(]")
    )
    speedup: float | None = _setting(None, "how many times as fast the whole model is to be, measured", (1.0, 1e3))
    latency_ms: float | None = _setting(
        None, "milliseconds that a call of the whole model may take, measured", (0.0, 1e6, "(]")
    )
    max_drop: float | None = _setting(
        None,
        "points of the task's number that may be lost on the evaluation set (per cent of numbers that are better when "
        "they are lower): the smallest model that loses no more",
        (0.0, 100.0),
    )
    keep: tuple[str, ...] = _setting((), "patterns of layers not to touch, such as 'encoder.layer.0.*'")
    units: Units = _setting("both", "what may go")
    multiple_of: int = _setting(16, "feed-forward widths are multiples of this; 1 allows any", (1, 4096))
    sequence_length: int = _setting(128, "tokens an example, for costs and times", (1, 10**6))
    latency_batch_size: int = _setting(1, "examples a call, for times", (1, 10**6))
    threads: int = _setting(1, "threads inside an operator, for times", (1, 4096))
    runtime: Runtime = _setting("onnxruntime", "what runs the model, for times")
    lengths: Lengths = _setting("one", "data: times are taken over the lengths of the evaluation set")

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [f"{name}={getattr(self, name)}" for name in TARGETS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(
                f"A budget is set for one of {', '.join(TARGETS)}; got {' and '.join(given) or 'none of them'}."
            )
        if isinstance(self.keep, str) or not all(isinstance(pattern, str) for pattern in self.keep):
            raise ConfigError(f"`keep` must be a list of patterns, got {self.keep!r}.")
        object.__setattr__(self, "keep", tuple(self.keep))

    @property
    def target(self) -> tuple[str, float]:
        """What the budget is set for, and the number."""
        return next((name, float(value)) for name in TARGETS if (value := getattr(self, name)) is not None)

    @property
    def timed(self) -> bool:
        """Whether times have to be measured for it."""
        return self.target[0] in ("speedup", "latency_ms")

    def __str__(self) -> str:
        name, value = self.target
        return {
            "macs": f"{100 * value:.4g} % of the layers' multiply-accumulates",
            "parameters": f"{100 * value:.4g} % of the layers' parameters",
            "speedup": f"{value:.4g} times as fast",
            "latency_ms": f"{value:.4g} ms a call",
            "max_drop": f"at most {value:.4g} points lost",
        }[name]

    def to_dict(self) -> dict[str, Any]:
        """Returns the budget as plain JSON values."""
        return dataclasses.asdict(self) | {"keep": list(self.keep)}
