"""What goes through a model's attention layers, token by token, without the rest of the forward pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cahp_plugin.observe.batches import Batch, read_inputs
from cahp_plugin.observe.tokens import query_side
from cahp_plugin.units import AttentionLayer


@dataclasses.dataclass(frozen=True)
class Tokens:
    """One attention layer's part of the residual stream, at the real tokens of a batch.

    Attributes:
        context: Concatenated outputs of the heads, the output projection's input: ``(tokens, heads * head_dim)``.
        behind: Residual stream behind the layer, before it is normalised: what came in plus what the projection adds;
            the projection's output alone where more than an addition stands between it and the stream;
            ``(tokens, hidden size)``.
    """

    context: Tensor
    behind: Tensor


class _Enough(Exception):
    """Ends a forward pass behind the last layer that was asked for."""


def attention_tokens(model: Any, layers: Sequence[AttentionLayer], batch: Batch) -> dict[int, Tokens]:
    """Runs a model up to the last of some attention layers and returns what went through them.

    Args:
        model: A model, in eval mode, outside of autograd.
        layers: Its layers to look at.
        batch: Examples.

    Returns:
        Layer index -> its tokens; of a block that is used several times, all of them.
    """
    found: dict[int, list[Tokens]] = {}
    incoming: dict[int, Any] = {}
    handles = []
    ends = not any(layer.spec.reused for layer in layers)

    def hook(layer: AttentionLayer) -> None:
        def remember(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            incoming[layer.index] = args[0] if args else kwargs.get("hidden_states", kwargs.get("query"))

        def collect(module: Any, args: tuple[Any, ...], output: Tensor) -> None:
            mask = query_side(layer, batch, args[0].shape[1]).mask.to(output.device)
            behind = output if layer.index not in incoming else incoming.pop(layer.index) + output
            found.setdefault(layer.index, []).append(Tokens(args[0][mask], behind[mask]))
            if ends and len(found) == len(layers):
                raise _Enough

        stream = layer.stream(model)
        if stream is not None:
            handles.append(stream.register_forward_pre_hook(remember, with_kwargs=True))
        handles.append(layer.output.register_forward_hook(collect))

    for layer in layers:
        hook(layer)
    try:
        model(**batch.inputs_on(model.device))
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return {
        index: Tokens(torch.cat([part.context for part in parts]), torch.cat([part.behind for part in parts]))
        for index, parts in found.items()
    }


def calibration_batches(dataloader: Iterable[Mapping[str, Any]], model: Any, num_examples: int) -> list[Batch]:
    """The first examples of a data loader, in its batches.

    Args:
        dataloader: Dict batches; labels are not needed.
        model: The model that will see them.
        num_examples: How many.

    Raises:
        DataError: There is none, or an example has no real token.
    """
    batches: list[Batch] = []
    left = num_examples
    for batch in read_inputs(dataloader, model):
        batches.append(batch if len(batch.mask) <= left else batch.rows(torch.arange(left)))
        left -= len(batches[-1].mask)
        if not left:
            break
    return batches
