"""The set of units that stay: heads and feed-forward neurons, layer by layer."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

from cahp_plugin.errors import SelectionError

Kind = Literal["heads", "neurons"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: Units of a layer that are believed of a file: it must not make its reader fill the memory.
MOST_UNITS = 2**20

Layers = Mapping[int, tuple[int, ...]]


@dataclasses.dataclass(frozen=True, init=False)
class KeptSet:
    """The units to keep: attention heads and feed-forward neurons, by layer and by their original indices.

    A layer that is not named keeps all its units; an empty sequence leaves none. Attention layers and feed-forward
    layers are numbered apart, each in the order of ``model.named_modules()``.

    Sets of one model can be compared and combined. ``a & b`` keeps what both keep, ``a | b`` what either keeps, and
    ``a <= b`` says whether b keeps all that a keeps. ``a - b`` keeps what a keeps and b does not; the layers that b
    names must be named in a too, for the units of a layer that is not named are known to the model alone.

    Args:
        heads: Attention layer -> heads to keep.
        neurons: Feed-forward layer -> neurons to keep.

    Raises:
        SelectionError: A layer or unit is no whole number of 0 or more, or a unit is named twice.

    Example:
        >>> kept = KeptSet(heads={0: (1, 4), 2: ()}, neurons={0: range(1024)})
        >>> print(kept & KeptSet(heads={0: (4, 5)}))
        heads: layer 0: 4; layer 2: none
        neurons: layer 0: 0-1023
    """

    heads: Layers
    neurons: Layers

    def __init__(
        self, heads: Mapping[int, Iterable[int]] | None = None, neurons: Mapping[int, Iterable[int]] | None = None
    ) -> None:
        for kind, given in zip(KINDS, (heads, neurons), strict=True):
            object.__setattr__(self, kind, MappingProxyType(_checked(kind, {} if given is None else given)))

    def __reduce__(self) -> tuple[Any, ...]:
        return KeptSet, (dict(self.heads), dict(self.neurons))

    def __repr__(self) -> str:
        return f"KeptSet(heads={dict(self.heads)}, neurons={dict(self.neurons)})"

    def __hash__(self) -> int:
        return hash(tuple((kind, layer, units) for kind in KINDS for layer, units in getattr(self, kind).items()))

    def __and__(self, other: KeptSet) -> KeptSet:
        def intersection(mine: Layers, theirs: Layers) -> Mapping[int, Iterable[int]]:
            both = {layer: set(mine[layer]) & set(theirs[layer]) for layer in mine.keys() & theirs.keys()}
            return {**mine, **theirs, **both}

        return self._combined(other, intersection)

    def __or__(self, other: KeptSet) -> KeptSet:
        # What is named in one of them only is whole in the other.
        return self._combined(other, lambda mine, theirs: {i: {*mine[i], *theirs[i]} for i in mine.keys() & theirs})

    def __sub__(self, other: KeptSet) -> KeptSet:
        def difference(mine: Layers, theirs: Layers) -> Mapping[int, Iterable[int]]:
            unknown = sorted(set(theirs) - set(mine))
            if unknown:
                raise SelectionError(
                    f"Layers {unknown} are named in the set that is taken away and not in the other one, which keeps "
                    "all their units: how many that are, the model knows. Name them."
                )
            return {layer: set(units) - set(theirs[layer]) if layer in theirs else () for layer, units in mine.items()}

        return self._combined(other, difference)

    def __le__(self, other: KeptSet) -> bool:
        """Whether ``other`` keeps all that this set keeps."""
        if not isinstance(other, KeptSet):
            return NotImplemented
        pairs = [(getattr(self, kind), getattr(other, kind)) for kind in KINDS]
        return all(
            layer in mine and set(mine[layer]) <= set(units)
            for mine, theirs in pairs
            for layer, units in theirs.items()
        )

    def __lt__(self, other: KeptSet) -> bool:
        return self <= other and self != other

    def _combined(self, other: KeptSet, rule: Callable[[Layers, Layers], Mapping[int, Iterable[int]]]) -> KeptSet:
        if not isinstance(other, KeptSet):
            return NotImplemented
        return KeptSet(rule(self.heads, other.heads), rule(self.neurons, other.neurons))

    @property
    def num_heads(self) -> int:
        """Heads in the layers that are named."""
        return sum(map(len, self.heads.values()))

    @property
    def num_neurons(self) -> int:
        """Neurons in the layers that are named."""
        return sum(map(len, self.neurons.values()))

    def to_dict(self) -> dict[str, dict[str, str]]:
        """Returns the set as plain JSON values: kind -> layer -> indices as ranges, ``"0-511,520"``."""
        return {
            kind: {str(layer): format_ranges(units) for layer, units in getattr(self, kind).items()} for kind in KINDS
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> KeptSet:
        """Builds a set from :meth:`to_dict`'s result; a layer's indices may also be a list.

        Raises:
            SelectionError: A kind is unknown, or a layer is damaged.
        """
        if not isinstance(values, Mapping) or set(values) - set(KINDS):
            raise SelectionError(f"A kept set has the kinds {' and '.join(KINDS)}; got {_short(values)}.")
        try:
            kinds = {
                kind: {
                    _number(layer): parse_ranges(units, MOST_UNITS) if isinstance(units, str) else units
                    for layer, units in layers.items()
                }
                for kind, layers in values.items()
            }
        except (TypeError, ValueError, AttributeError) as error:
            raise SelectionError(f"This is no kept set: {error}.") from error
        return cls(**kinds)

    def to_json(self) -> str:
        """Returns :meth:`to_dict` as JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> KeptSet:
        """Builds a set from :meth:`to_json`'s result.

        Raises:
            SelectionError: It is not JSON, or no kept set.
        """
        try:
            return cls.from_dict(json.loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            raise SelectionError(f"This is no kept set: {_short(error)}.") from error

    def __str__(self) -> str:
        lines = []
        for kind in KINDS:
            layers = getattr(self, kind)
            told = "; ".join(f"layer {layer}: {format_ranges(units) or 'none'}" for layer, units in layers.items())
            lines += [f"{kind}: {told}"] if layers else []
        return "\n".join(lines) or "every unit"


def _checked(kind: str, given: Mapping[int, Iterable[int]]) -> dict[int, tuple[int, ...]]:
    if not isinstance(given, Mapping):
        raise SelectionError(f"`{kind}` must be a mapping of layer -> {kind} to keep, got {type(given).__name__}.")
    found: dict[int, tuple[int, ...]] = {}
    for layer, units in given.items():
        try:
            if isinstance(units, (str, bytes, Mapping)):
                raise TypeError
            indices = sorted(_whole(unit) for unit in units)
            number = _whole(layer)
        except (TypeError, ValueError, OverflowError) as error:
            raise SelectionError(
                f"Layer {layer!r}: expected a sequence of indices of {kind}, got {_short(units)}."
            ) from error
        if number in found:
            raise SelectionError(f"`{kind}` names layer {number} twice.")
        if len(set(indices)) != len(indices):
            twice = (
                sorted({unit for unit in indices if indices.count(unit) > 1}) if len(indices) < 1000 else indices[:3]
            )
            raise SelectionError(f"Layer {number} names {kind} twice: {_short(twice)}.")
        found[number] = tuple(indices)
    return dict(sorted(found.items()))


def _number(layer: Any) -> Any:
    """The number of a layer, from a key of a JSON object."""
    if isinstance(layer, str) and not re.fullmatch(r"0|[1-9]\d{0,8}", layer):
        raise ValueError(f"{layer[:40]!r} is no layer")
    return int(layer) if isinstance(layer, str) else layer


def _whole(value: Any) -> int:
    number = int(value)
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        raise TypeError("a mask is no index")
    if number != value or number < 0:
        raise ValueError(f"{value!r} is no index")
    return number


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def format_ranges(indices: Iterable[int]) -> str:
    """Writes ascending indices as ranges: ``(0, 1, 2, 5)`` as ``"0-2,5"``; nothing as ``""``."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][1] + 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def parse_ranges(text: str, limit: int | None = None) -> tuple[int, ...]:
    """Reads what :func:`format_ranges` wrote.

    Args:
        text: The ranges.
        limit: Number that all indices must lie below.

    Raises:
        ValueError: They are not ascending, or lie beyond the limit.
    """
    found: list[int] = []
    for part in text.split(",") if text else ():
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
        if match is None:
            raise ValueError(f"{part[:40]!r} is no range of indices")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or (found and first <= found[-1]) or (limit is not None and last >= limit):
            raise ValueError(f"the range {part} is not ascending" + ("" if limit is None else f" below {limit}"))
        found.extend(range(first, last + 1))
    return tuple(found)
