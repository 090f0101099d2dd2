"""From separation and salience to the heads that stay (paper, steps 3 and 5 to 8)."""

from __future__ import annotations

from typing import Any

import numpy as np

from cahp_plugin.selectors.cahp.clustering import Clustering, sweep_kmedoids
from cahp_plugin.selectors.cahp.evidence import Evidence
from cahp_plugin.selectors.cahp.graph import louvain_labels, neighbor_graph
from cahp_plugin.selectors.cahp.graph_space import embed_heads
from cahp_plugin.selectors.cahp.hierarchical import sweep_hierarchical, with_medoids
from cahp_plugin.selectors.cahp.knee import find_knee
from cahp_plugin.selectors.cahp.selection import HeadSelection, MSSCurve
from cahp_plugin.selectors.cahp.silhouette import mean_simplified_silhouette

Array = np.ndarray[Any, Any]


def select(evidence: Evidence) -> HeadSelection:
    """Lays the heads out, clusters them, finds the knee and chooses each cluster's representative.

    Args:
        evidence: What was measured, and the settings.

    Raises:
        SelectionError: ``config.num_heads`` can't be had.
    """
    return choose_heads(embed(evidence), evidence)


def embed(evidence: Evidence) -> Array:
    """Lays the heads out in a plane by the settings' t-SNE (paper, step 3): ``(N, 2)``."""
    if evidence.separation is not None:
        return embed_heads(evidence.separation, evidence.config)
    return embed_heads(np.asarray(evidence.distances), evidence.config, distances=True)


def choose_heads(coordinates: Array, evidence: Evidence) -> HeadSelection:
    """Chooses the heads from their places in graph space, ``(N, 2)``; the rest as in :func:`select`."""
    from scipy.spatial.distance import pdist, squareform

    units, config, size = evidence.units, evidence.config, evidence.units.group_size
    plane = squareform(pdist(coordinates))
    wanted = None if config.num_heads is None else units.count(config.num_heads)
    chooser = _Chooser(evidence)
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
        everything = Clustering(np.arange(len(plane)), np.arange(len(plane)))
        if wanted is None:
            clustering, knee, note = sweep.get(found.num_clusters or 0, everything), found.knee, found.note
        else:
            clustering = _largest_within(sweep | {len(plane): everything}, chooser, wanted)
            note = f"{wanted * size} heads asked for, from {len(clustering.medoids)} clusters."
    chosen = chooser.choose(clustering)
    if wanted is not None:
        chosen, added = chooser.fit(chosen, wanted)
        note += f" {added * size} added by salience." if added > 0 else ""
    if len(chosen) > len(clustering.medoids) and wanted is None:
        extra = (len(chosen) - len(clustering.medoids)) * size
        note += f" {extra} more so that each layer keeps {config.min_heads_per_layer}."
    return HeadSelection(
        kept=units.kept(chosen),
        heads=units.firsts,
        salience=units.table_of(evidence.salience),
        coordinates=coordinates,
        clusters=clustering.labels,
        curve=curve,
        knee=knee,
        note=note,
        config=config,
        separation=evidence.separation,
        distances=evidence.distances,
        num_examples=evidence.num_examples,
        group_size=size,
    )


def _largest_within(clusterings: dict[int, Clustering], chooser: _Chooser, wanted: int) -> Clustering:
    """The finest clustering whose choice, layer safety included, keeps no more than ``wanted`` heads."""
    for k in sorted(clusterings, reverse=True):
        if k <= wanted and len(chooser.choose(clusterings[k])) <= wanted:
            return clusterings[k]
    count = len(next(iter(clusterings.values())).labels)
    return Clustering(np.zeros(1, dtype=np.int64), np.zeros(count, dtype=np.int64))


class _Chooser:
    """Chooses rows: representatives of clusters, then whatever the layers' minimum lacks."""

    def __init__(self, evidence: Evidence) -> None:
        self.layers = np.array(evidence.units.layers)
        self.config = evidence.config
        self.least = evidence.units.min_units
        #: Rows by salience, the highest first; ties go to the lowest row.
        self.order = [int(row) for row in np.argsort(-evidence.salience, kind="stable")]

    def choose(self, clustering: Clustering) -> set[int]:
        """Rows to keep: one for each cluster (step 7) and each layer's minimum (step 8)."""
        if self.config.representative == "medoid":
            chosen = {int(row) for row in clustering.medoids}
        else:
            # The most salient of a cluster comes last here, and stays.
            chosen = set({int(clustering.labels[row]): row for row in reversed(self.order)}.values())
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
