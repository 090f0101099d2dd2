"""What a checkpoint describes besides its weights: config, class, tokenizer, and the model's shape."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.utils import cached_file

from cahp_plugin._compat import forget_pruned_heads
from cahp_plugin.errors import CheckpointError, ConfigError
from cahp_plugin.prune.origin import Origin, kept_origin, set_origin
from cahp_plugin.prune.surgery import duplicate_layer, shrink_layer
from cahp_plugin.prune.widths import linear_shapes, narrow_linears
from cahp_plugin.units import head_entries, neuron_entries
from cahp_plugin.units.find import find_feed_forward, find_layers
from cahp_plugin.units.record import RECORD_KEY, HeadEntry, NeuronEntry

#: Arguments of ``from_pretrained`` that say where on the Hub, or in its cache, a file is looked for.
HUB_ARGUMENTS = ("revision", "subfolder", "token", "cache_dir", "local_files_only", "force_download", "proxies")


def load_config(name: str | os.PathLike[str], **kwargs: Any) -> Any:
    """Loads the config of a checkpoint. Code that comes with a checkpoint is never run.

    Raises:
        CheckpointError: There is none, it can't be read, or it names an attention implementation that is unknown: with
            the package `kernels` installed, transformers would take it for code to download and run.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, **kwargs, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RecursionError) as error:
        raise CheckpointError(f"{name}: no config.json that can be read: {error}") from error
    # Transformers overlooks some of what the file holds, on one major or another.
    raw = find_file(name, "config.json", kwargs)
    values = json.loads(Path(raw).read_text(encoding="utf-8")) if raw is not None else {}
    for key, value in _unknown_attention({"config.json": values, "config": config}):
        raise CheckpointError(f"{name}: config.json has `{key}`: {value!r}. {_known_attention()}")
    return config


def find_file(name: str | os.PathLike[str], file_name: str, arguments: Mapping[str, Any]) -> str | None:
    """Path of a checkpoint's file, downloaded where the checkpoint is on the Hub; ``None`` where there is none.

    Args:
        name: Folder or Hub id.
        file_name: Plain name.
        arguments: What ``from_pretrained`` is called with.
    """
    hub = {key: arguments[key] for key in HUB_ARGUMENTS if arguments.get(key) is not None}
    quiet = dict.fromkeys(("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors"), False)
    try:
        found: str | None = cached_file(name, file_name, **hub, **quiet)
    except OSError:  # no such repository: from_pretrained says so
        return None
    return found


_ATTENTION_KEYS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")


def check_attention(arguments: Mapping[str, Any]) -> None:
    """Checks ``attn_implementation`` among the arguments of ``from_pretrained``.

    Raises:
        ConfigError: It is unknown.
    """
    for key, value in _unknown_attention({key: arguments[key] for key in _ATTENTION_KEYS if key in arguments}):
        raise ConfigError(f"`{key}` is {value!r}. {_known_attention()}")


def _known_attention() -> str:
    return (
        f"Known attention implementations are {', '.join(_attention_names())}. Code on the Hub is not run; your own "
        "can be registered with `transformers.AttentionInterface.register`."
    )


