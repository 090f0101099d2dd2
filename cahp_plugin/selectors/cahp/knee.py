"""The knee of the silhouette curve: how many clusters are enough."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


#: Silhouettes, and heights in the unit square, that differ by less are equal.
_FLAT = 1e-9


@dataclasses.dataclass(frozen=True)
class Knee:
    """Number of clusters read off the curve.

    Attributes:
        num_clusters: Number of clusters to take; ``None`` where the curve says nothing and every head stays.
        knee: The same where Kneedle found it, else ``None``.
        smoothed: The fitted polynomial at each k, shape ``(points,)``; empty where none could be fitted.
        note: How the number came about, in words.
    """

    num_clusters: int | None
    knee: int | None
    smoothed: Array
    note: str


def find_knee(k: Array, mss: Array, *, degree: int, sensitivity: float = 1.0) -> Knee:
    """Finds the knee with Kneedle on a polynomial fit (paper, step 6).

    ``kneed.KneeLocator(k, mss, curve="concave", direction="increasing", interp_method="polynomial")``. Where that
    finds none, the place is taken that Kneedle looks at: the k at which the fitted curve, scaled to the unit square,
    is farthest above the diagonal, if that is inside the curve.

    Args:
        k: Numbers of clusters, ascending, shape ``(points,)``.
        mss: Mean Simplified Silhouette at each, shape ``(points,)``.
        degree: Degree of the polynomial; at most ``points - 1`` is used.
        sensitivity: Kneedle's S.
    """
    nothing = np.empty(0)
    if len(k) < 2:
        return Knee(None, None, nothing, "Too few heads for a curve: every head is kept.")
    if not np.isfinite(mss).all():
        return Knee(None, None, nothing, "The silhouette curve is not finite: every head is kept.")
    used = min(degree, len(k) - 1)
    fitted = "" if used == degree else f" (the curve's {len(k)} points allow degree {used})"
    smoothed, knee = _kneedle(k, mss, used, sensitivity)
    if np.ptp(mss) <= _FLAT:
        return Knee(int(k[0]), None, smoothed, f"The silhouette is {mss[0]:.3g} for every k: {k[0]} clusters suffice.")
    height = (smoothed - smoothed.min()) / max(float(np.ptp(smoothed)), 1e-300) - (k - k[0]) / (k[-1] - k[0])
    # kneed takes the first point of a curve that falls or bends the other way for a knee, which would keep two heads.
    if knee is not None and knee > k[0] and height[np.flatnonzero(k == knee)[0]] > _FLAT:
        return Knee(knee, knee, smoothed, f"Knee at k = {knee} with polynomial degree {used}{fitted}.")
    best = int(np.argmax(height))
    if 0 < best < len(k) - 1 and height[best] > _FLAT:
        return Knee(
            int(k[best]),
            None,
            smoothed,
            f"Kneedle found no knee with polynomial degree {used}{fitted}; k = {k[best]}, where the curve is farthest "
            "above its chord, was taken.",
        )
    return Knee(
        None,
        None,
        smoothed,
        f"The silhouette curve has no knee with polynomial degree {used}{fitted}: it never bends over. Every head is "
        "kept; set `num_heads` to choose a number.",
    )


def _kneedle(k: Array, mss: Array, degree: int, sensitivity: float) -> tuple[Array, int | None]:
    """The fitted polynomial at each k, and Kneedle's knee on it."""
    from kneed import KneeLocator

    with warnings.catch_warnings():
        # It warns where it finds no knee, as the note says, and a high degree on a long curve is ill-conditioned.
        warnings.simplefilter("ignore")
        found = KneeLocator(
            k,
            mss,
            S=sensitivity,
            curve="concave",
            direction="increasing",
            interp_method="polynomial",
            polynomial_degree=degree,
        )
    return np.asarray(found.Ds_y), None if found.knee is None else int(found.knee)
