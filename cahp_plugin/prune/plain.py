"""Checkpoints that plain transformers 4.57 loads too, by the record of removed heads that it keeps itself."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from cahp_plugin._compat import TRANSFORMERS_MAJOR
from cahp_plugin.errors import UnsupportedModelError
from cahp_plugin.units.find import find_feed_forward, find_layers


def plain_pruned_heads(model: Any) -> dict[int, list[int]]:
    """Finds the ``config.pruned_heads`` with which transformers 4.57 by itself builds a model of this shape.

    Args:
        model: The pruned model, with no linear layer narrowed but those of its map.

    Returns:
        Layer -> removed heads. Empty where there is none: no head was removed, a layer has none left, neurons were
        removed, the class can't do it (DeBERTa-v2), or transformers is 5, which dropped the record.
    """
    can_remove = any(
        "_prune_heads" in vars(cls) for cls in type(model.base_model).__mro__ if cls is not PreTrainedModel
    )
    if TRANSFORMERS_MAJOR >= 5 or not type(model).__module__.startswith("transformers.models.") or not can_remove:
        return {}
    try:
        layers, feed_forward = find_layers(model), find_feed_forward(model)
    except UnsupportedModelError:
        return {}
    shared = layers[0].spec.reused  # ALBERT counts the layers that have weights of their own
    count = None if shared else getattr(model.config, "num_hidden_layers", None)
    whole = all(len(layer.present) == layer.num_original for layer in feed_forward)
    same = all(layer.spec.plain and layer.heads and layer.spec == layers[0].spec for layer in layers)
    if not whole or not same or (not shared and count != len(layers)):
        return {}
    removed = {
        layer.index: [head for head in range(layer.num_original) if head not in layer.heads] for layer in layers
    }
    return {index: heads for index, heads in removed.items() if heads}
