"""From a label column to the numbers of the model's classes."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from transformers.utils import logging

from cahp_plugin.errors import DataError

logger = logging.get_logger(__name__)

_DEFAULT_NAME = re.compile(r"LABEL_\d+")  # what transformers calls classes without names
_NUMBERED = re.compile(r"(?:label[ _]?)?(\d+)", re.IGNORECASE)


def encode_labels(dataset: Any, column: str, config: Any) -> list[int]:
    """Turns a label column into class numbers.

    Names are matched with the model's (``label2id``), whatever number the data give them: text, or the names of a
    ``ClassLabel`` column. Case, spaces, hyphens and underscores do not count. Numbers without names, and numbers for
    a model without names (``LABEL_0``...), are taken as they are.

    Args:
        dataset: A ``datasets.Dataset``.
        column: Its label column.
        config: The model's config.

    Returns:
        The number of each example's class.

    Raises:
        DataError: A label is missing, or is none of the model's classes, by name or by number.
    """
    values = list(dataset.with_format(None)[column])
    names = _declared_names(dataset, column)
    numbers = {} if names is None else _numbers_of_names(names, _used(values, names), column, config)
    moved = {number: other for number, other in numbers.items() if number != other}
    if names is not None and moved:
        told = ", ".join(f"{names[number]} {number} -> {other}" for number, other in moved.items())
        logger.warning(f"Column {column!r}: classes are matched with the model's by name ({told}).")
    classes = class_names(config) if any(isinstance(value, (str, bool)) for value in values) else {}
    labels = []
    for row, value in enumerate(values):
        where = f"Column {column!r}, row {row}"
        if value is None or (isinstance(value, float) and math.isnan(value)):
            raise DataError(f"{where}: the label is missing.")
        if isinstance(value, (str, bool)):  # a bool is text that a reader of CSV files took for something else
            table = classes or {f"LABEL_{number}": number for number in range(config.num_labels)}
            named = _find(str(value), table)
            if named is None and isinstance(value, str) and not re.fullmatch(r"\s*-?\d+\s*", value):
                raise DataError(f"{where}: the model has no class {value!r}; it has {', '.join(table)}.")
            value = int(value) if named is None else named
        if not isinstance(value, (int, float)) or not float(value).is_integer():
            raise DataError(f"{where}: expected a class number, got {value!r}.")
        number = numbers.get(int(value), int(value))
        if not 0 <= number < config.num_labels:
            raise DataError(
                f"{where}: label {number}; the model has {config.num_labels} classes, so labels go from 0 to "
                f"{config.num_labels - 1}."
            )
        labels.append(number)
    return labels


def encode_numbers(dataset: Any, column: str) -> list[float]:
    """Reads a column of numbers.

    Raises:
        DataError: One is missing, or is none; the message names the row.
    """
    found = []
    for row, value in enumerate(dataset.with_format(None)[column]):
        number = math.nan
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            with contextlib.suppress(ValueError):
                number = float(value)
        if not math.isfinite(number):
            raise DataError(f"Column {column!r}, row {row}: expected a number, got {value!r}.")
        found.append(number)
    return found


def encode_label_sets(dataset: Any, column: str, config: Any) -> list[list[float]]:
    """Turns a column of sets of labels into rows of 0 and 1.

    A row is a list: of names or numbers of the labels that are present, or of 0 or 1 for each label of the model. It
    is read as the latter where all rows have as many numbers as the model has labels, and all are 0 or 1.

    Args:
        dataset: A ``datasets.Dataset``.
        column: Its label column.
        config: The model's config.

    Raises:
        DataError: A row is missing or is none, or a label is none of the model's.
    """
    values = list(dataset.with_format(None)[column])
    for row, value in enumerate(values):
        if not isinstance(value, (list, tuple)):
            raise DataError(f"Column {column!r}, row {row}: expected a list of labels, got {value!r}.")
    count = config.num_labels
    named = getattr(getattr(dataset.features[column], "feature", None), "names", None)
    flat = [label for value in values for label in value]
    if named is None and all(len(value) == count for value in values) and all(label in (0, 1) for label in flat):
        return [[float(label) for label in value] for value in values]
    numbers = _numbers_of(flat, [row for row, value in enumerate(values) for _ in value], column, config, named)
    found = [[0.0] * count for _ in values]
    for row, value in enumerate(values):
        for label in value:
            number = next(numbers)
            if found[row][number] and not isinstance(label, str):
                raise DataError(
                    f"Column {column!r}, row {row}: label {number} is there twice in {value!r}. Give each label once, "
                    f"or 0 or 1 for each of the model's {count} labels, in all rows."
                )
            found[row][number] = 1.0
    return found


def encode_tags(
    dataset: Any, column: str, words: Sequence[Sequence[str]], config: Any
) -> tuple[list[list[int]], dict[int, str]]:
    """Turns a column of tags, one for each word, into class numbers.

    Args:
        dataset: A ``datasets.Dataset``.
        column: Its column of tags: names, or numbers.
        words: The words of each row.
        config: The model's config.

    Returns:
        The class of each word, and the name of each class.

    Raises:
        DataError: A row has not a tag for each word, or a tag is none of the model's: of another scheme, perhaps.
    """
    values = list(dataset.with_format(None)[column])
    for row, (tags, own) in enumerate(zip(values, words, strict=True)):
        if not isinstance(tags, (list, tuple)) or len(tags) != len(own):
            got = f"{len(tags)} tags" if isinstance(tags, (list, tuple)) else repr(tags)
            raise DataError(f"Column {column!r}, row {row}: expected {len(own)} tags, one for each word; got {got}.")
    named = getattr(getattr(dataset.features[column], "feature", None), "names", None)
    flat = [tag for tags in values for tag in tags]
    numbers = _numbers_of(flat, [row for row, tags in enumerate(values) for _ in tags], column, config, named)
    found = [[next(numbers) for _ in tags] for tags in values]
    names = class_names(config) or ({name: number for number, name in enumerate(named)} if named else {})
    given = {number: name for name, number in names.items()}
    return found, {number: given.get(number, f"LABEL_{number}") for number in range(config.num_labels)}


def _numbers_of(
    values: Sequence[Any], rows: Sequence[int], column: str, config: Any, named: Sequence[str] | None
) -> Iterator[int]:
    """Class numbers of labels: by name where the data have names and the model does too, else as they are."""
    classes = class_names(config)
    table = classes or {f"LABEL_{number}": number for number in range(config.num_labels)}
    for row, value in zip(rows, values, strict=True):
        where, number = f"Column {column!r}, row {row}", value
        if named is not None and classes and isinstance(value, int) and 0 <= value < len(named):
            value = named[value]
        if isinstance(value, str):
            number = _find(value, table)
            if number is None:
                raise DataError(
                    f"{where}: the model has no label {value!r}; it has {', '.join(table)}.{_schemes(value, table)}"
                )
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < config.num_labels:
            raise DataError(
                f"{where}: expected a label of the model's, from 0 to {config.num_labels - 1} or by name; got "
                f"{value!r}."
            )
        yield number


def _schemes(tag: str, known: Iterable[str]) -> str:
    """What to say where a tag has a prefix that the model's do not have."""
    prefixes = {name[:2] for name in known if name[1:2] == "-"}
    if tag[1:2] != "-" or tag[:2] in prefixes:
        return ""
    return (
        f" The data seem to be tagged in another scheme than the model's ({', '.join(sorted(prefixes)) or 'no prefix'}"
        " and O): convert them first."
    )


