"""The gradient of each example's loss by a mask on every unit of a model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from cahp_plugin.observe.batches import Batch
from cahp_plugin.units import PrunableLayer
from cahp_plugin.units.state import call_options

#: ``losses(output, batch)``: of each example, ``(batch,)``.
Losses = Callable[[Any, Batch], Tensor]


def unit_gradients(
    model: Any, layers: Sequence[PrunableLayer], batches: Iterable[Batch], losses: Losses
) -> dict[str, Tensor]:
    """Derivatives of losses by masks that heads and neurons are multiplied with, where the masks are 1.

    Args:
        model: The model, in eval mode.
        layers: Its layers; those without units are left out.
        batches: Examples, on the model's device.
        losses: Of a batch.

    Returns:
        Path of the output projection -> ``(examples, units)``, fp32 on the model's device.
    """
    layers = [layer for layer in layers if layer.present]
    found: dict[str, list[Tensor]] = {layer.output_path: [] for layer in layers}
    masks: dict[str, Tensor] = {}

    def multiply(layer: PrunableLayer, batch: Batch) -> Callable[..., tuple[Any, ...]]:
        def before(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            seen = args[0]
            if layer.output_path not in masks:  # a block that serves several depths has one
                masks[layer.output_path] = torch.ones(
                    len(batch), len(layer.units), device=seen.device, requires_grad=True
                )
            spread = masks[layer.output_path].to(seen.dtype).repeat_interleave(layer.unit_dim, dim=1)[:, None]
            return ((seen.reshape(len(batch), -1, seen.shape[-1]) * spread).reshape(seen.shape), *args[1:])

        return before

    for batch in batches:
        masks.clear()
        with contextlib.ExitStack() as hooks, torch.inference_mode(False), torch.enable_grad():
            for layer in layers:
                hooks.callback(layer.output.register_forward_pre_hook(multiply(layer, batch)).remove)
            output = model(**batch.inputs, **call_options(type(model)))
            gradients = torch.autograd.grad(losses(output, batch).sum(), [masks[path] for path in found])
        for path, gradient in zip(found, gradients, strict=True):
            found[path].append(gradient.float())
    return {path: torch.cat(parts) for path, parts in found.items()}
