"""A model in fp32, and at rest, for the time of a recovery."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from cahp_plugin.units.state import kept_state, plain_calls

logger = logging.get_logger(__name__)

_HALF = (torch.float16, torch.bfloat16)


@contextlib.contextmanager
def in_fp32(*models: nn.Module) -> Iterator[None]:
    """Holds the weights of models in fp32, and casts each tensor back to its own type on leaving.

    In half precision most steps of an optimiser are smaller than the distance of two numbers: the weights would not
    move. Weights in fp32 already are left alone.

    Args:
        *models: The models; while the block runs they take floating-point inputs of any type.
    """
    places = [
        (module, store, name, tensor.dtype)
        for model in models
        for module in model.modules()
        for store in ("_parameters", "_buffers")
        for name, tensor in vars(module)[store].items()
        if tensor is not None and tensor.dtype in _HALF and not tensor.is_meta
    ]
    handles = []
    if places:
        kinds = " and ".join(sorted({str(dtype).removeprefix("torch.") for *_, dtype in places}))
        logger.info(f"The weights are in {kinds}: recovery computes in fp32 and casts them back.")
        handles = [model.register_forward_pre_hook(_float_inputs, with_kwargs=True) for model in models]
    try:
        for module, store, name, _ in places:
            _cast(module, store, name, torch.float32)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, store, name, dtype in places:
            _cast(module, store, name, dtype)


@contextlib.contextmanager
def at_rest(*models: nn.Module) -> Iterator[None]:
    """Models in eval mode and in fp32, without gradients, autocast or a cache, as measuring and fitting take them."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # or weights that are cast could never be trained again
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(next(models[0].parameters()).device.type, enabled=False))
        for model in models:
            stack.enter_context(kept_state(model))
            model.eval()
        stack.enter_context(plain_calls(*models))
        stack.enter_context(in_fp32(*models))
        yield


def _cast(module: nn.Module, store: str, name: str, dtype: torch.dtype) -> None:
    tensor = vars(module)[store][name]
    if store == "_buffers":  # moving a module to a device makes new ones
        vars(module)[store][name] = tensor.to(dtype)
    elif tensor.dtype != dtype:  # not a tied one for the second time
        tensor.grad = None
        tensor.data = tensor.data.to(dtype)


def _float_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    def cast(value: Any) -> Any:
        return value.float() if isinstance(value, torch.Tensor) and value.dtype in _HALF else value

    return tuple(map(cast, args)), {name: cast(value) for name, value in kwargs.items()}
