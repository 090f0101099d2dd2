"""Linear layers that another pruner narrowed (the width of the feed-forward), on record in the model's config.

The map gives the shape of every layer that this library pruned. What else may shrink without a trace in transformers'
configs is the inner width of the feed-forward, where Torch-Pruning's stock pruners cut it. Its shapes are kept beside
the map, as ``cahp_config["linear_shapes"] = {path: [out_features, in_features]}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cahp_plugin.errors import CheckpointError
from cahp_plugin.prune.origin import Origin, expected_shapes, state_shapes
from cahp_plugin.units.find import find_layers
from cahp_plugin.units.layers import join
from cahp_plugin.units.linear import LINEAR, keep_channels, weight_of
from cahp_plugin.units.record import RECORD_KEY

SHAPES_KEY = "linear_shapes"
Shapes = dict[str, tuple[int, int]]


def linear_shapes(config: Any) -> Shapes:
    """Reads path -> ``(out_features, in_features)`` of the narrowed linear layers; empty where there are none.

    Raises:
        CheckpointError: The record is damaged.
    """
    found = config.get(RECORD_KEY) if isinstance(config, dict) else getattr(config, RECORD_KEY, None)
    entry = (found or {}).get(SHAPES_KEY, {})
    try:
        shapes = {str(path): (int(out), int(into)) for path, (out, into) in entry.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"`{SHAPES_KEY}` in config.json is damaged: {error!r}. Got {entry!r}.") from error
    for path, shape in shapes.items():
        if min(shape) < 1:
            raise CheckpointError(f"`{SHAPES_KEY}` in config.json is damaged: {path} has the shape {list(shape)}.")
    return shapes


def with_linear_shapes(record: Mapping[str, Any], shapes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """A config's record with the shapes of narrowed linear layers; no shapes take an older entry out."""
    entry = {key: value for key, value in record.items() if key != SHAPES_KEY}
    return entry | ({SHAPES_KEY: {path: list(shape) for path, shape in shapes.items()}} if shapes else {})


def narrowed_linears(model: Any, origin: Origin) -> Shapes:
    """Finds the linear layers whose shape is not what the class, the config and the map of units imply.

    Args:
        model: The model.
        origin: Its shape before any pruning.

    Returns:
        Path -> ``(out_features, in_features)`` in the model.

    Raises:
        CheckpointError: Something else has another shape, or is missing or too many: it could not be loaded again.
    """
    ours, theirs = state_shapes(model), expected_shapes(model, origin)
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
    for path, module in model.named_modules():
        if isinstance(module, LINEAR) and differing & {f"{path}.weight", f"{path}.bias"}:
            shape, full = ours[f"{path}.weight"], theirs[f"{path}.weight"]
            if shape[0] <= full[0] and shape[1] <= full[1]:
                out, into = weight_of(module).shape
                shapes[path] = out, into
                differing -= {f"{path}.weight", f"{path}.bias"}
    paths = [
        join(layer.name, path)
        for layer in (find_layers(model) if shapes else ())
        for path in (*layer.inputs(), layer.spec.output)
    ]
    heads = [path for path in paths if path in shapes]
    if heads:
        raise CheckpointError(
            f"{heads[0]} has the shape {list(shapes[heads[0]])}, which is not that of the heads that the map in "
            f"`config.{RECORD_KEY}` names. Whole heads can be removed, their channels not; after Torch-Pruning's "
            "stock pruner call `CAHPImportance.update_model(model)`."
        )
    if differing:
        some = ", ".join(
            f"{name} {list(ours[name])} (expected {list(theirs[name])})" for name in sorted(differing)[:3]
        )
        raise CheckpointError(
            f"{type(model).__name__} can't be saved so that it loads again: {some}. Only heads, neurons and the "
            "widths of linear layers can be recorded; the hidden size, embeddings and norms must stay as they are. "
            "Put those layers into the pruner's `ignored_layers`."
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
        if not isinstance(module, LINEAR):
            raise CheckpointError(
                f"`{SHAPES_KEY}` in config.json names {path}, which is no linear layer of {type(model).__name__}."
            )
        full = tuple(weight_of(module).shape)
        if out > full[0] or into > full[1]:
            raise CheckpointError(
                f"`{SHAPES_KEY}` in config.json gives {path} the shape {[out, into]}; unpruned it has {list(full)}."
            )
        keep_channels(module, range(out), outputs=True)
        keep_channels(module, range(into), outputs=False)
