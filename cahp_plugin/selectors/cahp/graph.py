"""The graph of heads: nearest neighbours in graph space, and its communities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

if TYPE_CHECKING:
    from cahp_plugin.selectors.cahp.selection import HeadSelection

Array = np.ndarray[Any, Any]

_BISECTIONS = 40


def neighbor_graph(distances: Array, num_neighbors: int) -> nx.Graph:
    """Joins each head to its nearest neighbours.

    An edge weighs ``exp(-d^2 / (2 s^2))`` with s the median length of all edges, so weights are in (0, 1] and do not
    depend on the plane's scale.

    Args:
        distances: Distances in graph space, shape ``(N, N)``.
        num_neighbors: Neighbours of each head; at most N - 1 are taken.

    Returns:
        An undirected graph on 0..N-1 with the edge attributes ``distance`` and ``weight``.
    """
    count = len(distances)
    graph = nx.Graph()
    graph.add_nodes_from(range(count))
    for row in range(count):
        order = np.argsort(distances[row], kind="stable")
        for other in order[order != row][:num_neighbors]:
            graph.add_edge(row, int(other), distance=float(distances[row, other]))
    lengths = [length for _, _, length in graph.edges(data="distance")]
    scale = float(np.median(lengths)) if lengths else 0.0
    for _, _, edge in graph.edges(data=True):
        # The floor keeps the weight positive: a weight of 0 would be no edge at all.
        ratio = edge["distance"] / scale if scale > 0 else edge["distance"]
        edge["weight"] = max(float(np.exp(-0.5 * ratio**2)), 1e-12)
    return graph


def louvain_labels(graph: nx.Graph, *, seed: int, num_clusters: int | None = None) -> Array:
    """Finds communities by Louvain modularity (networkx).

    Args:
        graph: From :func:`neighbor_graph`.
        seed: Seed of the order in which nodes are visited.
        num_clusters: Wanted number; the resolution is searched for the closest one that modularity gives. ``None``
            takes resolution 1.

    Returns:
        Community of each node, shape ``(N,)``, numbered in the order of their lowest node.
    """

    def communities(resolution: float) -> list[set[int]]:
        found = nx.community.louvain_communities(graph, weight="weight", resolution=resolution, seed=seed)
        return sorted(found, key=min)

    best = communities(1.0)
    if num_clusters is not None:
        low, high = 1e-3, 1e4
        for _ in range(_BISECTIONS):
            resolution = float(np.sqrt(low * high))
            found = communities(resolution)
            if abs(len(found) - num_clusters) < abs(len(best) - num_clusters):
                best = found
            if len(found) == num_clusters:
                break
            low, high = (resolution, high) if len(found) < num_clusters else (low, resolution)
    labels = np.empty(graph.number_of_nodes(), dtype=np.int64)
    for label, members in enumerate(best):
        labels[sorted(members)] = label
    return labels


def head_graph(selection: HeadSelection) -> nx.Graph:
    """Builds the graph that :meth:`HeadSelection.graph` documents."""
    from scipy.spatial.distance import pdist, squareform

    names, places = [f"{layer}.{head}" for layer, head in selection.heads], selection.coordinates
    graph = nx.Graph()
    for row, (layer, head) in enumerate(selection.heads):
        graph.add_node(
            names[row],
            layer=layer,
            head=head,
            salience=float(selection.salience[layer, head]),
            cluster=int(selection.clusters[row]),
            kept=head in selection.kept.heads[layer],
            x=float(places[row, 0]),
            y=float(places[row, 1]),
        )
    neighbors = neighbor_graph(squareform(pdist(places)), selection.config.num_neighbors)
    graph.add_edges_from((names[a], names[b], attributes) for a, b, attributes in neighbors.edges(data=True))
    return graph
