"""Loads data sets: from files, folders, the Hub, lists and streams."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers.utils import logging

from cahp_plugin.errors import DataError

logger = logging.get_logger(__name__)

_READERS = {
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"delimiter": "\t"}),
    ".parquet": ("parquet", {}),
    ".txt": ("text", {}),
}
_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_RECORDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff")
_ROWS = 1000  # of a stream, written at once
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
    dataset = undecoded(_choose_split(found, source, split))
    if path.suffix == ".txt":
        dataset = _without_blank_lines(dataset)
    if len(dataset) == 0:
        raise DataError(f"{source} is empty.")
    if path.is_file():
        dataset = _with_absolute_paths(dataset, path.absolute().parent)
    if path.exists():
        dataset.source_path = str(path.absolute())  # an output folder that holds it is not replaced
    return dataset


def as_dataset(data: Any) -> Any:
    """Makes a data set of what Python users have.

    Args:
        data: A ``datasets.Dataset``; a file, folder or id as for :func:`load_examples`; a list of texts (column
            ``text``) or of rows; a streaming ``datasets.IterableDataset``, or another iterable of rows, which is
            written to a temporary folder, and read from there piece by piece.

    Returns:
        A ``datasets.Dataset`` with at least one row.

    Raises:
        DataError: It is something else, or empty.
    """
    import datasets

    if isinstance(data, (str, os.PathLike)):
        return load_examples(os.fspath(data))
    if isinstance(data, Mapping):
        raise DataError(f"A data set has the splits {', '.join(map(str, data))}: hand over one of them.")
    if isinstance(data, (list, tuple)) and data:
        rows = [{"text": row} for row in data] if all(isinstance(row, str) for row in data) else data
        if not all(isinstance(row, Mapping) for row in rows):
            raise DataError("A list of data must hold texts, or rows as dicts; it holds something else.")
        names = dict.fromkeys(name for row in rows for name in row)  # `from_list` knows those of the first row alone
        try:
            data = datasets.Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})
        except (TypeError, ValueError) as error:
            raise DataError(f"The rows do not go together, a column holds one kind of value: {error}") from error
    elif not isinstance(data, (datasets.Dataset, list, tuple)):
        if not isinstance(data, Iterable):
            raise DataError(
                f"Got a {type(data).__name__} as data; expected a `datasets.Dataset`, streaming or not, a file, a "
                "list of texts or rows, or an iterable of rows."
            )
        data = _spooled(data)
    if len(data) == 0:
        raise DataError("The data set is empty.")
    return undecoded(data)


def undecoded(dataset: Any) -> Any:
    """A data set whose images and recordings stay as they are stored until they are read."""
    import datasets

    for name, feature in dataset.features.items():
        if isinstance(feature, (datasets.Image, datasets.Audio)) and feature.decode:
            dataset = like(dataset.cast_column(name, type(feature)(decode=False)), dataset)
    return dataset


def like(dataset: Any, before: Any) -> Any:
    """A data set that stands for another, with what this library has noted of that one."""
    for name in ("source_path", "spooled"):
        if hasattr(before, name):
            setattr(dataset, name, getattr(before, name))
    return dataset


def _spooled(rows: Iterable[Mapping[str, Any]]) -> Any:
    """Writes a stream to a temporary folder, which goes with the data set, and maps the file into memory."""
    import datasets
    from datasets.arrow_writer import ArrowWriter

    folder = tempfile.TemporaryDirectory(prefix="cahp-stream-")
    path = Path(folder.name, "data.arrow")
    features = getattr(rows, "features", None)
    decoding = {name: type(feature)(decode=False) if isinstance(feature, (datasets.Image, datasets.Audio)) else feature
                for name, feature in (features or {}).items()}  # fmt: skip
    for name, feature in decoding.items():
        if features is not None and feature is not features[name]:
            rows = rows.cast_column(name, feature)  # type: ignore[attr-defined]  # a streaming data set
    count, names = 0, list(decoding)
    with ArrowWriter(
        path=str(path),
        features=datasets.Features(decoding) if decoding else None,
        writer_batch_size=None if decoding else _ROWS,  # `datasets` writes fewer images and recordings at once
    ) as writer:
        for row in rows:
            if not isinstance(row, (Mapping, str)):
                raise DataError(f"Row {count} of the stream is a {type(row).__name__}; expected a dict or a text.")
            row = {"text": row} if isinstance(row, str) else row
            names = names or list(row)
            if not set(row) <= set(names):
                raise DataError(
                    f"Row {count} of the stream has the columns {', '.join(row)}; those before it have "
                    f"{', '.join(names)}. Give each row the same, None where there is no value."
                )
            with _writing(count):
                writer.write({name: row.get(name) for name in names})
            count += 1
        if not count:
            raise DataError("The data set is empty.")
        with _writing(count - 1):
            writer.finalize()
    logger.info(
        f"{count} rows of a stream were written to a temporary folder ({path.stat().st_size / 2**20:.0f} MiB)."
    )
    dataset = datasets.Dataset.from_file(str(path))
    dataset.spooled = folder
    return dataset


@contextlib.contextmanager
def _writing(row: int) -> Iterator[None]:
    """Says where a row of a stream does not go with those before it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise DataError(
            f"Among the last {_ROWS} rows up to {row} of the stream, a value is of another kind than its column: "
            f"{error}. Give values of one kind, or a `datasets.IterableDataset` with `features`."
        ) from error