def class_names(config: Any) -> dict[str, int]:
    """Name -> number of a model's classes; empty where they have no names but ``LABEL_0``, ``LABEL_1``...

    Raises:
        DataError: ``label2id`` and ``id2label`` disagree, or hold something else than numbers.
    """
    try:
        forth = {str(name): int(number) for name, number in (config.label2id or {}).items()}
        back = {str(name): int(number) for number, name in (config.id2label or {}).items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"`label2id` or `id2label` in the model's config holds no class numbers: {error}.") from error
    named = [table for table in (forth, back) if not all(map(_DEFAULT_NAME.fullmatch, table))]
    if len(named) == 2:
        plain = [{_plain(name): number for name, number in table.items()} for table in named]
        if any(plain[0].get(name, number) != number for name, number in plain[1].items()):
            raise DataError(
                f"The model's config names its classes twice, and differently: `label2id` {forth}, `id2label` by "
                f"number {back}. Correct config.json."
            )
    return named[0] if named else {}


def check_same_classes(datasets: Mapping[str, Any], column: str, config: Any) -> None:
    """Checks that data sets number their classes alike, as far as that can be told.

    Args:
        datasets: What each is for -> a ``datasets.Dataset``.
        column: Their label column.
        config: The model's config.

    Raises:
        DataError: One names its classes in another order than the model, and another has numbers alone; or two name
            the same number differently, for a model without names.
    """
    known: dict[str, dict[int, str]] = {}
    bare: list[str] = []
    for what, data in datasets.items():
        names, values = _declared_names(data, column), list(data.with_format(None)[column])
        if names is not None:
            known[what] = {number: names[number] for number in _used(values, names)}
        elif all(isinstance(value, int) and not isinstance(value, bool) for value in values):
            bare.append(what)
    for what in known:
        names = _declared_names(datasets[what], column) or []
        numbers = _numbers_of_names(names, known[what], column, config)
        moved = [known[what][number] for number, other in numbers.items() if number != other]
        if bare and not all(map(_NUMBERED.fullmatch, moved)):
            raise DataError(
                f"The {what} set numbers its classes ({', '.join(names)}) in another order than the model, and the "
                f"{bare[0]} set has numbers without names: whose they are can't be told. Give both sets names "
                "(`ClassLabel`, or text), or both the model's numbers."
            )
        for other in known:
            differing = [n for n in known[what].keys() & known[other].keys() if not numbers
                         and _plain(known[what][n]) != _plain(known[other][n])]  # fmt: skip
            if differing:
                raise DataError(
                    f"The {other} and the {what} set name class {differing[0]} differently "
                    f"({known[other][differing[0]]}; {known[what][differing[0]]}), and the model has no names for its "
                    "own. Set `id2label` and `label2id` in its config.json, or bring the data into the model's order."
                )


