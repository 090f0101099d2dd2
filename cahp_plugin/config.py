"""The settings of the method: one frozen, validated dataclass with the paper's values as defaults."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Literal, get_args

from cahp_plugin.errors import ConfigError
from cahp_plugin.files import write_text

CONFIG_NAME = "cahp_config.json"

MSSVariant = Literal["authors", "paper"]
Clustering = Literal["kmedoids", "hierarchical", "louvain"]
Representative = Literal["salience", "medoid"]
TSNEInit = Literal["pca", "random"]
Conditioning = Literal["label", "prediction", "none"]


@dataclasses.dataclass(frozen=True)
class CAHPConfig:
    r"""Settings of Complementary Attention Head Pruning (arXiv 2606.19150).

    The defaults are the paper's. It leaves the polynomial degree to the user and reports 2 to 6; 4 is the middle.

    Args:
        polynomial_degree: Degree of the polynomial that smooths the curve before the knee is looked for, 1 to 10. The
            method's one dial: a higher degree finds an earlier knee and keeps fewer heads. On the models of the paper,
            degree 2 keeps about 48 % of the heads and degree 6 about 16 %.
        conditioning: What heads are compared by. ``"label"`` (paper): how they tell the labelled classes apart.
            ``"prediction"``: the same for the classes that the model predicts; no labels needed. ``"none"``: the mean
            Jensen-Shannon distance of their attention over the same queries; no classes needed, so any model goes.
        max_queries: Queries of each example that ``"none"`` compares the heads at, evenly spread over its real
            tokens; ``None`` takes all. All heads' maps of a batch are held at once there, N x queries x S numbers an
            example (N heads, S tokens), so long sequences need it. Signatures hold one layer's maps at a time and
            take all queries: with them it is an error.
        seed: Seed of the t-SNE embedding, the only random step of the selection.
        signature_size: Side B of the square that each attention map is resized to, in tokens. ``None`` takes
            the ``signature_percentile`` of the token lengths in the training set (paper: 32 for SST-5, 48 for MNLI);
            for images and audio, which are not padded, the tokens that the model makes of them, at most 32. Not used
            without classes.
        signature_percentile: Percentile of the token lengths that gives B, 0 to 100.
        variance_floor: Lower bound of each cell's variance.
        salience_share: Share of the training examples, in (0, 1], that the salience is measured on.
        perplexity: Perplexity of t-SNE. A model with as few heads as this gets ``(N - 1) / 3`` in its place.
        tsne_iterations: Iterations of t-SNE, at least 250.
        tsne_init: Start of t-SNE: ``"pca"`` or ``"random"``, drawn by the seed. The paper names none; from PCA the
            selection depends less on the seed.
        mss: Form of the Mean Simplified Silhouette: ``"authors"`` averages ``(b - a) / max(a, b)`` over the heads that
            are no medoids (what the authors run); ``"paper"`` averages ``1 - a / b`` over all heads (what they print).
        clustering: ``"kmedoids"`` (the paper: FasterPAM), ``"hierarchical"`` (average linkage) or ``"louvain"``
            (communities of the nearest-neighbour graph, whose number modularity decides: no sweep and no knee).
        knee_sensitivity: Kneedle's S.
        representative: Head that stands for its cluster: the one of the highest ``"salience"`` (paper) or the
            ``"medoid"``.
        min_heads_per_layer: Heads that each layer keeps at least, given back in order of salience. The paper's 1
            protects frameworks that break on an empty layer; this library removes such layers, so 0 is allowed.
        num_heads: Heads to keep in place of the knee's choice: a count (``int``, at least 1) or a share of the
            present heads (``float`` in (0, 1)). ``None`` lets the knee choose.
        num_neighbors: Neighbours of each head in :meth:`HeadSelection.graph` and in ``"louvain"``.

    Raises:
        ConfigError: A value is out of its range or of the wrong type.

    Example:
        >>> CAHPConfig(polynomial_degree=6, seed=0).polynomial_degree
        6
    """

    polynomial_degree: int = 4
    conditioning: Conditioning = "label"
    max_queries: int | None = None
    seed: int = 0
    signature_size: int | None = None
    signature_percentile: float = 70.0
    variance_floor: float = 1e-6
    salience_share: float = 0.25
    perplexity: float = 10.0
    tsne_iterations: int = 1000
    tsne_init: TSNEInit = "pca"
    mss: MSSVariant = "authors"
    clustering: Clustering = "kmedoids"
    knee_sensitivity: float = 1.0
    representative: Representative = "salience"
    min_heads_per_layer: int = 1
    num_heads: int | float | None = None
    num_neighbors: int = 10

    def __post_init__(self) -> None:
        self._check_int("polynomial_degree", 1, 10)
        self._check_choice("conditioning", get_args(Conditioning))
        if self.max_queries is not None:
            self._check_int("max_queries", 1, 10**6)
            if self.conditioning != "none":
                raise ConfigError(
                    f"`max_queries` must be None with `conditioning={self.conditioning!r}`, got {self.max_queries!r}. "
                    'Only `conditioning="none"` holds the maps of all layers at once and samples their queries.'
                )
        self._check_int("seed", 0, 2**32 - 1)
        if self.signature_size is not None:
            self._check_int("signature_size", 2, 4096)
        self._check_number("signature_percentile", 0.0, 100.0)
        self._check_number("variance_floor", 0.0, 1.0, low_open=True)
        self._check_number("salience_share", 0.0, 1.0, low_open=True)
        self._check_number("perplexity", 1.0, 1e6)
        self._check_int("tsne_iterations", 250, 10**6)
        self._check_choice("tsne_init", get_args(TSNEInit))
        self._check_choice("mss", get_args(MSSVariant))
        self._check_choice("clustering", get_args(Clustering))
        self._check_number("knee_sensitivity", 0.0, 1e6)
        self._check_choice("representative", get_args(Representative))
        self._check_int("min_heads_per_layer", 0, 10**6)
        if isinstance(self.num_heads, float):
            self._check_number("num_heads", 0.0, 1.0, low_open=True, high_open=True)
        elif self.num_heads is not None:
            self._check_int("num_heads", 1, 10**6)
        self._check_int("num_neighbors", 1, 10**6)

    def _check_int(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ConfigError(f"`{name}` must be a whole number from {low} to {high}, got {value!r}.")

    def _check_number(
        self, name: str, low: float, high: float, *, low_open: bool = False, high_open: bool = False
    ) -> None:
        value = getattr(self, name)
        ok = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
        if not ok or (low_open and value == low) or (high_open and value == high):
            interval = f"{'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
            raise ConfigError(f"`{name}` must be a number in {interval}, got {value!r}.")

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        if getattr(self, name) not in choices:
            raise ConfigError(f"`{name}` must be one of {', '.join(choices)}; got {getattr(self, name)!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CAHPConfig:
        """Builds the settings from :meth:`to_dict`'s result.

        Raises:
            ConfigError: A key is unknown or a value is out of its range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"Unknown setting(s) {', '.join(unknown)}. Known: {', '.join(sorted(known))}.")
        return cls(**values)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> Path:
        """Writes the settings to ``cahp_config.json`` in a folder, which is made where it is missing."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / CONFIG_NAME
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")
        return path

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> CAHPConfig:
        """Reads the settings that :meth:`save_pretrained` wrote.

        Raises:
            ConfigError: The file is missing, is not JSON or holds bad settings.
        """
        path = Path(directory) / CONFIG_NAME
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"There is no {CONFIG_NAME} in {directory}.") from error
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path} is not valid JSON: {error}.") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path} must hold a JSON object, got {type(values).__name__}.")
        return cls.from_dict(values)
