"""Linear layers that another pruner narrowed (the width of the feed-forward), on record in the model's config.

The map of heads gives the shape of every attention. What else may shrink without a trace in transformers' configs is
the inner width of the feed-forward, which Torch-Pruning's stock pruners cut on the same model. Its shapes are kept
beside the map, as ``cahp_config["linear_shapes"] = {path: [out_features, in_features]}``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from cahp_plugin.units.head_map import HEAD_MAP_KEY
from cahp_plugin.units.layers import find_layers
from cahp_plugin.units.linear import set_width, weight_of
from cahp_plugin.errors import CheckpointError
from cahp_plugin.prune.surgery import record_layers

SHAPES_KEY = "linear_shapes"
Shapes = dict[str, tuple[int, int]]


def linear_shapes(config: Any) -> Shapes:
    """Reads path -> ``(out_features, in_features)`` of the narrowed linear layers; empty where there are none.

    Raises:
        CheckpointError: The record is damaged.
    """
    found = config.get(HEAD_MAP_KEY) if isinstance(config, dict) else getattr(config, HEAD_MAP_KEY, None)
    entry = (found or {}).get(SHAPES_KEY, {})
    try:
        shapes = {str(path): (int(out), int(into)) for path, (out, into) in entry.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"`{SHAPES_KEY}` in config.json is damaged: {error!r}. Got {entry!r}.") from error
    for path, shape in shapes.items():
        if min(shape) < 1:
            raise CheckpointError(f"`{SHAPES_KEY}` in config.json is damaged: {path} has the shape {list(shape)}.")
    return shapes


def record_linear_shapes(model: Any, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Writes the shapes of narrowed linear layers into a model's config; no shapes remove an older record."""
    if getattr(model.config, HEAD_MAP_KEY, None) is None:
        if not shapes:
            return
        record_layers(model)
    entry = dict(getattr(without_linear_shapes(model.config), HEAD_MAP_KEY))
    if shapes:
        entry[SHAPES_KEY] = {path: list(shape) for path, shape in shapes.items()}
    setattr(model.config, HEAD_MAP_KEY, entry)


def without_linear_shapes(config: Any) -> Any:
    """A copy of a config without the record, which says what was narrowed when the model was saved before."""
    config = copy.deepcopy(config)
    entry = getattr(config, HEAD_MAP_KEY, None)
    if entry is not None:
        setattr(config, HEAD_MAP_KEY, {key: value for key, value in entry.items() if key != SHAPES_KEY})
    return config


def narrowed_linears(model: Any, expected: Any) -> Shapes:
    """Finds the linear layers whose shape is not what the config and the map of heads imply.

    Args:
        model: The model.
        expected: A model built from the config and the map of heads; may lie on the meta device.

    Returns:
        Path -> ``(out_features, in_features)`` in the model.

    Raises:
        CheckpointError: Something else has another shape, or is missing or too many: it could not be loaded again.
    """
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in expected.state_dict().items()}
    odd = sorted(set(ours) ^ set(theirs))
    if odd:
        raise CheckpointError(
            f"{type(model).__name__} can't be saved so that it loads again: its tensors are not those that its class "
            f"and config have ({', '.join(odd[:4])}{', ...' if len(odd) > 4 else ''}). Merge adapters and take added "
            "modules away first."
        )
    differing = {name for name in ours if ours[name] != theirs[name]}
    if not differing:
        return {}
    shapes: Shapes = {}
    for path, module in expected.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)) and differing & {f"{path}.weight", f"{path}.bias"}:
            shape = _shape(model.get_submodule(path))
            if shape[0] <= _shape(module)[0] and shape[1] <= _shape(module)[1]:
                shapes[path] = shape
                differing -= {f"{path}.weight", f"{path}.bias"}
    heads = [path for path in _projections(expected) if path in shapes]
    if heads:
        raise CheckpointError(
            f"{heads[0]} has the shape {list(shapes[heads[0]])}, which is not that of the heads that the map in "
            f"`config.{HEAD_MAP_KEY}` names. Whole heads can be removed, their channels not; after Torch-Pruning's "
            "stock pruner call `CAHPImportance.update_model(model)`."
        )
    if differing:
        some = ", ".join(
            f"{name} {list(ours[name])} (expected {list(theirs[name])})" for name in sorted(differing)[:3]
        )
        raise CheckpointError(
            f"{type(model).__name__} can't be saved so that it loads again: {some}. Only heads and the widths of "
            "linear layers (the feed-forward's inner width) can be recorded; the hidden size, embeddings and norms "
            "must stay as they are. Put those layers into the pruner's `ignored_layers`."
        )
    return shapes


def narrow_linears(model: Any, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Cuts linear layers to recorded shapes, in place; their weights are to be filled in afterwards.

    Raises:
        CheckpointError: The model has no such linear layer, or a smaller one.
    """
    modules = dict(model.named_modules())
    for path, (out, into) in shapes.items():
        module: Any = modules.get(path)
        if not isinstance(module, (nn.Linear, Conv1D)):
            raise CheckpointError(
                f"`{SHAPES_KEY}` in config.json names {path}, which is no linear layer of {type(model).__name__}."
            )
        full = _shape(module)
        if out > full[0] or into > full[1]:
            raise CheckpointError(
                f"`{SHAPES_KEY}` in config.json gives {path} the shape {[out, into]}; unpruned it has {list(full)}."
            )
        weight = weight_of(module).data[:out, :into]
        weight = weight.T if isinstance(module, Conv1D) else weight
        module.weight = nn.Parameter(weight.clone(), requires_grad=module.weight.requires_grad)
        set_width(module, out, outputs=True)
        set_width(module, into, outputs=False)
        if module.bias is not None:
            module.bias = nn.Parameter(module.bias.data[:out].clone(), requires_grad=module.bias.requires_grad)


def _shape(module: Any) -> tuple[int, int]:
    """``(out_features, in_features)`` of a linear layer, from its weight."""
    out, into = weight_of(module).shape
    return int(out), int(into)


def _projections(model: Any) -> list[str]:
    """Paths of the linear layers whose widths the map of heads sets."""
    return [
        ".".join(part for part in (layer.name, path) if part)
        for layer in find_layers(model)
        for path in (*layer.projections(), layer.spec.output)
    ]
