"""Loads data sets: from files, folders and the Hub."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from transformers.utils import logging

from cahp_plugin.data.media_folders import load_media_folder
from cahp_plugin.errors import DataError

logger = logging.get_logger(__name__)

_READERS = {
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"delimiter": "\t"}),
    ".parquet": ("parquet", {}),
    ".txt": ("text", {"encoding": "utf-8-sig"}),
}
_PATHS = ("image", "audio")  # columns of paths, in files

_BUILDERS = {"arrow", "cache", "csv", "generator", "json", "pandas", "parquet", "spark", "sql", "text", "xml",
             "audiofolder", "imagefolder", "pdffolder", "videofolder", "webdataset", "hdf5", "lance"}  # fmt: skip


def load_examples(source: str, split: str | None = None) -> Any:
    """Loads a data set.

    Args:
        source: A .jsonl, .json, .csv, .tsv or .parquet file, or a .txt file of a text a line; a folder of images or
            recordings, in a folder for each class or with a metadata file; a folder written by ``datasets``'
            ``save_to_disk``; or the id of a data set on the Hub. Columns ``image`` and ``audio`` of a file hold paths,
            from the file's folder on.
        split: Split to take, where there are several. A file has only one.

    Returns:
        A ``datasets.Dataset`` with at least one row. Images and recordings in it are not decoded.

    Raises:
        DataError: There is nothing to load, the split is missing or not there, or the data set is empty.
    """
    path = Path(source)
    try:
        if path.is_file():
            found = _load_file(path)
        elif path.is_dir():
            found = _load_folder(path)
        elif path.suffix in _READERS or source.count("/") > 1 or path.is_absolute():
            raise DataError(f"There is no file or folder {source}.")
        else:
            found = _load_hub(source)
    except DataError:
        raise
    except Exception as error:  # `datasets` raises a dozen kinds, pyarrow's and pandas' among them
        raise DataError(f"{source} can't be read: {type(error).__name__}: {error}") from error
    dataset = undecoded(choose_split(found, source, split))
    if path.suffix == ".txt":
        dataset = _without_blank_lines(dataset)
    if len(dataset) == 0:
        raise DataError(f"{source} is empty.")
    if path.is_file():
        dataset = _with_absolute_paths(dataset, path.absolute().parent)
    if path.exists():
        dataset.source_path = str(path.absolute())  # an output folder that holds it is not replaced
    return dataset


def undecoded(dataset: Any) -> Any:
    """A data set whose images and recordings stay as they are stored until they are read."""
    import datasets

    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, (datasets.Image, datasets.Audio)) and feature.decode:
            dataset = like(dataset.cast_column(name, type(feature)(decode=False)), dataset)
    return dataset


def like(dataset: Any, before: Any) -> Any:
    """A data set that stands for another, with what this library has noted of that one."""
    for name in ("source_path", "spooled"):
        if hasattr(before, name):
            setattr(dataset, name, getattr(before, name))
    return dataset


def _without_blank_lines(dataset: Any) -> Any:
    full = [row for row, text in enumerate(dataset["text"]) if text.strip()]
    if len(full) < len(dataset):
        logger.info(f"{len(dataset) - len(full)} of {len(dataset)} lines are blank and were left out.")
    return dataset.select(full) if len(full) < len(dataset) else dataset


def _with_absolute_paths(dataset: Any, folder: Path) -> Any:
    """Paths of images and recordings, which a file gives from its own folder on."""
    names = [
        name for name in _PATHS if getattr(dataset.features.get(name), "dtype", None) in ("string", "large_string")
    ]

    def absolute(value: Any) -> Any:
        return os.path.normpath(folder / value) if value and "://" not in value else value

    if not names:
        return dataset
    return dataset.map(
        lambda rows: {name: [absolute(value) for value in rows[name]] for name in names},
        batched=True,
        keep_in_memory=True,
        load_from_cache_file=False,
    )


def _load_file(path: Path) -> Any:
    import datasets

    if path.suffix not in _READERS:
        raise DataError(f"{path} ends with {path.suffix!r}; expected one of {', '.join(sorted(_READERS))}.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty.")
    builder, options = _READERS[path.suffix]
    # A cache of its own, in memory: the user's would serve a stale copy of a file that changed in place.
    with tempfile.TemporaryDirectory() as cache:
        plain = _plain_name(path, Path(cache))
        try:
            return datasets.load_dataset(
                builder,
                data_files=glob.escape(str(plain)),
                split="train",
                cache_dir=cache,
                keep_in_memory=True,
                **options,
            )
        except Exception as error:
            if "corresponds to no data" in str(error):  # what `datasets` says of a header without rows
                raise DataError(f"{path} is empty: it has no rows.") from error
            cause = error.__cause__ or error  # `datasets` says no more than that it failed
            told = f"{type(cause).__name__}: {cause}".replace(str(plain), str(path))
            raise DataError(f"{path} can't be read: {told}") from error


def _plain_name(path: Path, folder: Path) -> Path:
    """A second name of a file: `datasets` takes brackets and asterisks in a path for a pattern of other files."""
    plain = folder / f"data{path.suffix}"
    try:
        plain.symlink_to(path.resolve())
    except OSError:  # a system without links
        shutil.copyfile(path, plain)
    return plain


def _load_folder(path: Path) -> Any:
    import datasets

    if any((path / name).exists() for name in ("state.json", "dataset_dict.json", "dataset_info.json")):
        return datasets.load_from_disk(str(path))
    return load_media_folder(path, _load_file)


def _load_hub(source: str) -> Any:
    import datasets

    name, _, configuration = source.partition(":")
    if Path(name).exists() or name in _BUILDERS:  # `datasets` would look for files in the current folder
        raise DataError(f"There is no file {source}, and {name!r} is no id of a data set on the Hub.")
    return datasets.load_dataset(name, configuration or None)


def choose_split(found: Any, source: str, split: str | None) -> Any:
    """The split that is asked for, or the only one.

    Raises:
        DataError: There are several and none is named, or it is not among them.
    """
    import datasets

    if isinstance(found, datasets.Dataset):
        if split is not None and split != "train" and str(found.split) != split:
            raise DataError(f"{source} has no splits, so there is no {split!r} to take.")
        return found
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split not in found:
        asked = "none was named" if split is None else f"{split!r} is not one of them"
        raise DataError(f"{source} has the splits {', '.join(map(str, found))}; {asked}.")
    return found[split]
