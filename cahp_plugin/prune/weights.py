"""What of a checkpoint's files is read, and whether it was all that the model needs."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers.utils import logging

from cahp_plugin.errors import CheckpointError
from cahp_plugin.prune.checkpoint import find_file
from cahp_plugin.units.record import RECORD_KEY

logger = logging.get_logger(__name__)

_NAMED = 4


def check_weight_files(name: str, config: Any, arguments: Mapping[str, Any]) -> None:
    """Checks the names of the files that a checkpoint says its weights are in: plain ``*.safetensors``, beside it.

    ``model.safetensors.index.json`` (and ``transformers_weights`` in config.json) could name a pickle, or a file
    anywhere on this machine. An index of pickles may name pickles, but in its own folder too.

    Args:
        name: Folder or Hub id.
        config: Its config.
        arguments: What ``from_pretrained`` is called with.

    Raises:
        CheckpointError: A name is another, or the index can't be read.
    """
    explicit = getattr(config, "transformers_weights", None)
    if explicit is not None and not _is_plain(explicit, (".safetensors", ".safetensors.index.json")):
        raise _bad_name(name, "`transformers_weights` in config.json", explicit)
    if os.path.isdir(name) and any(Path(name, arguments.get("subfolder") or "").glob("shard-*.safetensors")):
        raise CheckpointError(
            f"{name} holds a distributed checkpoint (shard-*.safetensors), whose loading is not reported on. Load it "
            "with transformers, and save it again with `save_pretrained`."
        )
    for index_name in _read_files(arguments) if explicit is None else [explicit]:
        index = find_file(name, index_name, arguments)
        if index is None:
            continue
        if not index_name.endswith(".json"):
            return
        ending = ".bin" if ".bin." in index_name else ".safetensors"
        try:
            shards = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{index} can't be read: {error!r}. It must map each tensor to its file.") from error
        for shard in sorted(shards, key=str):
            if not _is_plain(shard, (ending,)):
                raise _bad_name(name, index_name, shard)
        return


def _read_files(arguments: Mapping[str, Any]) -> list[str]:
    """Files that transformers looks for, in its order: it takes the first that is there."""
    variant = f".{arguments['variant']}" if arguments.get("variant") else ""
    safe = [f"model{variant}.safetensors", f"model.safetensors.index{variant}.json"]
    pickles = [f"pytorch_model{variant}.bin", f"pytorch_model.bin.index{variant}.json"]
    if arguments.get("use_safetensors"):
        return safe
    return pickles if arguments.get("use_safetensors") is False else safe + pickles


def _is_plain(value: Any, endings: tuple[str, ...]) -> bool:
    """Whether a value is the name of a file, without a folder. Links are followed: the Hub's cache is made of them."""
    return isinstance(value, str) and not set(value) & set("/\\:\0") and value.endswith(endings)


def _bad_name(name: str, place: str, value: Any) -> CheckpointError:
    return CheckpointError(
        f"{name}: {place} names the file {value!r}; expected the plain name of a .safetensors file in the same folder "
        "(in an index of pickles, of a .bin file). Do not load this checkpoint unless you know where it comes from; "
        "then save it again with `save_pretrained`."
    )


