"""Models of the zoo with unequal numbers of heads and layers without any."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from zoo import zoo_inputs, zoo_model

from cahp_plugin import CAHPImportance, CAHPPruner
from cahp_plugin.units import attention_layers


def pruned(name: str, empty: Container[int] = (1,), **settings: Any) -> Any:
    """A pruned model of the zoo; ``empty`` are the layers that lose all heads, ``settings`` go to ``zoo_model``."""
    model = zoo_model(name, **settings)
    kept = {}
    for layer in attention_layers(model):
        units = layer.units[1:] if layer.index % 2 == 0 else layer.units[:1]
        kept[layer.index] = () if layer.index in empty else tuple(head for unit in units for head in unit)
    CAHPPruner(model, zoo_inputs(name), importance=CAHPImportance(kept)).step()
    model.config.architectures = [type(model).__name__]
    return model
