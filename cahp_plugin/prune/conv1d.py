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
        gone = set(idxs)
        keep_channels(layer, [place for place in range(out_width(layer)) if place not in gone], outputs=True)
        return layer

    def prune_in_channels(self, layer: Conv1D, idxs: Sequence[int]) -> Conv1D:
        """Removes the input channels ``idxs``, in place."""
        gone = set(idxs)
        keep_channels(layer, [place for place in range(in_width(layer)) if place not in gone], outputs=False)
        return layer

    def get_out_channels(self, layer: Conv1D) -> int:
        """Number of output channels."""
        return out_width(layer)

    def get_in_channels(self, layer: Conv1D) -> int:
        """Number of input channels."""
        return in_width(layer)