def _declared_names(dataset: Any, column: str) -> list[str] | None:
    """The names of a ``ClassLabel`` column."""
    return getattr(dataset.features[column], "names", None)


def _used(values: Sequence[Any], names: Sequence[str]) -> list[int]:
    return sorted({value for value in values if isinstance(value, int) and 0 <= value < len(names)})


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip()


def _find(name: str, classes: Mapping[str, int]) -> int | None:
    """Number of the class of a name, written the same or, where that leaves one, about the same."""
    for exact in (name, name.strip()):
        if exact in classes:
            return classes[exact]
    found = [number for other, number in classes.items() if _plain(other) == _plain(name)]
    return found[0] if len(found) == 1 else None


def _numbers_of_names(names: Sequence[str], used: Sequence[int] | Any, column: str, config: Any) -> dict[int, int]:
    """Number in the data -> number in the model, for the classes of a ``ClassLabel`` column that occur.

    Empty where the data have names and the model has none: the numbers are taken as they are.
    """
    classes = class_names(config)
    found = {number: _find(names[number], classes) for number in used}
    known = {number: other for number, other in found.items() if other is not None}
    if len(known) == len(found) and len(set(known.values())) == len(known):
        return known
    digits = [int(match[1]) for name in names if (match := _NUMBERED.fullmatch(name.strip()))]
    numeric = len(digits) == len(names) and not any(map(_NUMBERED.fullmatch, classes))
    if numeric and max(digits, default=0) < config.num_labels:
        # The names are the numbers; sorted as text, "10" comes before "2".
        return {number: digits[number] for number in used}
    if numeric and digits == sorted(digits):
        return {number: number for number in used}  # counted from 1, say
    if not classes and not numeric:
        return {}
    unknown = ", ".join(repr(names[number]) for number, other in found.items() if other is None)
    raise DataError(
        f"Column {column!r}: the data name their classes {', '.join(names)}; "
        + (f"of these the model has no {unknown}" if unknown else "two of these are one class of the model")
        + f". It has {', '.join(classes) or f'{config.num_labels} classes without names'}. Rename the classes of the "
        "data (`ClassLabel`), or correct `id2label` and `label2id` in the model's config.json."
    )
