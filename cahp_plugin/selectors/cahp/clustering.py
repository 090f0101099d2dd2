"""k-medoids by FasterPAM, for one number of clusters or for all of them in one sweep."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: A swap must lower the total deviation by more than this share of it: less is rounding, which could go on forever.
_TOLERANCE = 1e-12
#: Above this many heads local optima lie within 0.1 % of each other, and the walk back is not worth its seconds.
_MANY_HEADS = 512


@dataclasses.dataclass(frozen=True)
class Clustering:
    """A partition of the heads around medoids.

    Attributes:
        medoids: Row of each cluster's medoid, shape ``(k,)``.
        labels: Cluster of each head, 0 to k - 1, shape ``(N,)``.
    """

    medoids: Array
    labels: Array

    def deviation(self, distances: Array) -> float:
        """Total deviation: the sum of every head's distance to the medoid of its cluster."""
        return float(distances[np.arange(len(self.labels)), self.medoids[self.labels]].sum())


def build_order(distances: Array) -> Array:
    """Greedy order in which BUILD (Kaufman & Rousseeuw 1990) takes medoids; its first k are the start for k.

    Args:
        distances: Symmetric distances, shape ``(N, N)``.

    Returns:
        A permutation of the rows, shape ``(N,)``. Of equal gains the lowest row comes first, but for gains that only
        rounding tells apart: they are running sums.
    """
    count = len(distances)
    chosen = np.zeros(count, dtype=bool)
    order = np.empty(count, dtype=np.int64)
    order[0] = np.argmin(distances.sum(axis=1))
    chosen[order[0]] = True
    nearest = distances[order[0]].copy()
    gains = np.maximum(nearest[:, None] - distances, 0).sum(axis=0)
    for step in range(1, count):
        order[step] = medoid = int(np.argmax(np.where(chosen, -1.0, gains)))
        chosen[medoid] = True
        closer = np.flatnonzero(distances[medoid] < nearest)
        rows = distances[closer]
        # Only the rows that come closer change what the other candidates would gain.
        gains -= np.maximum(nearest[closer, None] - rows, 0).sum(axis=0)
        nearest[closer] = distances[medoid, closer]
        gains += np.maximum(nearest[closer, None] - rows, 0).sum(axis=0)
    return order


def fasterpam(distances: Array, start: Array) -> Clustering:
    """Finds k medoids of low total deviation by FasterPAM (Schubert & Rousseeuw, Information Systems 101, 2021).

    Each pass values all (medoid, candidate) swaps at once, as matrices; then it walks through the promising
    candidates, best first, values each exactly against the present medoids in O(N), and swaps at once where that helps
    (the eager swaps that make FasterPAM fast). It stops when no swap helps.

    Args:
        distances: Symmetric distances, shape ``(N, N)``.
        start: Rows of the first medoids, shape ``(k,)`` with 2 <= k < N, without repetition.

    Returns:
        The medoids, ascending, and each head's nearest one (ties: the lowest row).
    """
    state = _Medoids(distances, np.asarray(start, dtype=np.int64))
    while any([state.swap_in(candidate) for candidate in state.promising()]):
        pass
    return assign(distances, np.sort(state.medoids))


def assign(distances: Array, medoids: Array) -> Clustering:
    """Puts each head in the cluster of its nearest medoid (ties: the lowest position); medoids in their own."""
    labels = np.argmin(distances[:, medoids], axis=1)
    labels[medoids] = np.arange(len(medoids))
    return Clustering(medoids, labels)


