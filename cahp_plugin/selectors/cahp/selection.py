"""The result of the method: which heads are kept, and everything that led there."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cahp_plugin.config import CAHPConfig
from cahp_plugin.errors import SelectionError
from cahp_plugin.files import from_plain
from cahp_plugin.units.kept import KeptSet

if TYPE_CHECKING:
    import networkx


@dataclasses.dataclass(frozen=True)
class MSSCurve:
    """Mean Simplified Silhouette against the number of clusters.

    Attributes:
        k: Numbers of clusters, ascending, shape ``(points,)``.
        mss: Mean Simplified Silhouette at each ``k``, shape ``(points,)``.
        smoothed: The fitted polynomial at each ``k``, shape ``(points,)``; empty where none was fitted.
    """

    k: NDArray[np.int64]
    mss: NDArray[np.float64]
    smoothed: NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class HeadSelection:
    """Heads to keep, as found by :func:`cahp_plugin.select_heads`. The model itself is unchanged by it.

    N is the number of heads that were present in the model; row ``i`` of each ``(N, ...)`` array belongs to
    ``heads[i]``. Layers and heads carry the indices that they had before any pruning. Where query heads share key and
    value heads (grouped queries), the heads of a group only go together: N then counts groups, and ``heads[i]`` is the
    first head of each.

    Attributes:
        kept: The heads to keep, in every layer by its original indices.
        heads: ``(layer, head)`` of each row, length N; the first head where rows are groups.
        salience: Salience in [0, 1] of each head, shape ``(num_layers, num_original_heads)``; NaN where the head was
            removed before.
        coordinates: Place of each head in graph space, shape ``(N, 2)``.
        clusters: Cluster of each head, 0 to ``num_clusters - 1``, shape ``(N,)``.
        curve: The curve that the knee was looked for on.
        knee: Number of clusters at the knee; ``None`` where the number came from elsewhere.
        note: How the number of clusters came about, in words.
        config: The settings used, with ``signature_size`` filled in.
        separation: Class separation X, Jeffries-Matusita distances in [0, 2], shape ``(N, cells * pairs)``; ``None``
            after :meth:`from_dict` and where the heads were compared without classes.
        distances: Mean Jensen-Shannon distances between heads, in [0, sqrt(ln 2)], shape ``(N, N)``, where the heads
            were compared without classes; ``None`` after :meth:`from_dict`.
        group_size: Heads that each row stands for.
        num_examples: Examples that the heads were observed on.
    """

    kept: KeptSet
    heads: tuple[tuple[int, int], ...]
    salience: NDArray[np.float64]
    coordinates: NDArray[np.float64]
    clusters: NDArray[np.int64]
    curve: MSSCurve
    knee: int | None
    note: str
    config: CAHPConfig
    separation: NDArray[np.float32] | None = None
    num_examples: int = 0
    distances: NDArray[np.float64] | None = None
    group_size: int = 1

    @property
    def num_heads(self) -> int:
        """Number of heads kept."""
        return self.kept.num_heads

    @property
    def num_present(self) -> int:
        """Number of heads that the model had: N times ``group_size``."""
        return len(self.heads) * self.group_size

    @property
    def present(self) -> dict[int, tuple[int, ...]]:
        """Layer -> original indices of the heads that the model had, ascending, for every layer."""
        found: dict[int, list[int]] = {layer: [] for layer in self.kept.heads}
        for layer, head in self.heads:
            found.setdefault(layer, []).extend(range(head, head + self.group_size))
        return {layer: tuple(sorted(heads)) for layer, heads in found.items()}

    @property
    def num_clusters(self) -> int:
        """Number of clusters that the kept heads were drawn from."""
        return int(self.clusters.max()) + 1 if len(self.clusters) else 0

    def graph(self) -> networkx.Graph:
        """Builds the graph of heads: each joined to its nearest neighbours in graph space.

        Returns:
            Nodes ``"layer.head"`` with the attributes ``layer``, ``head``, ``salience``, ``cluster``, ``kept``, ``x``
            and ``y``; edges with ``distance`` (graph-space units) and ``weight`` in (0, 1]. All attributes are plain
            numbers, so that ``networkx.write_graphml`` takes it.
        """
        from cahp_plugin.selectors.cahp.graph import head_graph

        return head_graph(self)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything but X and the distances as plain JSON values; NaN becomes ``None``."""
        return {
            "kept": {str(layer): list(heads) for layer, heads in self.kept.heads.items()},
            "num_heads": self.num_heads,
            "knee": self.knee,
            "note": self.note,
            "num_examples": self.num_examples,
            "heads": [list(pair) for pair in self.heads],
            "group_size": self.group_size,
            "clusters": self.clusters.tolist(),
            "coordinates": self.coordinates.tolist(),
            "salience": np.where(np.isnan(self.salience), np.array(None), self.salience).tolist(),
            "curve": {name: values.tolist() for name, values in vars(self.curve).items()},
            "config": self.config.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> HeadSelection:
        """Builds a selection from :meth:`to_dict`'s result.

        Raises:
            SelectionError: A part is missing or damaged.
        """
        try:
            return from_plain(
                cls,
                values
                | {
                    "kept": {"heads": values["kept"], "neurons": {}},
                    "coordinates": np.reshape(values["coordinates"], (-1, 2)),
                    "config": CAHPConfig.from_dict(values["config"]),
                    "num_examples": values["num_examples"],
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SelectionError(f"This is not a saved head selection: {error!r}.") from error

    def __str__(self) -> str:
        total = self.num_present
        share = 100 * self.num_heads / total if total else 0.0
        lines = [f"HeadSelection: keeps {self.num_heads} of {total} heads ({share:.1f} %). {self.note}"]
        present = self.present
        for layer, heads in self.kept.heads.items():
            cells = "".join(
                "#" if head in heads else "." if head in present[layer] else " "
                for head in range(self.salience.shape[1])
            )
            lines.append(f"  layer {layer:>2}  {cells}  {len(heads):>2} kept: {', '.join(map(str, heads)) or 'none'}")
        return "\n".join(lines)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text("HeadSelection(...)" if cycle else str(self))
