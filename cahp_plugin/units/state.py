"""A model's modes and flags, remembered and put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn


@contextlib.contextmanager
def kept_state(model: nn.Module) -> Iterator[None]:
    """Leaves every module's training mode and every parameter's ``requires_grad`` as they were."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextlib.contextmanager
def plain_calls(*models: nn.Module) -> Iterator[None]:
    """Lets models compute their outputs and nothing beside, whole sequences at a time, while the context is open.

    A cache would be filled again by every layer that is run again; what else is recorded would be kept.
    """
    modules = {id(module): module for model in models for module in model.modules()}.values()
    configs = {id(found): found for module in modules if (found := getattr(module, "config", None)) is not None}
    off: dict[str, Any] = {"use_cache": False, "output_hidden_states": False, "output_attentions": False}
    before = [(place, name, getattr(place, name)) for place in configs.values() for name in off
              if getattr(place, name, None)]  # fmt: skip
    chunks = [(place, "chunk_size_feed_forward", place.chunk_size_feed_forward) for place in modules
              if getattr(place, "chunk_size_feed_forward", 0)]  # fmt: skip
    try:
        for place, name, _ in (*before, *chunks):
            setattr(place, name, off.get(name, 0))
        yield
    finally:
        for place, name, value in (*before, *chunks):
            setattr(place, name, value)
