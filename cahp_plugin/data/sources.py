"""Loads labelled examples from a file, a saved data set or the Hub."""

from __future__ import annotations

import glob
import shutil
import tempfile
from pathlib import Path
from typing import Any

from cahp_plugin.errors import DataError

_READERS = {
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"delimiter": "\t"}),
    ".parquet": ("parquet", {}),
}

_BUILDERS = {"arrow", "cache", "csv", "generator", "json", "pandas", "parquet", "spark", "sql", "text", "xml",
             "audiofolder", "imagefolder", "pdffolder", "videofolder", "webdataset", "hdf5", "lance"}  # fmt: skip


def load_examples(source: str, split: str | None = None) -> Any:
    """Loads a data set.

    Args:
        source: A .jsonl, .json, .csv, .tsv or .parquet file; a folder written by ``datasets``' ``save_to_disk``; or
            the id of a data set on the Hub.
        split: Split to take, where there are several. A file has only one.

    Returns:
        A ``datasets.Dataset`` with at least one row.

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
    dataset = _choose_split(found, source, split)
    if len(dataset) == 0:
        raise DataError(f"{source} is empty.")
    if path.exists():
        dataset.source_path = str(path.absolute())  # an output folder that holds it is not replaced
    return dataset


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
            told = f"{type(error).__name__}: {error}".replace(str(plain), str(path))
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

    if not any((path / name).exists() for name in ("state.json", "dataset_dict.json", "dataset_info.json")):
        raise DataError(
            f"{path} is not a data set saved by `datasets` (`save_to_disk`). Name a file inside it, if that is meant."
        )
    return datasets.load_from_disk(str(path))


def _load_hub(source: str) -> Any:
    import datasets

    name, _, configuration = source.partition(":")
    if Path(name).exists() or name in _BUILDERS:  # `datasets` would look for files in the current folder
        raise DataError(f"There is no file {source}, and {name!r} is no id of a data set on the Hub.")
    return datasets.load_dataset(name, configuration or None)


def _choose_split(found: Any, source: str, split: str | None) -> Any:
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
