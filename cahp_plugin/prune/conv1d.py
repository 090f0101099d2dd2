"""Torch-Pruning's handler of transformers' ``Conv1D``: a linear layer that keeps its weight the other way round."""

from __future__ import annotations

from collections.abc import Sequence

from torch_pruning.pruner.function import BasePruningFunc
from transformers.pytorch_utils import Conv1D

from cahp_plugin.units.linear import in_width, keep_channels, out_width


class Conv1DPruner(BasePruningFunc):
    """Prunes a ``Conv1D``, for ``customized_pruners={Conv1D: Conv1DPruner()}`` of Torch-Pruning's pruners."""

    TARGET_MODULES = Conv1D

    def prune_out_channels(self, layer: Conv1D, idxs: Sequence[int]) -> Conv1D:
        """Removes the output channels ``idxs``, in place."""
        return _without(layer, idxs, outputs=True)

    def prune_in_channels(self, layer: Conv1D, idxs: Sequence[int]) -> Conv1D:
        """Removes the input channels ``idxs``, in place."""
        return _without(layer, idxs, outputs=False)

    def get_out_channels(self, layer: Conv1D) -> int:
        """Number of output channels."""
        return out_width(layer)

    def get_in_channels(self, layer: Conv1D) -> int:
        """Number of input channels."""
        return in_width(layer)


def _without(layer: Conv1D, idxs: Sequence[int], *, outputs: bool) -> Conv1D:
    width = out_width(layer) if outputs else in_width(layer)
    keep_channels(layer, sorted(set(range(width)) - set(idxs)), outputs=outputs)
    return layer
