"""Checkpoints that plain transformers 4.57 loads too, by the record of removed heads that it keeps itself."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights

from cahp_plugin._compat import TRANSFORMERS_MAJOR, forget_pruned_heads
from cahp_plugin.units.head_map import HEAD_MAP_KEY
from cahp_plugin.units.layers import find_layers
from cahp_plugin.errors import UnsupportedModelError
from cahp_plugin.files import write_text
from cahp_plugin.prune.widths import linear_shapes


def plain_pruned_heads(model: Any) -> dict[int, list[int]]:
    """Finds the ``config.pruned_heads`` with which transformers 4.57 by itself builds a model of this shape.

    Nothing is assumed of the class: an empty model is built with the record, and every layer of it must have lost the
    same heads and have the same shapes.

    Returns:
        Layer -> removed heads. Empty where there is none: no head was removed, a layer has none left, a linear layer
        was narrowed, the class can't do it (DeBERTa-v2), or transformers is 5, which dropped the record.
    """
    if TRANSFORMERS_MAJOR >= 5 or linear_shapes(model.config):
        return {}
    try:
        layers = find_layers(model)
    except UnsupportedModelError:
        return {}
    removed = {
        layer.index: [head for head in range(layer.num_original_heads) if head not in layer.heads] for layer in layers
    }
    if not any(removed.values()) or not all(layer.heads for layer in layers):
        return {}
    record = {index: heads for index, heads in removed.items() if heads}
    config = copy.deepcopy(model.config)
    forget_pruned_heads(config)
    config.pruned_heads = copy.deepcopy(record)
    config._attn_implementation = "eager"
    if hasattr(config, HEAD_MAP_KEY):
        delattr(config, HEAD_MAP_KEY)
    try:
        # Only the parameters are empty: which channels go is worked out with real tensors.
        with init_empty_weights():
            built = type(model)(config)
    except (NotImplementedError, AttributeError):  # the class has no `_prune_heads`, or one that refuses
        return {}
    for layer in find_layers(built):
        if set(getattr(layer.block, "pruned_heads", ())) != set(removed[layer.index]):
            return {}
    ours, theirs = model.state_dict(), built.state_dict()
    same = ours.keys() == theirs.keys() and all(ours[name].shape == theirs[name].shape for name in ours)
    return record if same else {}


def write_pruned_heads(folder: Path, record: dict[int, list[int]]) -> None:
    """Adds the record to a saved ``config.json``, and takes another one away; the model in memory does not get it."""
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values.pop("pruned_heads", None)
    if record:
        values["pruned_heads"] = {str(layer): heads for layer, heads in record.items()}
    write_text(path, json.dumps(values, indent=2, sort_keys=True) + "\n")
