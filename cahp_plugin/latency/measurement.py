"""One measured time."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One target at one shape.

    Attributes:
        target: Name of the target.
        backend: ``"torch"`` or ``"onnxruntime"``.
        precision: ``"fp32"``, ``"fp16"``, ``"int8 dynamic"``, ``"int8 static"``, or a checkpoint's dtype.
        num_heads: Attention heads in it.
        batch_size: Examples a call.
        sequence_length: Tokens an example; of an image, its patches.
        p50_ms: Median, milliseconds.
        p90_ms: 90th percentile, milliseconds.
        p99_ms: 99th percentile, milliseconds.
        iqr_ms: Interquartile range, milliseconds.
        ratio: Median over rounds of the time over the first target's in the same round.
        ratio_low: Lower end of its 95 % bootstrap interval.
        ratio_high: Upper end.
        theory: Ratio of the multiply-accumulates.
        macs: Multiply-accumulates of a call.
        throughput: Examples a second at the median.
        mib: Size of the weights on disk, MiB, or ``None``.
        peak_mib: Peak memory for loading and running, MiB, or ``None``.
    """

    target: str
    backend: str
    precision: str
    num_heads: int
    batch_size: int
    sequence_length: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    iqr_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    theory: float
    macs: int
    throughput: float
    mib: float | None
    peak_mib: float | None

    def row(self) -> dict[str, str]:
        """The measurement as a row of a table."""
        return {
            "batch": f"{self.batch_size}",
            "length": f"{self.sequence_length}",
            "target": self.target,
            "runs in": self.backend,
            "precision": self.precision,
            "heads": f"{self.num_heads}",
            "p50 ms": f"{self.p50_ms:.2f}",
            "p90 ms": f"{self.p90_ms:.2f}",
            "p99 ms": f"{self.p99_ms:.2f}",
            "IQR ms": f"{self.iqr_ms:.2f}",
            "ratio [95 % interval]": f"{self.ratio:.3f} [{self.ratio_low:.3f}, {self.ratio_high:.3f}]",
            "theory": f"{self.theory:.3f}",
            "examples/s": f"{self.throughput:.1f}",
            "disk MiB": "-" if self.mib is None else f"{self.mib:.1f}",
            "peak MiB": "-" if self.peak_mib is None else f"{self.peak_mib:.0f}",
        }
