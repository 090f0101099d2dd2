"""Linear layers, whichever way round they keep their weights: ``torch.nn.Linear`` and transformers' ``Conv1D``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

LINEAR = (nn.Linear, Conv1D)


def weight_of(module: Any) -> Tensor:
    """Weight of a linear layer, shape ``(out_features, in_features)``; a view, not a copy."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


def out_width(module: Any) -> int:
    """Number of output channels."""
    return int(module.nf) if isinstance(module, Conv1D) else int(module.out_features)


def in_width(module: Any) -> int:
    """Number of input channels."""
    return int(module.nx) if isinstance(module, Conv1D) else int(module.in_features)


def keep_channels(module: Any, places: Sequence[int], *, outputs: bool) -> None:
    """Cuts a linear layer to some of its channels, in place, by plain slicing.

    Args:
        module: The layer.
        places: Channels to keep, in their new order; one may be named more than once.
        outputs: Whether they are output channels (and of the bias) or input channels.
    """
    index = torch.tensor(list(places), dtype=torch.long, device=module.weight.device)
    transposed = isinstance(module, Conv1D)
    module.weight = _select(module.weight, index, int(outputs == transposed))
    if outputs and module.bias is not None:
        module.bias = _select(module.bias, index, 0)
    names = ("nf", "nx") if transposed else ("out_features", "in_features")
    setattr(module, names[0 if outputs else 1], len(places))


def _select(parameter: nn.Parameter, index: Tensor, dim: int) -> nn.Parameter:
    return nn.Parameter(parameter.data.index_select(dim, index), requires_grad=parameter.requires_grad)
