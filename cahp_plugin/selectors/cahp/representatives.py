"""From separation and salience to the heads that stay (paper, steps 3 and 5 to 8)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cahp_plugin.config import CAHPConfig
from cahp_plugin.errors import DataError, SelectionError
from cahp_plugin.selectors.cahp.clustering import Clustering, sweep_kmedoids
from cahp_plugin.selectors.cahp.graph import louvain_labels, neighbor_graph
from cahp_plugin.selectors.cahp.graph_space import embed_distances, embed_heads
from cahp_plugin.selectors.cahp.hierarchical import sweep_hierarchical, with_medoids
from cahp_plugin.selectors.cahp.knee import find_knee
from cahp_plugin.selectors.cahp.selection import HeadSelection, MSSCurve
from cahp_plugin.selectors.cahp.silhouette import mean_simplified_silhouette
from cahp_plugin.units.kept import KeptSet

Array = np.ndarray[Any, Any]
Head = tuple[int, int]


def select_from_separation(
    separation: Array,
    heads: Sequence[Head],
    salience: Array,
    config: CAHPConfig,
    *,
    num_examples: int = 0,
    group_size: int = 1,
) -> HeadSelection:
    """Lays the heads out, clusters them, finds the knee and chooses each cluster's representative.

    Args:
        separation: X, shape ``(N, features)``.
        heads: Layer and original index of each row, length N.
        salience: Salience, shape ``(num_layers, num_original_heads)``; NaN where a head is absent.
        config: Settings.
        num_examples: Training examples behind X, for the record.
        group_size: Heads that each row stands for; with more than one, ``heads`` names the first.

    Raises:
        DataError: X or a salience is not a number.
        SelectionError: ``config.num_heads`` can't be had.
    """
    heads = _checked("Separation", separation, heads, salience)
    coordinates = embed_heads(
        separation,
        perplexity=config.perplexity,
        iterations=config.tsne_iterations,
        seed=config.seed,
        init=config.tsne_init,
    )
    return choose_heads(
        coordinates,
        heads,
        salience,
        config,
        separation=separation,
        num_examples=num_examples,
        group_size=group_size,
    )


def select_from_distances(
    distances: Array,
    heads: Sequence[Head],
    salience: Array,
    config: CAHPConfig,
    *,
    num_examples: int = 0,
    group_size: int = 1,
) -> HeadSelection:
    """Like :func:`select_from_separation`, from distances between the heads in place of their features.

    Args:
        distances: Symmetric distances, shape ``(N, N)``.
        heads: Layer and original index of each row, length N.
        salience: Salience, shape ``(num_layers, num_original_heads)``; NaN where a head is absent.
        config: Settings.
        num_examples: Examples behind the distances, for the record.
        group_size: Heads that each row stands for; with more than one, ``heads`` names the first.

    Raises:
        DataError: A distance or a salience is not a number.
        SelectionError: ``config.num_heads`` can't be had.
    """
    heads = _checked("Distance", distances, heads, salience)
    coordinates = embed_distances(
        distances,
        perplexity=config.perplexity,
        iterations=config.tsne_iterations,
        seed=config.seed,
        init=config.tsne_init,
    )
    return choose_heads(
        coordinates, heads, salience, config, distances=distances, num_examples=num_examples, group_size=group_size
    )


def _checked(what: str, values: Array, heads: Sequence[Head], salience: Array) -> tuple[Head, ...]:
    heads = tuple((int(layer), int(head)) for layer, head in heads)
    weights = np.array([salience[layer, head] for layer, head in heads], dtype=np.float64)
    bad = [heads[row] for row in np.flatnonzero(~(np.isfinite(values).all(axis=1) & np.isfinite(weights)))]
    if bad:
        raise DataError(f"{what} or salience of the heads (layer, head) {bad} is not a number.")
    return heads


def choose_heads(
    coordinates: Array,
    heads: tuple[Head, ...],
    salience: Array,
    config: CAHPConfig,
    *,
    separation: Array | None = None,
    distances: Array | None = None,
    num_examples: int = 0,
    group_size: int = 1,
) -> HeadSelection:
    """Chooses the heads from their places in graph space; arguments as in :func:`select_from_separation`."""
    from scipy.spatial.distance import pdist, squareform

    plane = squareform(pdist(coordinates))
    weights = np.array([salience[layer, head] for layer, head in heads], dtype=np.float64)
    wanted = wanted_rows(config, heads, group_size)
    chooser = _Chooser(heads, weights, config, group_size)
    knee: int | None = None
    curve = MSSCurve(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0))
    if config.clustering == "louvain":
        labels = louvain_labels(neighbor_graph(plane, config.num_neighbors), seed=config.seed, num_clusters=wanted)
        clustering = with_medoids(plane, labels)
        note = f"Louvain found {len(clustering.medoids)} communities."
    else:
        sweep = (sweep_kmedoids if config.clustering == "kmedoids" else sweep_hierarchical)(plane)
        ks = np.array(sorted(sweep), dtype=np.int64)
        mss = np.array([mean_simplified_silhouette(plane, sweep[k], config.mss) for k in ks])
        found = find_knee(ks, mss, degree=config.polynomial_degree, sensitivity=config.knee_sensitivity)
        curve = MSSCurve(ks, mss, found.smoothed)
        everything = Clustering(np.arange(len(heads)), np.arange(len(heads)))
        if wanted is None:
            clustering, knee, note = sweep.get(found.num_clusters or 0, everything), found.knee, found.note
        else:
            clustering = _largest_within(sweep | {len(heads): everything}, chooser, wanted)
            note = f"{wanted * group_size} heads asked for, from {len(clustering.medoids)} clusters."
    chosen = chooser.choose(clustering)
    if wanted is not None:
        chosen, added = chooser.fit(chosen, wanted)
        note += f" {added * group_size} added by salience." if added > 0 else ""
    if len(chosen) > len(clustering.medoids) and wanted is None:
        extra = (len(chosen) - len(clustering.medoids)) * group_size
        note += f" {extra} more so that each layer keeps {config.min_heads_per_layer}."
    kept = {
        layer: tuple(sorted(heads[row][1] + i for row in chosen if heads[row][0] == layer for i in range(group_size)))
        for layer in range(len(salience))
    }
    return HeadSelection(
        kept=KeptSet(heads=kept),
        heads=heads,
        salience=np.asarray(salience, dtype=np.float64),
        coordinates=coordinates,
        clusters=clustering.labels,
        curve=curve,
        knee=knee,
        note=note,
        config=config,
        separation=separation,
        distances=distances,
        num_examples=num_examples,
        group_size=group_size,
    )


def wanted_rows(config: CAHPConfig, heads: Sequence[Head], group_size: int = 1) -> int | None:
    """Number of rows, heads or groups of heads, that ``config.num_heads`` asks for, or ``None``.

    Args:
        config: Settings.
        heads: Layer and first head of each row.
        group_size: Heads of each row.

    Raises:
        SelectionError: There are not as many, they are no whole groups, or the layers' minimum needs more.
    """
    if config.num_heads is None:
        return None
    count, asked = len(heads), config.num_heads
    if isinstance(asked, int) and asked > count * group_size:
        raise SelectionError(f"`num_heads` asks for {asked} heads; the model has {count * group_size}.")
    if isinstance(asked, int) and asked % group_size:
        near = sorted({max(1, asked // group_size) * group_size, (asked // group_size + 1) * group_size})
        raise SelectionError(
            f"`num_heads` asks for {asked} heads; {group_size} query heads share a key and value head and only go "
            f"together. Ask for {' or '.join(map(str, near))}, or for a share."
        )
    wanted = asked // group_size if isinstance(asked, int) else max(1, math.floor(asked * count + 0.5))
    layers = [layer for layer, _ in heads]
    least = sum(min(rows_per_layer(config, group_size), layers.count(layer)) for layer in set(layers))
    if wanted < least:
        raise SelectionError(
            f"`num_heads={asked}` leaves {wanted * group_size} heads, but "
            f"`min_heads_per_layer={config.min_heads_per_layer}` needs {least * group_size}. Lower "
            "`min_heads_per_layer`; 0 allows layers without heads."
        )
    return wanted


def rows_per_layer(config: CAHPConfig, group_size: int) -> int:
    """Rows that hold at least ``config.min_heads_per_layer`` heads."""
    return -(-config.min_heads_per_layer // group_size)


def _largest_within(clusterings: dict[int, Clustering], chooser: _Chooser, wanted: int) -> Clustering:
    """The finest clustering whose choice, layer safety included, keeps no more than ``wanted`` heads."""
    for k in sorted(clusterings, reverse=True):
        if k <= wanted and len(chooser.choose(clusterings[k])) <= wanted:
            return clusterings[k]
    count = len(next(iter(clusterings.values())).labels)
    return Clustering(np.zeros(1, dtype=np.int64), np.zeros(count, dtype=np.int64))


class _Chooser:
    """Chooses rows: representatives of clusters, then whatever the layers' minimum lacks."""

    def __init__(self, heads: Sequence[Head], weights: Array, config: CAHPConfig, group_size: int) -> None:
        self.layers = np.array([layer for layer, _ in heads])
        self.weights = weights
        self.config = config
        self.least = rows_per_layer(config, group_size)
        #: Rows by salience, the highest first; ties go to the lowest row.
        self.order = [int(row) for row in np.argsort(-weights, kind="stable")]

    def choose(self, clustering: Clustering) -> set[int]:
        """Rows to keep: one for each cluster (step 7) and each layer's minimum (step 8)."""
        if self.config.representative == "medoid":
            chosen = {int(row) for row in clustering.medoids}
        else:
            chosen = set()
            taken: set[int] = set()
            for row in self.order:
                label = int(clustering.labels[row])
                if label not in taken:
                    taken.add(label)
                    chosen.add(row)
        return chosen | self._missing(chosen)

    def _missing(self, chosen: set[int]) -> set[int]:
        given_back: set[int] = set()
        for layer in set(self.layers.tolist()):
            rows = [row for row in self.order if self.layers[row] == layer]
            lacking = self.least - sum(row in chosen for row in rows)
            given_back.update([row for row in rows if row not in chosen][: max(0, lacking)])
        return given_back

    def fit(self, chosen: set[int], wanted: int) -> tuple[set[int], int]:
        """Brings a choice to exactly ``wanted`` rows by salience, without breaking a layer's minimum.

        Returns:
            The rows and how many were added.
        """
        chosen = set(chosen)
        for row in reversed(self.order):
            if len(chosen) <= wanted:
                break
            rest = chosen - {row}
            if row in chosen and not self._missing(rest):
                chosen = rest
        added = [row for row in self.order if row not in chosen][: max(0, wanted - len(chosen))]
        return chosen | set(added), len(added)
