"""The map of heads and neurons that a pruned model carries in its config, from where ``save_pretrained`` saves it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cahp_plugin._version import __version__
from cahp_plugin.errors import CheckpointError
from cahp_plugin.units.kept import KeptSet, format_ranges, parse_ranges

RECORD_KEY = "cahp_config"
#: 2 had no neurons; what it says of heads is the same.
RECORD_FORMAT = 3
_FORMATS = (2, 3)
#: Neurons of a model that are believed: a record must not make its reader fill the memory.
_MOST_NEURONS = 2**24


@dataclasses.dataclass(frozen=True)
class HeadEntry:
    """One attention layer's heads.

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


@dataclasses.dataclass(frozen=True)
class NeuronEntry:
    """One feed-forward layer's neurons.

    Attributes:
        num_neurons: Neurons that the layer had before any pruning.
        kept: Original indices of the neurons present, ascending.
    """

    num_neurons: int
    kept: tuple[int, ...]


Entry = TypeVar("Entry", HeadEntry, NeuronEntry)


def _entries(config: Any, key: str, read: Callable[[int, Any], Entry]) -> dict[int, Entry]:
    """Reads layer -> entry from a config, or the dict that ``config.json`` holds; empty for an unpruned model.

    Args:
        config: The config, or the dict.
        key: Where the record has the layers.
        read: Makes the entry of a layer from its number and what is written.

    Raises:
        CheckpointError: The record is of another format, or damaged.
    """
    record = config.get(RECORD_KEY) if isinstance(config, dict) else getattr(config, RECORD_KEY, None)
    if record is None:
        return {}
    try:
        if record["format"] not in _FORMATS:
            raise CheckpointError(
                f"`{RECORD_KEY}` in config.json has format {record['format']!r}; this version of cahp-plugin reads "
                f"the formats {_FORMATS[0]} to {_FORMATS[-1]}. Install the version that wrote it: "
                f"{record.get('version')!r}."
            )
        layers = record["layers"] if key == "layers" else record.get(key, {})
        return {_count(int(layer), 0): read(int(layer), values) for layer, values in layers.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"`{RECORD_KEY}` in config.json is damaged: {error!r}. Got {str(record)[:500]!r}."
        ) from error


def _count(value: Any, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{value!r} is no count")
    return value


def head_entries(config: Any) -> dict[int, HeadEntry]:
    """Reads layer -> heads from a model's config; empty for an unpruned model.

    Args:
        config: The config, or the dict that ``config.json`` holds.

    Raises:
        CheckpointError: The map is there but is not one that this library wrote.
    """

    def read(layer: int, values: Any) -> HeadEntry:
        num_heads, head_dim, group_size = (_count(values[name]) for name in ("num_heads", "head_dim", "group_size"))
        entry = HeadEntry(num_heads, head_dim, group_size, tuple(_count(head, 0) for head in values["kept"]))
        if list(entry.kept) != sorted(set(entry.kept)) or max(entry.kept, default=0) >= entry.num_heads:
            raise ValueError(
                f"layer {layer} keeps heads {list(entry.kept)}, expected ascending indices below {entry.num_heads}"
            )
        return entry

    return _entries(config, "layers", read)


def neuron_entries(config: Any) -> dict[int, NeuronEntry]:
    """Reads feed-forward layer -> neurons from a model's config; empty where none were removed by this library.

    Args:
        config: The config, or the dict that ``config.json`` holds.

    Raises:
        CheckpointError: The map is there but is not one that this library wrote.
    """
    total = 0

    def read(layer: int, values: Any) -> NeuronEntry:
        nonlocal total
        count = _count(values["num_neurons"])
        total += count
        if total > _MOST_NEURONS:
            raise ValueError(f"more than {_MOST_NEURONS} neurons")
        return NeuronEntry(count, parse_ranges(values["kept"], count))

    return _entries(config, "feed_forward", read)


def kept_set(config: Any) -> KeptSet:
    """The units that a pruned model has left, by its config; it names no layer of an unpruned model."""
    return KeptSet(
        heads={layer: heads.kept for layer, heads in head_entries(config).items()},
        neurons={layer: neurons.kept for layer, neurons in neuron_entries(config).items()},
    )


def make_record(
    before: Mapping[str, Any] | None, heads: Mapping[int, HeadEntry], neurons: Mapping[int, NeuronEntry]
) -> dict[str, Any]:
    """The record of a map, as it is written to a config.

    Args:
        before: The record before; whatever else it holds stays.
        heads: Layer -> heads, for every layer.
        neurons: Feed-forward layer -> neurons; none where no neuron was removed.
    """
    layers = {str(layer): dataclasses.asdict(entry) | {"kept": list(entry.kept)} for layer, entry in heads.items()}
    record = {**(before or {}), "format": RECORD_FORMAT, "version": __version__, "layers": layers}
    record["feed_forward"] = {
        str(layer): {"num_neurons": entry.num_neurons, "kept": format_ranges(entry.kept)}
        for layer, entry in sorted(neurons.items())
    }
    if not neurons:
        del record["feed_forward"]
    return record