def _attention_names() -> list[str]:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return sorted({"eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()})


def _unknown_attention(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys and values of a config, and of the configs in it, that name an unknown attention implementation."""
    for key, value in values.items():
        if key in _ATTENTION_KEYS:
            # One for all parts of a model, or one for each.
            names = list(value.values()) if isinstance(value, Mapping) else [value]
            given, known = [name for name in names if name is not None], _attention_names()
            yield from ((key, name) for name in given if str(name).removeprefix("paged|") not in known)
        elif isinstance(value, (PretrainedConfig, dict)):
            yield from _unknown_attention(value if isinstance(value, dict) else vars(value))


def model_class(config: Any, name: str) -> type[Any]:
    """The transformers class that a config names.

    Raises:
        CheckpointError: Transformers has no such class, or it is one for another kind of config.
    """
    import transformers

    class_name = (config.architectures or [None])[0]
    cls = class_named(config, class_name) if isinstance(class_name, str) else None
    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        raise CheckpointError(
            f"{name}: config.json names the class {class_name!r}, which is no model class of transformers, nor one "
            "registered with its `AutoModel...` classes."
        )
    wanted = getattr(cls, "config_class", None)
    if isinstance(wanted, type) and not isinstance(config, wanted):
        raise CheckpointError(
            f"{name}: config.json describes a {config.model_type!r} model ({type(config).__name__}) and names the "
            f"class {class_name}, which is built from {wanted.__name__}. One of the two was changed; restore it."
        )
    return cls


def class_named(config: Any, class_name: str) -> Any:
    """A class of transformers, or one registered by ``AutoModelFor....register(config_class, model_class)``.

    Returns:
        The class, or ``None`` where there is no such.
    """
    import transformers
    from transformers.models.auto import modeling_auto

    if hasattr(transformers, class_name):
        return getattr(transformers, class_name)
    for auto in vars(modeling_auto).values():
        extra = getattr(getattr(auto, "_model_mapping", None), "_extra_content", {})
        cls = extra.get(type(config))
        if getattr(cls, "__name__", None) == class_name:
            return cls
    return None


def untrained_model(config: Any, *, device: str = "cpu") -> Any:
    """Builds a model with random weights and eager attention, of the class and the shape that a config names.

    Args:
        config: The config, with the map of heads of a pruned model.
        device: Where its parameters lie; on ``"meta"`` they have shapes only and cost nothing.

    Raises:
        CheckpointError: Transformers has no such class, or the map of heads does not fit it.
    """
    return model_of_shape(model_class(config, "The config"), config, device=device)


def model_of_shape(cls: type[Any], config: Any, *, device: str = "meta") -> Any:
    """As :func:`untrained_model`, of a given class."""
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    with torch.device(device) if device != "cpu" else contextlib.nullcontext():
        model = shrinking(cls)(config)
    model.__class__ = cls
    return model.eval()


def origin_of(model: Any) -> Origin | None:
    """The shape that a model has by its class and config, unpruned.

    It is worked out once, on a copy without weights, where this library has neither loaded nor pruned the model yet.

    Returns:
        The shape; ``None`` where the class is none of transformers, nor registered with it.
    """
    found = kept_origin(model)
    if found is None and class_named(model.config, type(model).__name__) is type(model):
        config = copy.deepcopy(model.config)
        forget_pruned_heads(config)
        vars(config).pop(RECORD_KEY, None)
        found = set_origin(model, model_of_shape(type(model), config))
    return found


def shrinking(cls: type[Any]) -> type[Any]:
    """A subclass whose fresh instances have the shape that their config records, for ``from_pretrained`` to fill."""

    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        entries, neurons, shapes = head_entries(config), neuron_entries(config), linear_shapes(config)
        record = vars(config).pop(RECORD_KEY, None)
        if entries:
            forget_pruned_heads(config)  # transformers' own record of the same heads would have them removed twice
        try:
            cls.__init__(self, config, *args, **kwargs)
            if not args and not kwargs:  # the shape that the class and the config alone make
                set_origin(self, self)
            if entries:
                _shrink_heads(self, entries)
                narrow_linears(self, shapes)
                _shrink_neurons(self, neurons)
        finally:
            if record is not None:
                setattr(self.config, RECORD_KEY, record)
                setattr(config, RECORD_KEY, record)

    return type(cls.__name__, (cls,), {"__init__": __init__, "__module__": cls.__module__})


def _shrink_heads(model: Any, entries: Mapping[int, HeadEntry]) -> None:
    layers = find_layers(model)
    if sorted(entries) != [layer.index for layer in layers]:
        raise CheckpointError(
            f"`{RECORD_KEY}` names the layers {sorted(entries)}; the model has layers 0 to {len(layers) - 1}."
        )
    for layer in layers:
        found = entries[layer.index]
        told = (found.num_heads, found.head_dim, found.group_size)
        if told not in ((layer.num_original, layer.size, size) for size in (layer.group_size, 1)):
            raise CheckpointError(
                f"`{RECORD_KEY}` in config.json gives layer {layer.index} {found.num_heads} heads of {found.head_dim} "
                f"channels in groups of {found.group_size}; unpruned it has {layer.num_original} of {layer.size} in "
                f"groups of {layer.group_size}."
            )
        if found.group_size != layer.group_size:
            duplicate_layer(layer)
            layer = dataclasses.replace(layer, group_size=1)
        if found.kept != layer.heads:
            shrink_layer(model, layer, found.kept)


def _shrink_neurons(model: Any, entries: Mapping[int, NeuronEntry]) -> None:
    layers = {layer.index: layer for layer in find_feed_forward(model)}
    if set(entries) - set(layers):
        raise CheckpointError(
            f"`{RECORD_KEY}` names the feed-forward layers {sorted(set(entries) - set(layers))}; the model has "
            f"{len(layers)} whose layout is known. `register_architecture` makes others known."
        )
    for index, entry in entries.items():
        layer = layers[index]
        present = len(layer.present)
        if entry.num_neurons != present:
            raise CheckpointError(
                f"`{RECORD_KEY}` in config.json keeps {len(entry.kept)} of {entry.num_neurons} neurons in "
                f"feed-forward layer {index}; unpruned it has {present}."
            )
        if len(entry.kept) < present:  # which ones is for the weights to say; they are filled in afterwards
            shrink_layer(model, layer, layer.present[: len(entry.kept)])
