"""Loads pruned checkpoints, exactly, as the classes that they were saved from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging

from cahp_plugin.errors import CAHPError, CheckpointError, ConfigError, UnsupportedModelError
from cahp_plugin.prune.certificate import trouble
from cahp_plugin.prune.checkpoint import HUB_ARGUMENTS, check_attention, load_config, model_class, shrinking
from cahp_plugin.prune.weights import check_weight_files, require_weights
from cahp_plugin.units import kept_set
from cahp_plugin.units.record import RECORD_KEY

logger = logging.get_logger(__name__)

#: What transformers, torch and safetensors raise for a checkpoint, a config or a setting that is wrong.
_LOADING_ERRORS = (
    OSError, RuntimeError, ValueError, SafetensorError, ImportError, KeyError, TypeError, AttributeError
)  # fmt: skip
_QUANTIZING = ("quantization_config", "load_in_8bit", "load_in_4bit")


def load_pruned(
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    **kwargs: Any,
) -> Any:
    """Loads a checkpoint that :func:`cahp_plugin.save_pruned` wrote, as the transformers class it was saved from.

    The model is built from its config, shrunk to its map of heads and its recorded widths, and then filled by
    ``from_pretrained``: what that does (``device_map``, ``attn_implementation``, sharded files, Hub ids) works here
    too. It is exact. A pruned model that ``model.save_pretrained`` or ``model.push_to_hub`` wrote loads as well. No
    code and no pickle that comes with a pruned checkpoint is run. Where a folder has a certificate of other weights, a
    warning says so.

    Args:
        path: Folder or Hub id. A checkpoint without a map is loaded plainly.
        dtype: Type of the weights; transformers' default without it.
        device: Where the model is moved after loading.
        **kwargs: Go to ``from_pretrained``. ``use_safetensors`` is true for a pruned checkpoint unless it is given.

    Returns:
        The model, in eval mode.

    Raises:
        CheckpointError: There is no checkpoint, it is damaged, lacks weights that the model needs, names files that
            are no plain ``*.safetensors`` or an unknown attention implementation, or its map and tensors disagree.
        ConfigError: ``device`` can't be used, is given together with ``device_map``, ``trust_remote_code`` is true, or
            ``attn_implementation`` is unknown.
        UnsupportedModelError: A pruned checkpoint is quantized, or is to be quantized while it is loaded.
    """
    name = os.fspath(path)
    _check_arguments(device, kwargs)
    check_attention(kwargs)
    config = kwargs.get("config")
    if config is None:
        config = load_config(name, **{key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs})
    kept, cls = kept_set(config).heads, model_class(config, name)
    if kept:
        if getattr(config, "quantization_config", None) is not None or any(kwargs.get(key) for key in _QUANTIZING):
            raise UnsupportedModelError(
                f"{name} was pruned by cahp-plugin and is quantized, or was to be quantized while it is loaded; "
                "expected floating-point weights. Load it without quantization and quantize the loaded model, or "
                "export it (`cahp export --quantize`)."
            )
        kwargs.setdefault("use_safetensors", True)
        if kwargs.get("device_map") is not None and not all(kept.values()):
            # transformers 4.57 leaves buffers of offloaded layers without heads on the meta device
            kwargs.setdefault("offload_buffers", True)
    else:
        logger.info(f"{name} was not pruned by cahp-plugin; it is loaded as it is.")
    if dtype is not None:
        kwargs["dtype"] = dtype
    check_weight_files(name, config, kwargs)
    try:
        model, report = shrinking(cls).from_pretrained(name, output_loading_info=True, **kwargs)
    except CAHPError:
        raise
    except _LOADING_ERRORS as error:
        raise CheckpointError(f"{name} can't be loaded: {_first_lines(error)} {_advice(name, kwargs)}") from error
    model.__class__ = cls
    require_weights(name, model, report, pruned=bool(kept))
    folder = Path(name, kwargs.get("subfolder") or "")
    if folder.is_dir() and (wrong := trouble(folder)):
        logger.warning(f"{name}: {wrong}")
    return model if device is None else model.to(device)


def _check_arguments(device: torch.device | str | None, kwargs: dict[str, Any]) -> None:
    if kwargs.pop("trust_remote_code", False):
        raise ConfigError(
            "`trust_remote_code=True`: pruned models are classes of transformers, and load_pruned runs no other code. "
            "Load such a model with transformers' own from_pretrained."
        )
    if device is None:
        return
    if kwargs.get("device_map") is not None:
        raise ConfigError(
            f"`device={device!r}` and `device_map={kwargs['device_map']!r}` both say where the model lies. Pass one."
        )
    try:
        kind = torch.device(device).type
        torch.empty(0, device=device)  # before gigabytes are read
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(f"`device={device!r}` can't be used: {_first_lines(error)}") from error
    if kind == "meta":
        raise ConfigError(
            "`device='meta'` would drop the weights that are loaded. For the shape alone build the model with "
            "`cahp_plugin.prune.checkpoint.untrained_model(config, device='meta')`."
        )


def _advice(name: str, kwargs: dict[str, Any]) -> str:
    folder = Path(name, kwargs.get("subfolder") or "")
    if kwargs.get("use_safetensors") and any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        return (
            "Its weights are a pickle (.bin) and no .safetensors; reading a pickle is not safe. If you trust where it "
            "comes from, pass `use_safetensors=False`, and save it again with save_pruned."
        )
    return (
        f"If it says that shapes differ, `{RECORD_KEY}` in config.json and the tensors do not belong together; if a "
        "file can't be read, copy it again."
    )


def _first_lines(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else text[:400] + "..."
