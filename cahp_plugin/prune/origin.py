"""The shape of a model before any pruning. It stays with the model, so that saving builds no second one."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from transformers.pytorch_utils import Conv1D

from cahp_plugin.units import PrunableLayer, kept_set
from cahp_plugin.units.adapters import BiasOnly
from cahp_plugin.units.find import find_feed_forward, find_layers
from cahp_plugin.units.linear import out_width
from cahp_plugin.units.record import RECORD_KEY

_ATTRIBUTE = "_cahp_origin"
Shapes = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a model's class and config make.

    Attributes:
        shapes: Name -> shape of each tensor of the state dict.
        parameters: Names of those that are parameters, tied ones with all their names.
        config: The config, as text.
    """

    shapes: Shapes
    parameters: frozenset[str]
    config: str


def state_shapes(model: Any) -> Shapes:
    """Name -> shape of each tensor of a model's state dict."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def set_origin(model: Any, unpruned: Any) -> Origin:
    """Keeps with a model the shape of the model as its class makes it, which may be the same object."""
    names = frozenset(name for name, _ in unpruned.named_parameters(remove_duplicate=False))
    origin = Origin(state_shapes(unpruned), names, _text(unpruned.config))
    setattr(model, _ATTRIBUTE, origin)
    return origin


def kept_origin(model: Any) -> Origin | None:
    """What was kept; ``None`` where nothing was, or where the config has been changed since (a larger vocabulary)."""
    found = vars(model).get(_ATTRIBUTE)
    return found if isinstance(found, Origin) and found.config == _text(model.config) else None


def _text(config: Any) -> str:
    """A config without what says nothing of shapes, and changes when a model is saved."""
    values = config.to_dict()
    aside = (RECORD_KEY, "pruned_heads", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")
    kept = {key: value for key, value in values.items() if key not in aside and not key.startswith("_")}
    return json.dumps(kept, sort_keys=True, default=str)


def num_parameters(model: Any, origin: Origin) -> int:
    """Number of parameters that a model had before any pruning; tied ones count once."""
    once = {name for name, _ in model.named_parameters()}
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - once
    return sum(math.prod(origin.shapes[name]) for name in (origin.parameters - tied) & origin.shapes.keys())


def original_width(model: Any, layer: PrunableLayer) -> int:
    """Neurons that a feed-forward layer had before any pruning, by this library or another."""
    origin = kept_origin(model)
    if origin is None:
        return layer.num_original
    return math.prod(origin.shapes[f"{layer.output_path}.weight"]) // out_width(layer.output)


def expected_shapes(model: Any, origin: Origin) -> Shapes:
    """The shapes that a model's tensors have by their original ones and by its map of heads and neurons."""
    shapes, kept = dict(origin.shapes), kept_set(model.config)
    if not kept.heads:
        return shapes
    layers = [layer for layer in (find_feed_forward(model) if kept.neurons else ())
              if kept.neurons.get(layer.index) == layer.present]  # fmt: skip
    for layer in (*find_layers(model), *layers):
        for path in layer.inputs():
            weight, bias = (f"{layer.name}.{path}.{kind}" for kind in ("weight", "bias"))
            if weight not in shapes:  # not every block has every projection
                continue
            if not layer.present:
                del shapes[weight]
                shapes.pop(bias, None)
                continue
            width = layer.expected_width(path)
            transposed = isinstance(layer.block.get_submodule(path), Conv1D)
            shapes[weight] = _resized(shapes[weight], width, int(transposed))
            if bias in shapes:
                shapes[bias] = (width,)
        weight, width = f"{layer.output_path}.weight", len(layer.present) * layer.size
        if isinstance(layer.output, BiasOnly):
            shapes[weight] = (layer.output.out_features, 0)
        else:
            shapes[weight] = _resized(shapes[weight], width, int(not isinstance(layer.output, Conv1D)))
    return shapes


def _resized(shape: tuple[int, ...], width: int, dim: int) -> tuple[int, ...]:
    return (*shape[:dim], width, *shape[dim + 1 :])
