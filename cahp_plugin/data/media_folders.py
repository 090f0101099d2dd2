"""Lists folders of images or recordings, by class folders or by a metadata file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers.utils import logging

from cahp_plugin.errors import DataError

logger = logging.get_logger(__name__)

_ENDINGS = {
    "image": (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".tga"),
    "audio": (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".aif", ".au", ".caf"),
}
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_SPLITS = {
    name: split
    for split, names in {
        "train": ("train", "training"),
        "validation": ("validation", "valid", "val", "dev"),
        "test": ("test", "testing", "eval", "evaluation"),
    }.items()
    for name in names
}


def load_media_folder(path: Path, read: Callable[[Path], Any]) -> Any:
    """Lists a folder of images or recordings; none is opened.

    The layouts and columns are those of ``datasets``' ``imagefolder`` and ``audiofolder``.

    Args:
        path: Folder with a folder for each class, or with a metadata file whose column ``file_name`` holds paths
            relative to it; directly, or inside folders for splits (``train``, ``validation``, ``test``).
        read: Reads a metadata file.

    Returns:
        A ``datasets.Dataset``, or a ``DatasetDict`` of the splits, with a column ``image`` or ``audio``, not decoded;
        and with ``label``, or with the columns of the metadata.

    Raises:
        DataError: The folder holds neither images nor recordings, or both; or its layout has no clear reading.

    Note:
        Not built by ``imagefolder``: it makes a split of each file whose *name* has "test" in it, gives no labels to
        a single class or where one file lies astray, unpacks archives, and finds nothing in a path with "::".
    """
    root = path.absolute()
    files = [Path(file).relative_to(root) for file in _files(root)]
    found = {
        column: media
        for column, endings in _ENDINGS.items()
        if (media := [file for file in files if file.suffix.lower() in endings])
    }
    if len(found) != 1:
        raise DataError(_expected(path, files, found))
    [(column, media)] = found.items()
    metadata = [file for file in files if file.name in _METADATA]
    known = {*media, *metadata}
    if others := [file for file in files if file not in known]:
        logger.info(f"{len(others)} other files in {path} were left out, such as {others[0]}.")
    tops = {file.parts[0] if len(file.parts) > 1 else "" for file in media}
    splits = sorted(tops) if tops <= set(_SPLITS) else []
    homes = [Path()] if Path() in {file.parent for file in metadata} or not splits else [Path(top) for top in splits]
    if astray := [file for file in metadata if file.parent not in homes]:
        raise DataError(f"{path}: {astray[0]} must lie in {' or '.join(str(root / home) for home in homes)}.")
    if not metadata:
        return _by_split({top: _by_class(path, root, column, media, top) for top in splits or [""]})
    parts = {str(home): _by_metadata(root, home, column, metadata, read) for home in homes}
    rows = sum(map(len, parts.values()))
    if rows < len(media):
        logger.warning(f"{path} holds {len(media)} files; its metadata names {rows}: the others are left out.")
    if homes == [Path()] and len(splits) > 1:  # one metadata file above the splits
        [everything] = parts.values()
        row_tops = [_top(value["path"], root) for value in everything[column]]
        if strange := set(row_tops) - set(splits):
            raise DataError(f"{path}: its metadata names files outside {', '.join(splits)}: {sorted(strange)[:3]}.")
        parts = {top: everything.select([i for i, of in enumerate(row_tops) if of == top]) for top in splits}
    return _by_split(parts)


def _files(folder: str | Path, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Every file below a folder, through links, in order; hidden ones and a Mac's ``__MACOSX`` are left out."""
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder around it
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith((".", "__MACOSX")):
            continue
        if entry.is_dir():
            yield from _files(entry.path, above | {real})
        else:  # a broken link too: it is found when it is read, not dropped
            yield entry.path


