"""What is said about a series of times."""

from __future__ import annotations

import numpy as np

from cahp_plugin.tasks.metrics import bootstrap_interval

CONFIDENCE = 0.95


def paired_ratio(seconds: np.ndarray, reference: np.ndarray, *, seed: int = 0) -> dict[str, float]:
    """Median of the rounds' ratios, with a 95 % percentile bootstrap interval over rounds.

    A machine that slows down for a while slows both models of a round, so the ratio within a round is steadier than
    the ratio of two medians.

    Args:
        seconds: Times of the model, of shape ``(rounds,)``.
        reference: Times of the reference in the same rounds, of shape ``(rounds,)``.
        seed: Seed of the resampling.

    Returns:
        The median, ``ratio``, and the ends of its interval, ``ratio_low`` and ``ratio_high``.
    """
    ratios = np.asarray(seconds) / np.asarray(reference)
    low, high = bootstrap_interval(lambda drawn, axis=-1: np.median(ratios[drawn], axis), len(ratios), seed=seed)
    return {"ratio": float(np.median(ratios)), "ratio_low": low, "ratio_high": high}


def percentiles(seconds: np.ndarray) -> dict[str, float]:
    """Percentiles 50, 90 and 99 and the interquartile range of times ``(rounds,)``, in milliseconds."""
    p25, p50, p75, p90, p99 = 1000 * np.percentile(seconds, [25, 50, 75, 90, 99])
    return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "iqr_ms": p75 - p25}
