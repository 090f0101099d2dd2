"""Writing files so that a reader never sees half of one, and reading what may be damaged."""

from __future__ import annotations

import dataclasses
import json
import os
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cahp_plugin.errors import CAHPError, CheckpointError

Value = TypeVar("Value")


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file in one step: beside its place first, then renamed onto it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """Reads a JSON object; ``None`` where the file is missing.

    Raises:
        CheckpointError: It is something else, or can't be read.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} can't be read: {error}. It may be cut off; write it again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(values).__name__}.")
    return values


def checked(place: Path | str, build: Callable[[], Value]) -> Value:
    """Builds something from a file's values.

    Raises:
        CheckpointError: They are not what they should be; the message names the place they are from.
    """
    try:
        return build()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, CAHPError) as error:
        raise CheckpointError(f"{place} is damaged or of another version: {error!r}. Write it again.") from error


def load(path: Path, build: Callable[[dict[str, Any]], Value]) -> Value | None:
    """Builds something from a file that holds a JSON object; ``None`` where the file is missing.

    Raises:
        CheckpointError: The file is damaged; the message names it.
    """
    values = read_json(path)
    return None if values is None else checked(path, lambda: build(values))


def plain(value: Any) -> Any:
    """A value as plain JSON values: what has a ``to_dict`` by that, and what JSON does not know as its text."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        return plain(vars(value))
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def from_plain(kind: type[Value], values: Mapping[str, Any]) -> Value:
    """Builds a dataclass from plain JSON values; the inverse of ``dataclasses.asdict`` and JSON.

    Args:
        kind: The dataclass. Its fields are of plain types, tuples, lists and maps of them, other dataclasses, and
            arrays (``numpy.typing.NDArray[...]``; ``None`` among floats is NaN).
        values: Field -> value. A field with a default may be missing, and what is no field is passed over: files of
            older and newer versions can be read.

    Raises:
        KeyError: A field is missing.
        TypeError: A value is of another type than its field.
        ValueError: An array's values are no numbers.
    """
    hints = typing.get_type_hints(kind)
    found = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # any dataclass
        if field.name in values:
            found[field.name] = _typed(hints[field.name], values[field.name], field.name)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise KeyError(field.name)
    return kind(**found)


def _typed(hint: Any, value: Any, name: str) -> Any:
    """A plain value as a type hint asks for it."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # of one type and None
        return None if value is None and types.NoneType in parts else _typed(parts[0], value, name)
    if hint is Any or (origin is typing.Literal and value in parts):
        return value
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_plain(typing.cast(type, hint), value)
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {parts[0](key): _typed(parts[1], entry, name) for key, entry in value.items()}
    if origin in (list, tuple) and isinstance(value, (list, tuple)):
        return origin(_typed(parts[0], entry, name) for entry in value)
    if hasattr(origin, "__array__"):  # numpy's, which is imported for those that have arrays alone
        import numpy as np

        return np.asarray(value, typing.get_args(parts[1])[0])
    if (hint is float and type(value) in (int, float)) or (hint is Path and type(value) is str):
        return hint(value)
    if type(value) is hint:
        return value
    raise TypeError(f"`{name}` holds {value!r}, which is no {getattr(hint, '__name__', hint)}")