def _expected(path: Path, files: list[Path], found: dict[str, list[Path]]) -> str:
    what = f"images ({', '.join(_ENDINGS['image'])}) or recordings ({', '.join(_ENDINGS['audio'])})"
    if found:
        return (
            f"{path} holds images ({found['image'][0]}, ...) and recordings ({found['audio'][0]}, ...); expected a "
            "folder of one kind."
        )
    there = (
        f"It holds {', '.join(map(str, files[:5]))}{', ...' if len(files) > 5 else ''}." if files else "It is empty."
    )
    return (
        f"{path} is not a data set saved by `datasets` (`save_to_disk`), and holds no {what} in a folder for "
        f"each class, or beside a metadata.jsonl or .csv with a column `file_name`. {there} Name a file inside it, if "
        "that is meant."
    )


def _by_class(path: Path, root: Path, column: str, media: list[Path], top: str) -> Any:
    """Files of a split, or of all of the folder, with the folder that each lies in as its class."""
    import datasets

    def depth(file: Path) -> int:
        return len(file.parts) - 1 - bool(top)

    depths = sorted(media, key=depth)
    tops = {file.parts[0] for file in media}
    if depth(depths[0]) != depth(depths[-1]):
        raise DataError(
            f"{path}: {depths[0]} and {depths[-1]} do not lie equally deep, so the classes are not clear; expected "
            "class/file, or train/class/file and test/class/file."
        )
    if not top and depth(depths[0]) > 1 and tops & set(_SPLITS):
        raise DataError(
            f"{path} has the folders {', '.join(sorted(tops))}; splits are named train, validation and test. Name one "
            "of the folders, or move the others away."
        )
    mine = [file for file in media if not top or file.parts[0] == top]
    dataset = datasets.Dataset.from_dict({column: [str(root / file) for file in mine]})
    dataset = dataset.cast_column(column, _feature(column))
    if depth(depths[0]) == 0:
        return dataset
    names = sorted({file.parent.name for file in media})
    numbers = {name: number for number, name in enumerate(names)}
    row_labels = [numbers[file.parent.name] for file in mine]
    return dataset.add_column("label", row_labels).cast_column("label", datasets.ClassLabel(names=names))


def _by_metadata(root: Path, home: Path, column: str, metadata: list[Path], read: Callable[[Path], Any]) -> Any:
    import datasets

    here = [root / file for file in metadata if file.parent == home]
    if len(here) != 1:
        has = "no metadata file" if not here else f"{', '.join(file.name for file in here)}"
        raise DataError(f"{root / home} has {has}; expected one of {', '.join(_METADATA)}.")
    dataset = read(here[0])
    name = next((name for name in ("file_name", column) if name in dataset.column_names), None)
    if name is None:
        raise DataError(f"{here[0]} has no column `file_name`; its columns are {', '.join(dataset.column_names)}.")
    for row, value in enumerate(dataset[name]):
        if not isinstance(value, str) or not value or "://" in value:
            raise DataError(f"{here[0]}: column {name!r}, row {row}: expected the path of a file; got {value!r}.")
    paths = [os.path.normpath(root / home / value) for value in dataset[name]]
    media = datasets.Dataset.from_dict({column: paths}).cast_column(column, _feature(column))
    rest = dataset.remove_columns([each for each in {name, column} if each in dataset.column_names])
    return datasets.concatenate_datasets([media, rest], axis=1) if rest.column_names else media


def _feature(column: str) -> Any:
    import datasets

    return {"image": datasets.Image, "audio": datasets.Audio}[column](decode=False)


def _top(file: str, root: Path) -> str:
    return os.path.relpath(file, root).split(os.sep)[0]


def _by_split(parts: dict[str, Any]) -> Any:
    """The splits by the names that `datasets` gives them; several folders of one split are put together."""
    import datasets

    if not set(parts) <= set(_SPLITS):
        [dataset] = parts.values()
        return dataset
    merged: dict[str, list[Any]] = {}
    for name, part in parts.items():
        merged.setdefault(_SPLITS[name], []).append(part)
    return datasets.DatasetDict({name: datasets.concatenate_datasets(found) for name, found in merged.items()})
