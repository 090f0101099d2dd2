"""From a label column to the numbers of the model's classes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers.utils import logging

from cahp_plugin.errors import DataError

logger = logging.get_logger(__name__)

_NUMBERED = re.compile(r"\s*(?:label[ _]?)?(\d+)\s*", re.IGNORECASE)


def encode_labels(dataset: Any, column: str, config: Any) -> list[int]:
    """Turns a label column into class numbers.

    Names are matched with the model's (``label2id``), whatever number the data give them: text, or the names of a
    ``ClassLabel`` column. Case, spaces and punctuation do not count. Numbers without names, and numbers for a model
    without names (``LABEL_0``...), are taken as they are.

    Args:
        dataset: A ``datasets.Dataset``.
        column: Its label column.
        config: The model's config.

    Returns:
        The number of each example's class.

    Raises:
        DataError: A label is missing, or is none of the model's classes, by name or by number.
    """
    values = dataset[column]
    names = _declared_names(dataset, column)
    numbers = None if names is None else _numbers_of_names(names, values, column, config)
    classes = class_names(config)
    labels = []
    for row, value in enumerate(values):
        where = f"Column {column!r}, row {row}"
        if value is None or (isinstance(value, float) and math.isnan(value)):
            raise DataError(f"{where}: the label is missing.")
        if isinstance(value, str):
            value = _number_of_text(value, classes, config, where)
        if not isinstance(value, (int, float)) or not float(value).is_integer():
            raise DataError(f"{where}: expected a class number, got {value!r}.")
        number = int(value) if numbers is None else numbers.get(int(value), int(value))
        if not 0 <= number < config.num_labels:
            raise DataError(
                f"{where}: label {number}; the model has {config.num_labels} classes, so labels go from 0 to "
                f"{config.num_labels - 1}."
            )
        labels.append(number)
    return labels


def class_names(config: Any) -> dict[str, int]:
    """Name -> number of a model's classes; empty where they have no names but ``LABEL_0``, ``LABEL_1``...

    Raises:
        DataError: ``label2id`` and ``id2label`` disagree.
    """
    forth = {str(name): int(number) for name, number in (config.label2id or {}).items()}
    back = {str(name): int(number) for number, name in (config.id2label or {}).items()}
    named = [table for table in (forth, back) if not _is_numbered(table)]
    if len(named) == 2 and forth != back:
        raise DataError(
            f"The model's config names its classes twice, and differently: `label2id` {forth}, `id2label` by number "
            f"{back}. Correct config.json."
        )
    return named[0] if named else {}


def check_same_classes(datasets: Mapping[str, Any], column: str, config: Any) -> None:
    """Checks that data sets number their classes alike, where the model has no names to bring them together by.

    Args:
        datasets: What each is for -> a ``datasets.Dataset``.
        column: Their label column.
        config: The model's config.

    Raises:
        DataError: Two name their classes in different orders.
    """
    if class_names(config):
        return
    known = {what: names for what, data in datasets.items() if (names := _declared_names(data, column))}
    for what, names in known.items():
        first = next(iter(known))
        if [*map(_plain, names)] != [*map(_plain, known[first])]:
            raise DataError(
                f"The {first} and the {what} set number their classes differently ({', '.join(known[first])}; "
                f"{', '.join(names)}), and the model has no names for its own. Set `id2label` and `label2id` in its "
                "config.json, or bring the data into the model's order."
            )


def _declared_names(dataset: Any, column: str) -> list[str] | None:
    """The names of a ``ClassLabel`` column."""
    return getattr(dataset.features[column], "names", None)


def _is_numbered(names: Mapping[str, int] | Sequence[str]) -> bool:
    return all(_NUMBERED.fullmatch(name) for name in names)


def _plain(name: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", name.casefold()))


def _find(name: str, classes: Mapping[str, int]) -> int | None:
    """Number of the class of a name, written the same or, where that leaves one, about the same."""
    if name in classes:
        return classes[name]
    found = [number for other, number in classes.items() if _plain(other) == _plain(name) != ""]
    return found[0] if len(found) == 1 else None


def _numbers_of_names(names: Sequence[str], values: Sequence[Any], column: str, config: Any) -> dict[int, int]:
    """Number in the data -> number in the model, for the classes of a ``ClassLabel`` column that occur."""
    used = [number for number in sorted(set(values) - {None}) if 0 <= number < len(names)]
    classes = class_names(config)
    found = {number: _find(names[number], classes) for number in used}
    if all(number is not None for number in found.values()):
        numbers = {number: other for number, other in found.items() if other is not None}
    elif _is_numbered([names[number] for number in used]):
        # The names are numbers; sorted as text, "10" comes before "2".
        inside = {number: int(_digits(names[number])) for number in used}
        fits = all(number < config.num_labels for number in inside.values())
        numbers = inside if fits else {number: number for number in used}
        if not fits and sorted(used, key=inside.__getitem__) != used:
            raise DataError(
                f"Column {column!r}: its class names are numbers in another order ({', '.join(names)}) and go beyond "
                f"the model's {config.num_labels} classes. Number the classes from 0, as the model does."
            )
    elif not classes:
        return {}
    else:
        unknown = ", ".join(repr(names[number]) for number, other in found.items() if other is None)
        raise DataError(
            f"Column {column!r}: the data name their classes {', '.join(names)}; of these the model has no {unknown}. "
            f"It has {', '.join(classes)}. Rename the classes of the data (`ClassLabel`), or correct `id2label` and "
            "`label2id` in the model's config.json."
        )
    moved = {number: other for number, other in numbers.items() if number != other}
    if moved:
        told = ", ".join(f"{names[number]} {number} -> {other}" for number, other in moved.items())
        logger.warning(f"Column {column!r}: classes are matched with the model's by name ({told}).")
    return numbers


def _number_of_text(text: str, classes: Mapping[str, int], config: Any, where: str) -> Any:
    table = classes or {str(name): int(number) for name, number in (config.label2id or {}).items()}
    number = _find(text, table)
    if number is not None:
        return number
    if re.fullmatch(r"\s*-?\d+\s*", text):
        return int(text)
    raise DataError(f"{where}: the model has no class {text!r}; it has {', '.join(table)}.")


def _digits(name: str) -> str:
    match = _NUMBERED.fullmatch(name)
    assert match is not None
    return match[1]
