"""Pruned checkpoints: saved in one step, loaded anywhere, exact."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers.utils import logging

from cahp_plugin.architectures import HEAD_MAP_KEY, head_entries, head_map
from cahp_plugin.architectures.layers import find_layers
from cahp_plugin.errors import CheckpointError
from cahp_plugin.method.selection import HeadSelection
from cahp_plugin.prune.surgery import duplicate_layer, shrink_layer

logger = logging.get_logger(__name__)

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model")
SELECTION_NAME = "selection.json"


def check_output_directory(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Checks that a folder may be written, before work is put into what goes there.

    Raises:
        CheckpointError: It is a file, or is not empty and ``overwrite`` is false.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; expected a folder or a new name.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise CheckpointError(f"{folder} is not empty. Pass `overwrite=True` (`--overwrite`) or another folder.")


@contextlib.contextmanager
def replaced_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Gives a temporary folder that takes the place of ``path`` when the block ends well, in one step.

    Whatever goes wrong in the block (a full disk, Ctrl-C), ``path`` stays as it was and nothing else is left.

    Raises:
        CheckpointError: As :func:`check_output_directory`, or the disk refuses.
    """
    folder = Path(path).absolute()
    check_output_directory(folder, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    old: Path | None = None
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp's 0o700 would lock others out
        if folder.exists():
            old = partial.with_suffix(".old")
            folder.rename(old)
        partial.rename(folder)
    except BaseException as error:
        if old is not None and old.exists() and not folder.exists():
            old.rename(folder)
        if isinstance(error, OSError) and not isinstance(error, CheckpointError):
            raise CheckpointError(f"{folder} could not be written: {error}. Nothing is left there.") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if old is not None and folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def save_pruned(
    model: Any,
    path: str | os.PathLike[str],
    *,
    selection: HeadSelection | None = None,
    tokenizer: Any = None,
    overwrite: bool = False,
) -> Path:
    """Saves a pruned model as safetensors, with the map of its heads in ``config.json`` under ``cahp_config``.

    The folder appears whole or not at all.

    Args:
        model: The model, pruned by :class:`cahp_plugin.CAHPPruner` (or not at all: then it is a plain checkpoint).
        path: Folder to write.
        selection: Written beside the model as ``selection.json``, without X.
        tokenizer: Saved beside the model.
        overwrite: Whether a non-empty folder is replaced.

    Returns:
        The folder.

    Raises:
        CheckpointError: The folder is not empty, or the disk refuses.
    """
    with replaced_folder(path, overwrite=overwrite) as partial:
        model.save_pretrained(partial, safe_serialization=True)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        if selection is not None:
            (partial / SELECTION_NAME).write_text(json.dumps(selection.to_dict()) + "\n", encoding="utf-8")
    return Path(path)


def load_pruned(path: str | os.PathLike[str], **kwargs: Any) -> Any:
    """Loads a checkpoint that :func:`save_pruned` wrote, as the transformers class it was saved from.

    The model is built from its config, shrunk to its map of heads and then filled by ``from_pretrained``: what that
    does (``dtype``, ``device_map``, ``attn_implementation``, sharded files, Hub ids) works here too. It is exact.

    Args:
        path: Folder or Hub id. A checkpoint without a map is loaded plainly.
        **kwargs: Go to ``from_pretrained``.

    Returns:
        The model, in eval mode.

    Raises:
        CheckpointError: There is no checkpoint, it is damaged, or its map and tensors disagree.
    """
    name = os.fspath(path)
    hub = {key: kwargs[key] for key in ("revision", "token", "cache_dir", "local_files_only") if key in kwargs}
    config = load_config(name, **hub)
    kept, cls = head_map(config), model_class(config, name)
    if not kept:
        logger.info(f"{name} was not pruned by cahp-plugin; it is loaded as it is.")
    try:
        model, report = _shrinking(cls).from_pretrained(name, output_loading_info=True, **kwargs)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{name} can't be loaded: {_first_lines(error)} If it says that shapes differ, `{HEAD_MAP_KEY}` in "
            "config.json and the tensors do not belong together; if a file can't be read, copy it again."
        ) from error
    model.__class__ = cls
    unfit = {
        key: sorted(map(str, report.get(key) or ())) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    if kept and any(unfit.values()):
        found = "; ".join(f"{key.replace('_', ' ')}: {', '.join(names[:4])}" for key, names in unfit.items() if names)
        raise CheckpointError(f"{name}: `{HEAD_MAP_KEY}` in config.json and the tensors disagree ({found}).")
    return model


def load_config(name: str | os.PathLike[str], **kwargs: Any) -> Any:
    """Loads the config of a checkpoint.

    Raises:
        CheckpointError: There is none, or it can't be read.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, **kwargs)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{name}: no config.json that can be read: {error}") from error


def load_tokenizer(name: str) -> Any:
    """Loads the tokenizer of a checkpoint or of an exported folder.

    Raises:
        CheckpointError: There is none that loads.
    """
    from transformers import AutoTokenizer

    folder = Path(name)
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        # Transformers 5 would make one with an empty vocabulary.
        raise CheckpointError(f"{name} has no tokenizer: no file {', '.join(_TOKENIZER_FILES)}.")
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{name} has no tokenizer that loads: {error}") from error


def untrained_model(config: Any) -> Any:
    """Builds a model with random weights and eager attention, of the class and the heads that a config names.

    Raises:
        CheckpointError: Transformers has no such class, or the map of heads does not fit it.
    """
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    cls = model_class(config, "The config")
    model = _shrinking(cls)(config)
    model.__class__ = cls
    return model.eval()


def model_class(config: Any, name: str) -> type[Any]:
    """The transformers class that a config names.

    Raises:
        CheckpointError: Transformers has no such class.
    """
    import transformers

    class_name = (config.architectures or [None])[0]
    cls = getattr(transformers, class_name, None) if class_name else None
    if cls is None:
        raise CheckpointError(f"{name}: config.json names the class {class_name!r}, which transformers does not have.")
    return cls


def _shrinking(cls: type[Any]) -> type[Any]:
    """A subclass whose fresh instances have only the heads in their config's map, for ``from_pretrained`` to fill."""

    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        entries = head_entries(config)
        if not entries:
            cls.__init__(self, config, *args, **kwargs)
            return
        entry = getattr(config, HEAD_MAP_KEY)
        delattr(config, HEAD_MAP_KEY)
        try:
            cls.__init__(self, config, *args, **kwargs)
            layers = find_layers(self)
            if sorted(entries) != [layer.index for layer in layers]:
                raise CheckpointError(
                    f"`{HEAD_MAP_KEY}` names the layers {sorted(entries)}; the model has layers 0 to "
                    f"{len(layers) - 1}."
                )
            for layer in layers:
                found = entries[layer.index]
                if found.group_size != layer.group_size and found.group_size == 1:
                    duplicate_layer(layer)
                if found.kept != layer.heads:
                    shrink_layer(self, find_layers(self)[layer.index], found.kept)
        finally:
            setattr(self.config, HEAD_MAP_KEY, entry)
            setattr(config, HEAD_MAP_KEY, entry)

    return type(cls.__name__, (cls,), {"__init__": __init__, "__module__": cls.__module__})


def _first_lines(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else text[:400] + "..."
