"""The settings of the method and of the recovery: frozen, validated dataclasses with the paper's values as defaults.

What the command line says and takes for a setting stands with its field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cahp_plugin.errors import ConfigError

MSSVariant = Literal["authors", "paper"]
Clustering = Literal["kmedoids", "hierarchical", "louvain"]
Representative = Literal["salience", "medoid"]
TSNEInit = Literal["pca", "random"]
Conditioning = Literal["auto", "label", "prediction", "none"]
RecoveryMethod = Literal[
    "none", "bias", "least-squares", "finetune", "least-squares+finetune", "distill", "least-squares+distill"
]

_MOST = 10**6


def _setting(default: Any, text: str, *ranges: tuple[Any, ...]) -> Any:
    """A field with its help text.

    Args:
        default: Its default.
        text: What the command line says of it.
        *ranges: ``(low, high)`` for whole numbers, or, where these are floats, for any; with a third entry such as
            ``"(]"`` where an end is not in the range. Several are for values of different types.
    """
    return dataclasses.field(default=default, metadata={"help": text, "ranges": ranges})


class _Settings:
    """Base of the settings, which checks each field by its type and its ranges."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value, choices = getattr(self, name), get_args(kind)
            ranges = self.__dataclass_fields__[name].metadata.get("ranges")  # type: ignore[attr-defined]
            if get_origin(kind) is Literal and value not in choices:
                raise ConfigError(f"`{name}` must be one of {', '.join(choices)}; got {value!r}.")
            if ranges and not (value is None and type(None) in choices):
                low, high, *ends = next((own for own in ranges if isinstance(value, type(own[0]))), ranges[0])
                _check_range(name, value, low, high, *ends)


def _check_range(name: str, value: Any, low: Any, high: Any, ends: str = "[]") -> None:
    whole = isinstance(low, int)
    if isinstance(value, int if whole else (int, float)) and not isinstance(value, bool):
        above = low < value if ends[0] == "(" else low <= value
        below = value < high if ends[1] == ")" else value <= high
        if above and below:
            return
    allowed = f"whole number from {low} to {high}" if whole else f"number in {ends[0]}{low:g}, {high:g}{ends[1]}"
    raise ConfigError(f"`{name}` must be a {allowed}, got {value!r}.")


