"""What the knee says about the model: the same rule on pure noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers.utils import logging

from cahp_plugin.errors import ConfigError
from cahp_plugin.files import from_plain
from cahp_plugin.selectors.cahp.evidence import Evidence
from cahp_plugin.selectors.cahp.representatives import choose_heads, embed
from cahp_plugin.selectors.controls import with_noise
from cahp_plugin.table import format_table

#: Share of the heads kept on SST-5 by polynomial degree, as the paper reports (arXiv 2606.19150).
PAPER_SHARES: dict[str, dict[int, float]] = {
    "BERT-base": {2: 0.479, 3: 0.293, 4: 0.251, 5: 0.198, 6: 0.181},
    "BERT-large": {2: 0.470, 3: 0.284, 4: 0.233, 5: 0.178, 6: 0.153},
}


@dataclasses.dataclass(frozen=True)
class KneeRow:
    """Share of the heads kept at one polynomial degree.

    Attributes:
        degree: Polynomial degree.
        measured: From the model's own separation X: share in [0, 1] for each seed.
        noise: From Gaussian noise of X's shape: share for each seed.
        paper: Model -> share that the paper reports on SST-5.
    """

    degree: int
    measured: tuple[float, ...]
    noise: tuple[float, ...]
    paper: dict[str, float]


@dataclasses.dataclass(frozen=True)
class KneeTable:
    """The knee's choice with and without a model behind it.

    Attributes:
        num_heads: Heads of the model.
        seeds: Seeds of t-SNE and of the noise.
        rows: One for each degree.
    """

    num_heads: int
    seeds: tuple[int, ...]
    rows: tuple[KneeRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the table as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> KneeTable:
        """Builds the table from :meth:`to_dict`'s result, also after JSON."""
        return from_plain(cls, values)

    def table(self, *, markdown: bool = False) -> str:
        """The shares as a table, in %: mean and range over seeds."""
        cells = []
        for row in self.rows:
            shares = {"this model": _range(row.measured), "noise": _range(row.noise)}
            paper = {f"paper, {name}": f"{100 * share:.1f}" for name, share in row.paper.items()}
            cells.append({"degree": f"{row.degree}", **shares, **paper})
        return format_table(cells, markdown=markdown)

    def __str__(self) -> str:
        return (
            f"{self.table()}\n\nHeads kept in % of {self.num_heads} by polynomial degree, mean (least to most) over "
            f"{len(self.seeds)} seeds; noise: Gaussian of the same shape in place of the class separation."
        )


def _range(shares: Sequence[float]) -> str:
    low, high = 100 * min(shares), 100 * max(shares)
    mean = f"{100 * float(np.mean(shares)):.1f}"
    return mean if low == high else f"{mean} ({low:.1f} to {high:.1f})"


def knee_under_noise(
    evidence: Evidence, *, degrees: Sequence[int] = (2, 3, 4, 5, 6), seeds: Sequence[int] = (0, 1, 2)
) -> KneeTable:
    """Lets the knee choose the number of heads from the model's separation and from noise of the same shape.

    Where both give about the same, the number comes from the rule (t-SNE fills its plane evenly whatever it is
    given) and not from the model.

    Args:
        evidence: What was measured on the model, with its X; its settings are used, without ``num_heads``.
        degrees: Polynomial degrees.
        seeds: Seeds of t-SNE and of the noise.

    Raises:
        ConfigError: The clustering has no knee, or a list is empty.
        SelectionError: There is no X.
    """
    if evidence.config.clustering == "louvain":
        raise ConfigError("`clustering='louvain'` has no knee; select with kmedoids or hierarchical.")
    if not degrees or not seeds:
        raise ConfigError("`degrees` and `seeds` must hold at least one number each.")
    total = evidence.units.num_heads
    shares: dict[tuple[str, int], list[float]] = {}
    for seed in logging.tqdm(seeds, desc="Looking for knees", unit="seed"):
        for name, given in (("measured", evidence), ("noise", with_noise(evidence, seed))):
            config = dataclasses.replace(given.config, num_heads=None, seed=seed)
            coordinates = embed(dataclasses.replace(given, config=config))
            for degree in degrees:
                changed = dataclasses.replace(config, polynomial_degree=degree)
                found = choose_heads(coordinates, dataclasses.replace(given, config=changed))
                shares.setdefault((name, degree), []).append(found.num_heads / total)
    rows = tuple(
        KneeRow(
            degree,
            tuple(shares["measured", degree]),
            tuple(shares["noise", degree]),
            {model: known[degree] for model, known in PAPER_SHARES.items() if degree in known},
        )
        for degree in degrees
    )
    return KneeTable(total, tuple(seeds), rows)
