"""A model's modes, flags and settings, remembered and put back."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Iterable, Iterator
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
def switched_off(places: Iterable[tuple[Any, str]]) -> Iterator[None]:
    """Holds attributes, of objects and by their names, that are there, and true or not 0, at ``False`` or 0."""
    before = [(place, name, getattr(place, name)) for place, name in places if getattr(place, name, None)]
    try:
        for place, name, value in before:
            setattr(place, name, type(value)())
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)


def configs_of(*models: nn.Module) -> list[Any]:
    """The configs of models and of their parts, each once."""
    found = [getattr(module, "config", None) for model in models for module in model.modules()]
    return list({id(config): config for config in found if config is not None}.values())


@contextlib.contextmanager
def plain_calls(*models: nn.Module) -> Iterator[None]:
    """Lets models compute their outputs and nothing beside, whole sequences at a time, while the context is open.

    A cache would be filled again by every layer that is run again; what else is recorded would be kept.
    """
    beside = ("use_cache", "output_hidden_states", "output_attentions")
    settings = [(config, name) for config in configs_of(*models) for name in beside]
    modules = {module for model in models for module in model.modules()}
    with switched_off([*settings, *((module, "chunk_size_feed_forward") for module in modules)]):
        yield


def call_options(model_class: Any) -> dict[str, Any]:
    """Settings of a call that is to compute outputs and nothing beside: no key-value cache, as in a graph."""
    return {"use_cache": False} if "use_cache" in inspect.signature(model_class.forward).parameters else {}


def fingerprint_of_model(model: Any) -> str:
    """First 16 digits of the SHA-256 of a model's tensors and their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]