@dataclasses.dataclass(frozen=True)
class CAHPConfig(_Settings):
    r"""Settings of Complementary Attention Head Pruning (arXiv 2606.19150).

    The defaults are the paper's. It leaves the polynomial degree to the user and reports 2 to 6; 4 is the middle.

    Args:
        polynomial_degree: Degree of the polynomial that smooths the curve before the knee is looked for, 1 to 10. The
            method's one dial: a higher degree finds an earlier knee and keeps fewer heads. On the models of the paper,
            degree 2 keeps about 48 % of the heads and degree 6 about 16 %.
        conditioning: What heads are compared by. ``"label"`` (paper): how they tell the labelled classes apart, of
            examples, of tokens, or with and without each of a set of labels. ``"prediction"``: the same for the
            classes that the model predicts; no labels needed. ``"none"``: the mean Jensen-Shannon distance of their
            attention over the same queries; no classes needed, so any model goes. ``"auto"``: ``"label"`` where the
            model's task has classes, else ``"none"``.
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

    polynomial_degree: int = _setting(
        4, "the method's dial, 1 to 10: a higher degree keeps fewer heads (paper: 2 to 6)", (1, 10)
    )
    conditioning: Conditioning = _setting(
        "auto",
        "what heads are compared by: how they tell labelled classes apart (the paper), or predicted ones, or their "
        "attention itself; auto takes labels where the task has classes, and else none",
    )
    max_queries: int | None = _setting(
        None, "queries of an example that conditioning 'none' compares the heads at", (1, _MOST)
    )
    seed: int = _setting(0, "seed of the t-SNE embedding and of the fine-tuning", (0, 2**32 - 1))
    signature_size: int | None = _setting(
        None, "side of the resized attention maps (default: from the token lengths)", (2, 4096)
    )
    signature_percentile: float = _setting(70.0, "percentile of the token lengths that gives the side", (0.0, 100.0))
    variance_floor: float = _setting(1e-6, "lower bound of each cell's variance", (0.0, 1.0, "(]"))
    salience_share: float = _setting(
        0.25, "share of the training set that the salience is measured on", (0.0, 1.0, "(]")
    )
    perplexity: float = _setting(10.0, "perplexity of t-SNE", (1.0, 1e6))
    tsne_iterations: int = _setting(1000, "iterations of t-SNE", (250, _MOST))
    tsne_init: TSNEInit = _setting("pca", "start of t-SNE; from pca the selection depends less on the seed")
    mss: MSSVariant = _setting("authors", "form of the Mean Simplified Silhouette")
    clustering: Clustering = _setting("kmedoids", "how the heads are clustered (paper: kmedoids)")
    knee_sensitivity: float = _setting(1.0, "Kneedle's S", (0.0, 1e6))
    representative: Representative = _setting("salience", "head that stands for its cluster (paper: salience)")
    min_heads_per_layer: int = _setting(1, "heads that each layer keeps at least; 0 lets whole layers go", (0, _MOST))
    num_heads: int | float | None = _setting(
        None,
        "heads to keep, a count or a share in (0, 1), in place of the knee's choice",
        (1, _MOST),
        (0.0, 1.0, "()"),
    )
    num_neighbors: int = _setting(10, "neighbours of a head in the graph of heads", (1, _MOST))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_queries is not None and self.conditioning not in ("none", "auto"):
            raise ConfigError(
                f"`max_queries` must be None with `conditioning={self.conditioning!r}`, got {self.max_queries!r}. "
                'Only `conditioning="none"` holds the maps of all layers at once and samples their queries.'
            )

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
        return cls(**{"conditioning": "label"} | values)  # what it was before it could be left open


@dataclasses.dataclass(frozen=True)
class RecoverySettings(_Settings):
    """How the pruned model is recovered; the paper's way and settings are the default (step 10).

    Args:
        method: ``"finetune"`` (the paper), ``"least-squares"`` or ``"bias"`` (closed form: seconds, no labels, no
            gradient), ``"distill"`` (training towards the dense model's outputs, without labels),
            ``"least-squares+finetune"``, ``"least-squares+distill"``, or ``"none"``.
        calibration_examples: Training examples, drawn by the seed, for what needs no labels: three quarters are what a
            closed form is fitted on; a budget's plan measures on the last quarter what each size loses.
        epochs: Passes over the training set for fine-tuning or distillation; 0 leaves it out.
        learning_rate: Peak learning rate of AdamW, after the warm-up; without it 2e-5 for fine-tuning (the paper's),
            1e-4 for distillation.
        batch_size: Examples a step.
        training_arguments: Anything else that ``transformers.TrainingArguments`` takes (mixed precision, ...).
        temperature: What scores are divided by in distillation.
        label_share: What the labels count in distillation, in [0, 1].
        hidden_share: What is added of the hidden states in distillation.
    """

    method: RecoveryMethod = _setting(
        "finetune",
        "finetune (the paper's, and the default without a budget); least-squares (the default with one) and bias "
        "repair the output projections in closed form, in seconds and without labels; distill trains towards the "
        "dense model's outputs, without labels",
    )
    calibration_examples: int = _setting(
        512, "training examples, drawn: three quarters to fit on, a quarter to measure what a size loses", (4, _MOST)
    )
    epochs: float = _setting(3, "epochs; 0 leaves it one-shot", (0, _MOST), (0.0, 1e6))
    learning_rate: float | None = _setting(
        None, "peak learning rate (default: 2e-5 for finetune, 1e-4 for distill)", (0.0, 1e3, "(]")
    )
    batch_size: int = _setting(32, "examples a batch", (1, _MOST))
    training_arguments: Mapping[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"help": "more arguments of transformers.TrainingArguments, e.g. '{\"bf16\": true}'"},
    )
    temperature: float = _setting(2.0, "what scores are divided by in distillation", (1e-3, 1e3))
    label_share: float = _setting(0.0, "what the labels count in distillation", (0.0, 1.0))
    hidden_share: float = _setting(10.0, "what is added of the hidden states in distillation", (0.0, 1e6))

    @property
    def fitted_examples(self) -> int:
        """How many of the calibration examples a closed form is fitted on."""
        return self.calibration_examples * 3 // 4

    @property
    def closed_form(self) -> str | None:
        """``"bias"``, ``"least-squares"`` or ``None``."""
        first = self.method.split("+")[0]
        return first if first in ("bias", "least-squares") else None

    @property
    def trains(self) -> str | None:
        """``"finetune"`` or ``"distill"``, where the weights are trained."""
        last = self.method.split("+")[-1]
        return last if last in ("finetune", "distill") and self.epochs > 0 else None

    @property
    def needs_labels(self) -> bool:
        """Whether it is trained on labels."""
        return self.trains == "finetune" or (self.trains == "distill" and self.label_share > 0)


@dataclasses.dataclass(frozen=True)
class PlanSettings(_Settings):
    """How a plan for budgets is made, and bettered.

    Args:
        order: Name of the selector that orders the heads of each layer, one of
            :func:`cahp_plugin.selectors.selectors`. ``"obs"`` takes the order of Optimal Brain Surgeon on the layer's
            output projection; of every other, a head's place is the smallest number of heads at which it is kept.
            Neurons go by Optimal Brain Surgeon.
        refine: How many whole models are pruned, repaired and held against the dense one to better the sizes that the
            sum of the layers' losses gives; 0 leaves these as they are. Each takes as long as a repair.
        refine_examples: Further training examples, drawn by the seed, that these are held against the dense one on,
            besides those that the plan measures on: of few, the best of many sizes is the luckiest.
        refine_minutes: Minutes after which no further one is begun; with it, two runs may end with different sizes.
    """

    order: str = _setting("obs", "selector that orders the heads of each layer")
    refine: int = _setting(16, "whole repaired models that are compared to better the sizes; 0 for none", (0, _MOST))
    refine_examples: int = _setting(512, "further training examples, drawn, that these are compared on", (0, _MOST))
    refine_minutes: float | None = _setting(
        None, "minutes after which no further one is begun; two runs may then differ", (0.0, 1e6)
    )