def require_weights(name: str, model: Any, report: Mapping[str, Any], *, pruned: bool) -> None:
    """Checks what ``from_pretrained`` reports: every weight of the model must have come from the checkpoint.

    Transformers gives random values to what is missing and says so in a message at most. Its report leaves out what
    the class ignores, ties to another tensor or computes.

    Args:
        name: Folder or Hub id.
        model: The loaded model.
        report: Its loading report (``output_loading_info=True``).
        pruned: Whether the checkpoint has a map of heads; then nothing may be left over either.

    Raises:
        CheckpointError: Weights are missing, or a pruned checkpoint and its map disagree.
    """
    state = model.state_dict()
    # Without offloading, transformers 4.57 leaves what it could not fill (one of two tied tensors) on the meta device.
    blank = [] if getattr(model, "hf_device_map", None) else [key for key, tensor in state.items() if tensor.is_meta]
    missing = sorted({*_names(report, "missing_keys"), *blank})
    missing = [key for key in missing if key not in state or state[key].numel()]
    unexpected = _names(report, "unexpected_keys")
    mismatched = _names(report, "mismatched_keys")
    kinds = {"missing": missing, "unexpected": unexpected, "mismatched": mismatched}
    found = "; ".join(f"{kind} keys: {_some(keys)}" for kind, keys in kinds.items() if keys)
    if pruned and found:
        advice = f" {_way_out(model, state, missing, unexpected)}" if missing else ""
        raise CheckpointError(f"{name}: `{RECORD_KEY}` in config.json and the tensors disagree ({found}).{advice}")
    if missing:
        raise CheckpointError(
            f"{name}: {len(missing)} of the {len(state)} tensors of {type(model).__name__} are not in the checkpoint "
            f"({found}); they would be random. {_way_out(model, state, missing, unexpected)}"
        )
    modules = dict(model.named_modules()) if unexpected else {}
    inner = [key for key in unexpected if _is_in_a_block(key, modules)]
    if inner:
        raise CheckpointError(
            f"{name}: {type(model).__name__} has no place for {_some(inner)}, which belong to blocks that it has: "
            "without them it would compute something else. Merge adapters first; of a feature that this version of "
            "transformers dropped, install the version that has it."
        )
    if unexpected:
        logger.warning(
            f"{name}: {len(unexpected)} tensors of the checkpoint have no place in {type(model).__name__} and are "
            f"left out ({_some(unexpected)})."
        )


def _is_in_a_block(key: str, modules: Mapping[str, Any]) -> bool:
    """Whether a tensor belongs to a module that a numbered block of the model does not have."""
    path, _, kind = key.rpartition(".")
    parent = path.rpartition(".")[0]
    numbered = any(part.isdigit() for part in parent.split("."))
    return kind in ("weight", "bias") and path not in modules and parent in modules and numbered


def _names(report: Mapping[str, Any], key: str) -> list[str]:
    # A mismatched key comes with its two shapes.
    return sorted(entry if isinstance(entry, str) else str(entry[0]) for entry in report.get(key) or ())


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _way_out(model: Any, names: Iterable[str], missing: list[str], unexpected: list[str]) -> str:
    prefix = common_prefix(names, unexpected, base=model.base_model_prefix)
    if prefix is not None:
        return (
            f"All tensors of the checkpoint have the prefix {prefix!r}, which a wrapper (DataParallel, torch.compile, "
            "Lightning) puts before the names. Take it off: `{key.removeprefix("
            f"{prefix!r}): tensor for key, tensor in state_dict.items()}}`, and save the result."
        )
    if unexpected:
        return (
            f"The checkpoint holds {_some(unexpected)}: it is of another class or uses other names. Set "
            "`architectures` in config.json to its class, or rename the tensors."
        )
    if all("pooler." in name for name in missing):
        return "Where the pooler is not used, `load_pruned(..., add_pooling_layer=False)` leaves it out."
    return (
        "Save the whole model (`model.save_pretrained`), or set `architectures` in config.json to the class that was "
        "saved. A new head has to be trained first."
    )


def common_prefix(names: Iterable[str], unexpected: list[str], *, base: str = "") -> str | None:
    """The prefix that all unexpected tensors have before a name that the model knows.

    Args:
        names: Names that the model has.
        unexpected: Names that the checkpoint has.
        base: The model's ``base_model_prefix``, which a checkpoint of the body alone lacks.

    Returns:
        The prefix with its dot, or ``None`` where there is none.
    """
    wanted = {short for name in names for short in (name, name.removeprefix(f"{base}."))}
    counts: Counter[str] = Counter()
    for key in unexpected:
        parts = key.split(".")
        counts.update(".".join(parts[:cut]) + "." for cut in range(1, len(parts)) if ".".join(parts[cut:]) in wanted)
    return next((prefix for prefix, count in counts.most_common(1) if count == len(unexpected)), None)
