"""CAHP as an importance for Torch-Pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from cahp_plugin.units import AttentionLayer
from cahp_plugin.units.layers import find_layers
from cahp_plugin.units.linear import in_width
from cahp_plugin.errors import PruningError, SelectionError
from cahp_plugin.method.selection import HeadSelection
from cahp_plugin.prune.surgery import record_heads


class CAHPImportance(tp.importance.Importance):
    """Importance of attention heads as selected by CAHP: 1 for the channels of a kept head, 0 for the others.

    With :class:`cahp_plugin.CAHPPruner` exactly the selected heads stay. It also works in the stock
    ``tp.pruner.BasePruner`` with these arguments, which make its global threshold fall between 0 and 1::

        importance = CAHPImportance(selection)
        pruner = tp.pruner.BasePruner(
            model, example_inputs, importance=importance, global_pruning=True, pruning_ratio=0.5,
            head_pruning_ratio=1e-3, prune_num_heads=True, prune_head_dims=False,
            num_heads=importance.stock_num_heads(model), out_channel_groups={}, in_channel_groups={},
        )
        pruner.step()
        importance.update_model(model)     # the attributes and the map that the stock pruner does not know of

    The stock pruner can't empty a layer, can't prune grouped queries, fused projections (GPT-2, ModernBERT) or layers
    that share a position bias (T5, MPNet) and, asked to remove nothing, removes nothing in silence; all raise here.

    Args:
        selection: A :class:`HeadSelection`, or a mapping of layer -> original indices of the heads to keep. A layer
            that the mapping leaves out keeps all its heads; an empty sequence keeps none.

    Raises:
        SelectionError: The mapping holds something else than layer -> heads, or names a head twice.
    """

    def __init__(self, selection: HeadSelection | Mapping[int, Sequence[int]]) -> None:
        mapping = selection.kept if isinstance(selection, HeadSelection) else selection
        if not isinstance(mapping, Mapping):
            raise SelectionError(
                f"Expected a HeadSelection or a mapping of layer -> heads to keep, got {type(selection).__name__}."
            )
        self.kept: dict[int, tuple[int, ...]] = {}
        for layer, heads in mapping.items():
            try:
                indices = sorted(int(head) for head in heads)
                self.kept[int(layer)] = tuple(indices)
            except (TypeError, ValueError) as error:
                raise SelectionError(
                    f"Layer {layer!r}: expected a sequence of head indices, got {heads!r}."
                ) from error
            if len(set(indices)) != len(indices):
                raise SelectionError(f"Layer {layer} names a head twice: {indices}.")

    def resolve(self, layers: Sequence[AttentionLayer]) -> dict[int, tuple[int, ...]]:
        """Checks the selection against a model's layers.

        Args:
            layers: From :func:`cahp_plugin.units.attention_layers`.

        Returns:
            Layer -> original indices of the heads to keep, for every layer.

        Raises:
            SelectionError: A layer is not there, or a head is not there (any more).
        """
        unknown = sorted(set(self.kept) - {layer.index for layer in layers})
        if unknown:
            raise SelectionError(f"The selection names layers {unknown}; the model has layers 0 to {len(layers) - 1}.")
        resolved = {}
        for layer in layers:
            heads = self.kept.get(layer.index, layer.heads)
            missing = sorted(set(heads) - set(layer.heads))
            if missing:
                gone = [head for head in missing if 0 <= head < layer.num_original_heads]
                why = "removed before" if gone == missing else f"indices go from 0 to {layer.num_original_heads - 1}"
                raise SelectionError(
                    f"Layer {layer.index} has no head {', '.join(map(str, missing))} ({why}); it has the heads "
                    f"{list(layer.heads)}."
                )
            split = [unit for unit in layer.units if 0 < len(set(unit) & set(heads)) < len(unit)]
            if split:
                raise SelectionError(
                    f"Layer {layer.index} keeps {sorted(set(heads) & set(split[0]))} of the heads {list(split[0])}, "
                    "which share a key and value head: they stay or go together. To choose among them, give each its "
                    "own keys and values first: `cahp_plugin.prune.duplicate_kv_heads(model)`."
                )
            resolved[layer.index] = tuple(heads)
        return resolved

    def stock_num_heads(self, model: nn.Module) -> dict[nn.Module, int]:
        """The ``num_heads`` argument of the stock pruner: query, key and value projection -> heads.

        Raises:
            PruningError: The stock pruner can't prune heads of this architecture.
        """
        layers = [layer for layer in find_layers(model) if layer.heads]
        for layer in layers:
            _check_stock(layer)
        return {module: len(layer.heads) for layer in layers for module in layer.projections().values()}

    @torch.no_grad()
    def __call__(self, group: tp.dependency.Group) -> torch.Tensor | None:
        """Scores a group of the stock pruner.

        Args:
            group: A group rooted at the input channels of an output projection, or any other.

        Returns:
            0 or 1 for each channel of the root, shape ``(channels,)``; ``None`` for groups without heads, which the
            pruner then leaves alone.

        Raises:
            PruningError: The stock pruner would drop the request in silence.
            SelectionError: The selection does not fit the model.
        """
        layers = find_layers(group._DG.model)
        kept = self.resolve(layers)
        root, indices = group[0]
        layer = next((x for x in layers if x.heads and x.module("output") is root.target.module), None)
        if layer is None or not group._DG.is_in_channel_pruning_fn(root.handler):
            return None
        if all(kept[x.index] == x.heads for x in layers):
            raise PruningError("The selection keeps every head that the model has: there is nothing to remove.")
        if not kept[layer.index]:
            raise PruningError(
                f"Layer {layer.index} keeps no head. Torch-Pruning's own pruner can't empty a layer; use "
                "cahp_plugin.CAHPPruner, or select with `min_heads_per_layer=1`."
            )
        _check_stock(layer)
        flags = torch.tensor([float(head in kept[layer.index]) for head in layer.heads])
        device = layer.module("output").weight.device
        return flags[torch.tensor(indices) // layer.head_dim].to(device)  # type: ignore[arg-type]

    def update_model(self, model: Any) -> None:
        """Brings attributes and map in step after the *stock* pruner; :class:`CAHPPruner` does it by itself.

        Raises:
            PruningError: The model was not pruned to this selection.
        """
        for layer in find_layers(model):
            heads = self.kept.get(layer.index, layer.heads)
            if tuple(heads) == layer.heads:
                continue
            width = in_width(layer.module("output"))
            if width != len(heads) * layer.head_dim:
                raise PruningError(
                    f"{layer.path('output')} has {width} input channels; {len(heads)} heads of {layer.head_dim} make "
                    f"{len(heads) * layer.head_dim}. The pruner did not remove what was selected: check its arguments."
                )
            record_heads(model, layer, heads)


def _check_stock(layer: AttentionLayer) -> None:
    reasons = {
        "its query heads share key and value heads": layer.group_size > 1,
        "its query, key and value are one projection": layer.spec.fused,
        "its layers share a position bias": layer.spec.shared_bias,
    }
    reason = next((text for text, holds in reasons.items() if holds), None)
    if reason is not None:
        raise PruningError(
            f"Torch-Pruning's own pruner can't remove heads from {layer.name}: {reason}. Use cahp_plugin.CAHPPruner."
        )
