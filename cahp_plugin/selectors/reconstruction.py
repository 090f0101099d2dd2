"""Heads chosen by what the others can't make up for: greedy removal by the exact error of the refitted layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from cahp_plugin.selectors.ranking import head_count
from cahp_plugin.errors import ConfigError, PruningError
from cahp_plugin.selectors.elimination import eliminate
from cahp_plugin.prune import CAHPImportance
from cahp_plugin.observe.normal_equations import NormalEquations
from cahp_plugin.recover.state import plain_calls
from cahp_plugin.observe.streams import calibration_batches, layer_tokens
from cahp_plugin.units import AttentionLayer, attention_layers, kept_state
from cahp_plugin.units.linear import out_width, weight_of

logger = logging.get_logger(__name__)

#: Least ridge, relative to the mean square of a channel: a singular Gram matrix stays invertible.
_LEAST_RIDGE = 1e-10


class ReconstructionImportance(CAHPImportance):
    """Optimal Brain Surgeon for heads: removes, one after the other, the head whose loss a refit repairs best.

    In each layer the output projection is refitted by least squares to its own dense output after every removal (in
    closed form: only the inverse of the Gram matrix changes). The next head to go, of all layers, is the one whose
    removal adds least to the squared error over the variance of the residual stream behind its layer. No labels, no
    gradient. Follow it by :func:`cahp_plugin.recover_least_squares`, which does the refit that it counts on.

    After Hassibi and Stork 1993 (OBS), for blocks of weights as in Kurtic et al. 2023 (ZipLM, eq. 3).

    Args:
        model: The model; unchanged.
        dataloader: Dict batches; labels are not looked at.
        num_heads: Heads to keep, a count or a share in (0, 1).
        min_heads_per_layer: Heads that each layer keeps at least.
        num_examples: Examples used.
        ridge: Strength of a ridge, relative to the mean square of a channel; 1e-10 at least is taken, so that heads
            that copy each other, or too few tokens, have an answer.

    Attributes:
        kept: The heads to keep.
        errors: Layer -> relative error of the layer's refitted output at the end.

    Raises:
        SelectionError: The number does not fit the heads there are.
        ConfigError: ``ridge`` or ``num_examples`` is out of its range.
        DataError: There is no batch.
        PruningError: A layer has activations that are not finite.
    """

    def __init__(
        self,
        model: Any,
        dataloader: Iterable[Mapping[str, Any]],
        num_heads: int | float,
        *,
        min_heads_per_layer: int = 1,
        num_examples: int = 384,
        ridge: float = 1e-3,
    ) -> None:
        if not ridge >= 0 or num_examples < 1:
            raise ConfigError(
                f"`ridge` must be at least 0 and `num_examples` at least 1; got {ridge} and {num_examples}."
            )
        layers = [layer for layer in attention_layers(model) if layer.heads]
        present = sum(len(layer.heads) for layer in layers)
        least = sum(min(min_heads_per_layer, len(layer.heads)) for layer in layers)
        wanted = head_count(num_heads, present, least)
        with kept_state(model), plain_calls(model), torch.no_grad():
            model.eval()
            eliminations = _measure(model, layers, dataloader, num_examples, ridge)
        for _ in range(present - wanted):
            open_layers = [found for found in eliminations if len(found.heads) > min_heads_per_layer]
            min(open_layers, key=lambda found: found.cheapest[0]).remove()
        self.errors = {found.layer.index: found.error for found in eliminations}
        super().__init__({found.layer.index: found.heads for found in eliminations})


class _Elimination:
    """One layer's heads in the order in which they go, and how many are gone.

    Args:
        layer: The layer.
        gram: Centred Gram matrix of the heads' outputs, ridge included: ``(channels, channels)``, float64.
        scale: Variance of the residual stream, summed over tokens.
    """

    def __init__(self, layer: AttentionLayer, gram: Tensor, scale: float) -> None:
        found = eliminate(gram, weight_of(layer.output).detach().double().cpu(), layer.head_dim)
        self.layer = layer
        self.heads = list(layer.heads)
        self.error = 0.0
        gone = zip(found.order, found.costs.tolist(), strict=True)
        self._next = [(cost / scale, layer.heads[unit]) for unit, cost in gone][::-1]

    @property
    def cheapest(self) -> tuple[float, int]:
        """Cost of the next head to go, and its place in ``heads``."""
        if not self._next:
            return float("inf"), -1
        cost, head = self._next[-1]
        return cost, self.heads.index(head)

    def remove(self) -> None:
        """Removes the cheapest head; the others make up for it as well as they can."""
        cost, head = self._next.pop()
        self.heads.remove(head)
        self.error += cost


def _measure(
    model: Any,
    layers: list[AttentionLayer],
    dataloader: Iterable[Mapping[str, Any]],
    num_examples: int,
    ridge: float,
) -> list[_Elimination]:
    sums = {
        layer.index: NormalEquations(len(layer.heads) * layer.head_dim, out_width(layer.output)) for layer in layers
    }
    batches = calibration_batches(dataloader, model, num_examples)
    for batch in logging.tqdm(batches, desc="Measuring heads", unit="batch"):
        seen = layer_tokens(model, layers, batch)
        for layer in layers:
            found = seen[layer.output_path]
            if not bool(torch.isfinite(found.behind).all()):
                raise PruningError(f"{layer} has activations that are not finite.")
            sums[layer.index].add(found.context, found.behind)
    widest = max(layers, key=lambda layer: len(layer.heads), default=None)
    channels = len(widest.heads) * widest.head_dim if widest else 0
    tokens = sums[widest.index].count if widest else 0
    if tokens < 2 * channels:
        logger.warning(
            f"{tokens} tokens for {channels} channels: too few to tell the heads apart well. Give more examples "
            "(`num_examples`)."
        )
    eliminations = []
    for layer in layers:
        gram, variance = sums[layer.index].centred()
        strength = max(ridge, _LEAST_RIDGE) * float(gram.diagonal().mean()) or 1e-12
        eliminations.append(_Elimination(layer, gram + strength * torch.eye(len(gram)), variance or 1.0))
    return eliminations