class _Medoids:
    """Medoids with the nearest and second nearest one of every head."""

    def __init__(self, distances: Array, medoids: Array) -> None:
        self.distances = distances
        self.medoids = medoids.copy()
        count = len(distances)
        self.first = np.zeros(count, dtype=np.int64)
        self.second = np.zeros(count, dtype=np.int64)
        self.near = np.zeros(count)
        self.next = np.zeros(count)
        self._rank(np.arange(count))

    def _rank(self, rows: Array) -> None:
        to_medoids = self.distances[rows[:, None], self.medoids]
        lines = np.arange(len(rows))
        self.first[rows] = first = np.argmin(to_medoids, axis=1)
        self.near[rows] = to_medoids[lines, first]
        to_medoids[lines, first] = np.inf
        self.second[rows] = second = np.argmin(to_medoids, axis=1)
        self.next[rows] = to_medoids[lines, second]

    def promising(self) -> list[int]:
        """Candidates that some swap makes the deviation lower with, the best swap first."""
        order = np.argsort(self.first, kind="stable")
        starts = np.flatnonzero(np.diff(self.first[order], prepend=-1))
        candidates = np.delete(np.arange(len(order)), self.medoids)
        near, far = self.near[order, None], self.next[order, None]
        change = self.distances[order[:, None], candidates]
        change -= near
        common = np.minimum(change, 0).sum(axis=0)
        # Every medoid is nearest to itself, so each cluster has a segment; only medoids that coincide may have none,
        # and those lose nothing by leaving.
        np.clip(change, 0, far - near, out=change)
        loss = np.add.reduceat(change, starts, axis=0).min(axis=0)
        total = common + (loss if len(starts) == len(self.medoids) else 0.0)
        found = np.flatnonzero(total < -self._threshold())
        return [int(row) for row in candidates[found[np.argsort(total[found], kind="stable")]]]

    def swap_in(self, candidate: int) -> bool:
        """Swaps a candidate for the medoid whose leaving costs least, if the deviation falls."""
        if candidate in self.medoids:
            return False
        to_candidate = self.distances[candidate]
        common = np.minimum(to_candidate - self.near, 0).sum()
        losses = np.bincount(
            self.first,
            weights=np.clip(to_candidate, self.near, self.next) - self.near,
            minlength=len(self.medoids),
        )
        leaving = int(np.argmin(losses))
        if not common + losses[leaving] < -self._threshold():
            return False
        self.medoids[leaving] = candidate
        stale = (self.first == leaving) | (self.second == leaving)
        closest = ~stale & (to_candidate < self.near)
        between = ~stale & ~closest & (to_candidate < self.next)
        self.second[closest], self.next[closest] = self.first[closest], self.near[closest]
        self.first[closest], self.near[closest] = leaving, to_candidate[closest]
        self.second[between], self.next[between] = leaving, to_candidate[between]
        self._rank(np.flatnonzero(stale))
        return True

    def _threshold(self) -> float:
        return _TOLERANCE * float(self.near.sum())


def sweep_kmedoids(distances: Array) -> dict[int, Clustering]:
    """Clusters for every k = 2..N-1 (paper, step 5).

    For each k several starts are refined and the best result is kept: BUILD's first k; the medoids for k - 1 with
    the head that helps most; the medoids for k + 1 without the one that is missed least (up to 512 heads); and,
    for fewer than 224 heads, some drawn by a generator of fixed seed. It is deterministic.

    Args:
        distances: Symmetric distances, shape ``(N, N)``.

    Returns:
        k -> clustering; empty for N < 3.
    """
    count = len(distances)
    order = build_order(distances)
    found: dict[int, Clustering] = {}
    deviation: dict[int, float] = {}

    def refine(k: int, start: Array) -> None:
        result = fasterpam(distances, start)
        total = result.deviation(distances)
        if k not in found or total < deviation[k] * (1 - _TOLERANCE):
            found[k], deviation[k] = result, total

    generator = np.random.default_rng(0)
    for k in range(2, count):
        refine(k, order[:k])
        for _ in range(_random_starts(count)):
            refine(k, generator.choice(count, size=k, replace=False))
        if k > 2:
            refine(k, _grown(distances, found[k - 1].medoids))
    for k in range(count - 2, 1, -1) if count <= _MANY_HEADS else ():
        refine(k, _shrunk(distances, found[k + 1].medoids))
    return found


def _random_starts(count: int) -> int:
    """Extra starts where the heads are few: a local optimum weighs most there, and a start takes below a ms."""
    return max(0, 14 - count // 16)


def _grown(distances: Array, medoids: Array) -> Array:
    nearest = distances[:, medoids].min(axis=1)
    gains = np.maximum(nearest[:, None] - distances, 0).sum(axis=0)
    gains[medoids] = -1.0
    return np.append(medoids, np.argmax(gains))


def _shrunk(distances: Array, medoids: Array) -> Array:
    state = _Medoids(distances, medoids)
    losses = np.bincount(state.first, weights=state.next - state.near, minlength=len(medoids))
    return np.delete(medoids, np.argmin(losses))