def _without_blank_lines(dataset: Any) -> Any:
    full = [row for row, text in enumerate(dataset["text"]) if text.strip()]
    if len(full) < len(dataset):
        logger.info(f"{len(dataset) - len(full)} of {len(dataset)} lines are blank and were left out.")
    return dataset.select(full) if len(full) < len(dataset) else dataset


def _with_absolute_paths(dataset: Any, folder: Path) -> Any:
    """Paths of images and recordings, which a file gives from its own folder on."""
    names = [name for name in _PATHS if getattr(dataset.features.get(name), "dtype", "") in ("string", "large_string")]

    def absolute(value: Any) -> Any:
        relative = isinstance(value, str) and "://" not in value
        return str(folder / value) if relative else value

    if not names:
        return dataset
    return dataset.map(
        lambda row: {name: absolute(row[name]) for name in names}, keep_in_memory=True, load_from_cache_file=False
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

    if any((path / name).exists() for name in ("state.json", "dataset_dict.json", "dataset_info.json")):
        return datasets.load_from_disk(str(path))
    endings = {file.suffix.lower() for file in path.rglob("*") if not file.name.startswith(".")}
    if endings & set(_IMAGES):
        with tempfile.TemporaryDirectory() as cache:
            place = glob.escape(str(path.resolve()))  # `datasets` takes it for a pattern
            return datasets.load_dataset("imagefolder", data_dir=place, cache_dir=cache, keep_in_memory=True)
    if endings & set(_RECORDINGS):
        return _load_recordings(path)
    raise DataError(
        f"{path} is not a data set saved by `datasets` (`save_to_disk`), and holds no images "
        f"({', '.join(_IMAGES)}) or recordings ({', '.join(_RECORDINGS)}). Name a file inside "
        "it, if that is meant."
    )


def _load_recordings(path: Path) -> Any:
    """Recordings and what is said in them, as the metadata file beside them has it."""
    known = [path / f"metadata{ending}" for ending in (".jsonl", ".csv", ".parquet")]
    metadata = next((file for file in known if file.is_file()), None)
    if metadata is None:
        raise DataError(f"{path} holds recordings and no metadata.jsonl or .csv with columns `file_name` and `text`.")
    dataset = _load_file(metadata)
    if "file_name" not in dataset.column_names:
        raise DataError(f"{metadata} has no column `file_name`; its columns are {', '.join(dataset.column_names)}.")
    return _with_absolute_paths(dataset.rename_column("file_name", "audio"), path.absolute())


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
