"""Masks: multiply the output of single heads or neurons without changing the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cahp_plugin.errors import DataError
from cahp_plugin.observe.batches import Batch
from cahp_plugin.units import KeptSet, PrunableLayer, layers_named, resolve
from cahp_plugin.units.state import call_options

#: ``losses(output, batch)``: of each example, ``(batch,)``.
Losses = Callable[[Any, Batch], Tensor]


@contextlib.contextmanager
def unit_masks(layers: Sequence[PrunableLayer], masks: Iterable[Tensor]) -> Iterator[None]:
    """Multiplies units' outputs by masks, at the input of each output projection, while the context is open.

    This place exists in every architecture and on both transformers majors (version 5 has no ``head_mask`` any more).

    Args:
        layers: Layers with units.
        masks: The mask of each over the units present (heads, the query heads of one key and value head, neurons), of
            shape ``(units,)`` or ``(batch, units)``.
    """
    with contextlib.ExitStack() as hooks:
        for layer, mask in zip(layers, masks, strict=True):
            hooks.enter_context(layer.output.register_forward_pre_hook(_mask_hook(layer, mask)))
        yield


def _mask_hook(layer: PrunableLayer, mask: Tensor) -> Any:
    shaped = torch.atleast_2d(mask)[:, None, :, None]

    def multiply(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        units = inputs[0].unflatten(-1, (-1, layer.unit_dim))
        return ((units * shaped).flatten(-2).to(inputs[0].dtype), *inputs[1:])

    return multiply


def mask_gradients(model: Any, layers: Sequence[PrunableLayer], batch: Batch, losses: Losses) -> tuple[Tensor, ...]:
    """Derivatives of losses by masks that heads and neurons are multiplied with, where the masks are 1.

    The masks have a batch axis: each example only touches its own row, so one forward and one backward pass of the
    summed losses give the gradient of each example's loss in its row.

    Args:
        model: The model, in eval mode.
        layers: Its layers, with a unit each at least.
        batch: Examples.
        losses: Of a batch.

    Returns:
        Of each layer, ``(batch, units)``, fp32 on the model's device.

    Raises:
        DataError: The loss is not a number, or has no gradient.
    """
    device = next(model.parameters()).device
    masks = [torch.ones(len(batch), len(layer.units), device=device, requires_grad=True) for layer in layers]
    with torch.inference_mode(False), torch.enable_grad(), unit_masks(layers, masks):
        loss = losses(model(**batch.inputs_on(device), **call_options(type(model))), batch).sum()
        if not torch.isfinite(loss):
            raise DataError(
                f"The loss is {loss.item()}: the model's outputs are not numbers. Check its weights and its dtype."
            )
        if not loss.requires_grad:
            raise DataError("The loss does not depend on the model's output by a gradient: nothing is salient.")
        return torch.autograd.grad(loss, masks, materialize_grads=True)


def unit_gradients(
    model: Any, layers: Sequence[PrunableLayer], batches: Iterable[Batch], losses: Losses
) -> dict[str, Tensor]:
    """The :func:`mask_gradients` of several batches.

    Args:
        model: The model, in eval mode.
        layers: Its layers; those without units are left out.
        batches: Examples.
        losses: Of a batch.

    Returns:
        Path of the output projection -> ``(examples, units)``.

    Raises:
        DataError: The loss is not a number, or has no gradient.
    """
    layers = [layer for layer in layers if layer.present]
    found = zip(*(mask_gradients(model, layers, batch, losses) for batch in batches), strict=True)
    return {layer.output_path: torch.cat(own) for layer, own in zip(layers, found, strict=True)}


@contextlib.contextmanager
def only_kept(model: nn.Module, kept: KeptSet | Mapping[int, Sequence[int]]) -> Iterator[None]:
    """Zeroes every unit that is not kept: what the pruned model computes, without pruning.

    Args:
        model: A supported model.
        kept: The units to keep, or a mapping of layer -> original indices of heads; layers that are not named keep
            all.

    Raises:
        SelectionError: A layer, head or neuron is not in the model, or a group is split.
        UnsupportedModelError: Neurons are named and the model's feed-forward is unknown.
    """
    kept = kept if isinstance(kept, KeptSet) else KeptSet(heads=kept)
    layers = layers_named(model, kept)
    wanted = resolve(kept, layers)
    masks = {}
    for layer in layers:
        units = set(getattr(wanted, layer.noun)[layer.index])
        if len(units) < len(layer.present):
            flags = [float(unit[0] in units) for unit in layer.units]
            masks[layer] = torch.tensor(flags).to(next(layer.output.parameters()))
    with unit_masks(list(masks), masks.values()):
        yield
