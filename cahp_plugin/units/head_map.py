"""The map of heads that a pruned model carries in its config, from where ``save_pretrained`` saves it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cahp_plugin._version import __version__
from cahp_plugin.errors import CheckpointError

HEAD_MAP_KEY = "cahp_config"
HEAD_MAP_FORMAT = 2


@dataclasses.dataclass(frozen=True)
class HeadEntry:
    """One layer's heads.

    Attributes:
        num_heads: Heads that the layer had before any pruning.
        head_dim: Channels a head.
        group_size: Query heads that share a key and value head.
        kept: Original indices of the heads present, ascending.
    """

    num_heads: int
    head_dim: int
    group_size: int
    kept: tuple[int, ...]


def head_entries(config: Any) -> dict[int, HeadEntry]:
    """Reads layer -> heads from a model's config; empty for an unpruned model.

    Args:
        config: The config, or the dict that ``config.json`` holds.

    Raises:
        CheckpointError: The map is there but is not one that this library wrote.
    """
    entry = config.get(HEAD_MAP_KEY) if isinstance(config, dict) else getattr(config, HEAD_MAP_KEY, None)
    if entry is None:
        return {}
    try:
        if entry["format"] != HEAD_MAP_FORMAT:
            raise CheckpointError(
                f"`{HEAD_MAP_KEY}` in config.json has format {entry['format']!r}; this version of cahp-plugin reads "
                f"format {HEAD_MAP_FORMAT}. Install the version that wrote it: {entry.get('version')!r}."
            )
        found = {
            int(layer): HeadEntry(
                int(values["num_heads"]),
                int(values["head_dim"]),
                int(values["group_size"]),
                tuple(int(head) for head in values["kept"]),
            )
            for layer, values in entry["layers"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"`{HEAD_MAP_KEY}` in config.json is damaged: {error!r}. Got {entry!r}.") from error
    for layer, heads in found.items():
        kept = list(heads.kept)
        if kept != sorted(set(kept)) or any(not 0 <= head < heads.num_heads for head in kept):
            raise CheckpointError(
                f"`{HEAD_MAP_KEY}` in config.json is damaged: layer {layer} keeps heads {kept}, expected ascending "
                f"indices below {heads.num_heads}."
            )
    return found


def head_map(config: Any) -> dict[int, tuple[int, ...]]:
    """Reads layer -> present original head indices; see :func:`head_entries`."""
    return {layer: entry.kept for layer, entry in head_entries(config).items()}


def set_head_entries(config: Any, entries: Mapping[int, HeadEntry]) -> None:
    """Writes the map of heads into a model's config; whatever else is recorded beside it stays.

    Args:
        config: The model's config.
        entries: Layer -> heads, for every layer.
    """
    layers = {str(layer): dataclasses.asdict(entry) | {"kept": list(entry.kept)} for layer, entry in entries.items()}
    before = getattr(config, HEAD_MAP_KEY, None) or {}
    setattr(config, HEAD_MAP_KEY, {**before, "format": HEAD_MAP_FORMAT, "version": __version__, "layers": layers})
