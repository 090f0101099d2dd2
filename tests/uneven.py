"""Models of the zoo with unequal numbers of heads and neurons and layers without any."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from zoo import zoo_inputs, zoo_model

from cahp_plugin import CAHPImportance, CAHPPruner, KeptSet
from cahp_plugin.units import prunable_layers


def pruned(name: str, empty: Container[int] = (1,), **settings: Any) -> Any:
    """A pruned model of the zoo; ``empty`` are the layers that lose all units, ``settings`` go to ``zoo_model``."""
    model = zoo_model(name, **settings)
    kept: dict[str, Any] = {"heads": {}, "neurons": {}}
    for layer in prunable_layers(model):
        units = layer.units[1:] if layer.index % 2 == 0 else layer.units[: max(1, len(layer.units) // 4)]
        kept[layer.noun][layer.index] = () if layer.index in empty else sum(units, ())
    CAHPPruner(model, zoo_inputs(name), importance=CAHPImportance(KeptSet(**kept))).step()
    model.config.architectures = [type(model).__name__]
    return model
