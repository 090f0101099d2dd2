"""CAHP as an importance for Torch-Pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from cahp_plugin.errors import PruningError, SelectionError
from cahp_plugin.prune.surgery import record_units
from cahp_plugin.selectors.cahp.selection import HeadSelection
from cahp_plugin.units import AttentionLayer, KeptSet, resolve
from cahp_plugin.units.find import find_layers
from cahp_plugin.units.linear import in_width


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
        selection: A :class:`HeadSelection`, a :class:`cahp_plugin.KeptSet` of heads, neurons or both, or a mapping of
            layer -> original indices of the heads to keep. A layer that is left out keeps all its units; an empty
            sequence keeps none. Neurons are for :class:`cahp_plugin.CAHPPruner` alone.

    Attributes:
        kept: The units to keep.

    Raises:
        SelectionError: The mapping holds something else than layer -> heads, or names a head twice.
    """

    def __init__(self, selection: HeadSelection | KeptSet | Mapping[int, Sequence[int]]) -> None:
        kept = selection.kept if isinstance(selection, HeadSelection) else selection
        if not isinstance(kept, (KeptSet, Mapping)):
            raise SelectionError(
                f"Expected a HeadSelection, a KeptSet or a mapping of layer -> heads to keep, got "
                f"{type(selection).__name__}."
            )
        self.kept = kept if isinstance(kept, KeptSet) else KeptSet(heads=kept)

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
        if self.kept.neurons:
            raise PruningError(
                "The selection names neurons. Torch-Pruning's own pruner compares them with heads by one threshold, "
                "so it would remove others; use cahp_plugin.CAHPPruner."
            )
        layers = find_layers(group._DG.model)
        kept = resolve(self.kept, layers).heads
        root, indices = group[0]
        layer = next((x for x in layers if x.heads and x.output is root.target.module), None)
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
        device = layer.output.weight.device
        return flags[torch.tensor(indices) // layer.size].to(device)  # type: ignore[arg-type]

    def update_model(self, model: Any) -> None:
        """Brings attributes and map in step after the *stock* pruner; :class:`CAHPPruner` does it by itself.

        Raises:
            PruningError: The model was not pruned to this selection.
        """
        for layer in find_layers(model):
            heads = self.kept.heads.get(layer.index, layer.heads)
            if tuple(heads) == layer.heads:
                continue
            width = in_width(layer.output)
            if width != len(heads) * layer.size:
                raise PruningError(
                    f"{layer.output_path} has {width} input channels; {len(heads)} heads of {layer.size} make "
                    f"{len(heads) * layer.size}. The pruner did not remove what was selected: check its arguments."
                )
            record_units(model, layer, heads)


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
