"""Saves pruned models: in one step, with everything that loading them needs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging

from cahp_plugin.errors import ConfigError, UnsupportedModelError
from cahp_plugin.files import write_text
from cahp_plugin.prune.certificate import CERTIFICATE_KEY, trouble
from cahp_plugin.prune.checkpoint import origin_of
from cahp_plugin.prune.folders import replaced_folder
from cahp_plugin.prune.hub import check_repository, upload
from cahp_plugin.prune.model_card import CARD_NAME, is_generated, model_card_text
from cahp_plugin.prune.origin import num_parameters
from cahp_plugin.prune.plain import plain_pruned_heads
from cahp_plugin.prune.stage import Stage
from cahp_plugin.prune.surgery import recorded_heads
from cahp_plugin.prune.widths import narrowed_linears, with_linear_shapes
from cahp_plugin.selectors.cahp.selection import HeadSelection
from cahp_plugin.units import neuron_entries
from cahp_plugin.units.find import find_feed_forward
from cahp_plugin.units.record import RECORD_KEY, make_record

logger = logging.get_logger(__name__)

SELECTION_NAME = "selection.json"


def save_pruned(
    model: Any,
    path: str | os.PathLike[str],
    *,
    selection: HeadSelection | None = None,
    tokenizer: Any = None,
    stages: Sequence[Stage] = (),
    overwrite: bool = False,
    model_card: bool = True,
    max_shard_size: int | str | None = None,
    push_to_hub: bool = False,
    repo_id: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
) -> Path:
    """Saves a pruned model as safetensors, with its heads and neurons in ``config.json`` under ``cahp_config``.

    Linear layers that another pruner narrowed (the feed-forward's inner width) are on record there too; the model and
    its config in memory stay as they are. The folder
    appears whole or not at all. Saved with transformers 4.57, it loads there by plain ``from_pretrained`` as well,
    where the model's class can remove heads itself and no layer is without any.

    Args:
        model: The model, pruned by :class:`cahp_plugin.CAHPPruner` (or not at all: then it is a plain checkpoint).
        path: Folder to write.
        selection: Written beside the model as ``selection.json``, without X.
        tokenizer: Saved beside the model.
        stages: What the model achieved before and after pruning, for the model card.
        overwrite: Whether a non-empty folder is replaced. A README.md that was not generated stays.
        model_card: Whether a model card, README.md, is generated where there is none.
        max_shard_size: Size of the largest file, as ``"2GB"`` or in bytes; transformers' default without it.
        push_to_hub: Whether the finished folder is uploaded to the Hugging Face Hub.
        repo_id: Repository there, ``user/model``; the folder's name without it.
        private: Whether a new repository is private; the account's default without it.
        token: As in ``huggingface_hub``; the one of ``hf auth login`` without it.

    Returns:
        The folder.

    Raises:
        CheckpointError: The folder is not empty, holds the checkpoint that the model was loaded from, the disk
            refuses, the model could not be loaded again (its hidden size was pruned, modules were added), or the
            upload failed, after the folder was written.
        ConfigError: An argument for the Hub is given without ``push_to_hub``, or ``repo_id`` is no name.
        UnsupportedModelError: The model is quantized, or some of its weights are on the meta device.
    """
    repository = (repo_id or Path(path).absolute().name) if push_to_hub else None
    _check_hub(repository, repo_id=repo_id, private=private, token=token)
    origin = str(getattr(model, "name_or_path", None) or "")
    over_its_own = os.path.realpath(origin) == os.path.realpath(path)  # which is allowed
    with replaced_folder(path, overwrite=overwrite, inputs=[] if over_its_own else [origin]) as partial:
        write_checkpoint(
            model,
            partial,
            place=Path(path),
            selection=selection,
            tokenizer=tokenizer,
            stages=stages,
            model_card=model_card,
            max_shard_size=max_shard_size,
            repo_id=repository,
        )
    if repository is not None:
        upload(Path(path), repository, private=private, token=token)
    return Path(path)


def write_checkpoint(
    model: Any,
    folder: Path,
    *,
    place: Path,
    selection: HeadSelection | None = None,
    tokenizer: Any = None,
    stages: Sequence[Stage] = (),
    note: str | None = None,
    model_card: bool = True,
    max_shard_size: int | str | None = None,
    repo_id: str | None = None,
) -> None:
    """Writes what :func:`save_pruned` saves into an empty folder.

    Args:
        model: As for :func:`save_pruned`.
        folder: Folder to write.
        place: Where the folder will lie. A model card there that was not generated is kept.
        selection: As for :func:`save_pruned`.
        tokenizer: As for :func:`save_pruned`.
        stages: As for :func:`save_pruned`.
        note: For the model card: how the units were chosen, where that is no selection.
        model_card: As for :func:`save_pruned`.
        max_shard_size: As for :func:`save_pruned`.
        repo_id: Repository that the folder is uploaded to, for the model card.

    Raises:
        CheckpointError: The model could not be loaded again.
        UnsupportedModelError: The model is quantized, or some of its weights are on the meta device.
    """
    _check_weights(model)
    origin = origin_of(model)
    shapes = {} if origin is None else narrowed_linears(model, origin)
    if origin is None:
        logger.warning(
            f"{type(model).__module__}.{type(model).__name__} is no class of transformers, nor registered with it "
            "(`AutoModelFor....register`): load_pruned can't load what is saved, and widths of its linear layers are "
            "not recorded."
        )
    record = _record(model, shapes)
    plain = {} if shapes else plain_pruned_heads(model)
    card = place / CARD_NAME
    content = card.read_bytes() if card.is_file() else b""
    if is_generated(content.decode("utf-8", errors="replace")):
        content = b""
    if record and model_card and not content:
        content = model_card_text(
            model,
            shapes=shapes,
            dense_parameters=None if origin is None else num_parameters(model, origin),
            name=place.absolute().name,
            repo_id=repo_id,
            selection=selection,
            stages=stages,
            note=note,
            has_tokenizer=tokenizer is not None,
            loads_plainly=bool(plain),
        ).encode()
    shards = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
    model.save_pretrained(folder, safe_serialization=True, **shards)
    if record:
        # The model in memory keeps its config. Without heads that it could remove, transformers' own record goes.
        config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {RECORD_KEY: record}
        config["pruned_heads"] = {str(layer): gone for layer, gone in plain.items()}
        if not plain:
            del config["pruned_heads"]
        write_text(folder / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    if wrong := trouble(folder):
        logger.warning(f"{wrong} It is left out.")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        del config[CERTIFICATE_KEY]
        write_text(folder / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if selection is not None:
        (folder / SELECTION_NAME).write_text(json.dumps(selection.to_dict()) + "\n", encoding="utf-8")
    if content:
        (folder / CARD_NAME).write_bytes(content)


def _check_hub(repository: str | None, **given: Any) -> None:
    alone = [f"`{name}`" for name, value in given.items() if value is not None]
    if repository is not None:
        check_repository(repository)
    elif alone:
        raise ConfigError(f"{' and '.join(alone)} given without `push_to_hub=True`: nothing would be uploaded.")


def _check_weights(model: Any) -> None:
    if getattr(model, "hf_quantizer", None) is not None or getattr(model.config, "quantization_config", None):
        raise UnsupportedModelError(
            f"{type(model).__name__} is quantized; save_pruned writes floating-point weights. Save it before it is "
            "quantized."
        )
    empty = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if empty:
        raise UnsupportedModelError(
            f"{len(empty)} parameters of {type(model).__name__} are on the meta device (the first: {empty[0]}): they "
            "have no weights to save. Load the model onto a real device, without offloading."
        )


def _record(model: Any, shapes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """The model's map and the widths of its other linear layers, as ``config.json`` holds them; empty without either.

    What is said of neurons that another pruner has cut since is left out: nobody knows which are there.
    """
    before = getattr(model.config, RECORD_KEY, None)
    if before is None and not shapes:
        return {}
    neurons = neuron_entries(model.config)
    present = {layer.index: layer.present for layer in (find_feed_forward(model) if neurons else ())}
    known = {index: entry for index, entry in neurons.items() if entry.kept == present.get(index)}
    return with_linear_shapes(make_record(before, recorded_heads(model), known), shapes)
