"""Makes data sets of what Python users hand over: lists, streams and data sets of several splits."""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers.utils import logging

from cahp_plugin.data.sources import choose_split, load_examples, undecoded
from cahp_plugin.errors import DataError

logger = logging.get_logger(__name__)

_PIECE = 1000  # rows of a stream that are in memory at a time
_EXPECTED = (
    "expected a `datasets.Dataset` or `IterableDataset`, a dict of such by split, a file, folder or id, a list of "
    "texts or of dicts, or an iterable of dicts"
)


def as_dataset(data: Any) -> Any:
    """Makes a data set of what Python users have.

    Args:
        data: A ``datasets.Dataset``; a file, folder or id as for :func:`load_examples`; a list of texts (column
            ``text``) or of rows; a streaming ``datasets.IterableDataset``, or another iterable of rows, which is
            written to a temporary folder, and read from there piece by piece; a dict of data sets by split. A stream
            has to end.

    Returns:
        A ``datasets.Dataset`` with at least one row. Images and recordings in it are not decoded.

    Raises:
        DataError: It is something else, empty, or of several splits.

    Note:
        The temporary folder goes with the data set that is returned: keep that while parts of it are in use.
    """
    import datasets

    if isinstance(data, (str, os.PathLike)):
        return load_examples(os.fspath(data))
    if isinstance(data, Mapping) and not all(
        isinstance(part, (datasets.Dataset, datasets.IterableDataset)) for part in data.values()
    ):
        raise DataError(f"Got a {type(data).__name__} as data; {_EXPECTED} (columns: `datasets.Dataset.from_dict`).")
    if isinstance(data, (Mapping, datasets.Dataset)) and len(data) > 0:
        data = choose_split(data, "The data set", None)
    if isinstance(data, (list, tuple)) and data:
        data = datasets.Dataset.from_dict(_columns(_rows(data, texts=True)))
    elif not isinstance(data, (datasets.Dataset, Mapping, list, tuple)):
        if not isinstance(data, Iterable) or isinstance(data, (bytes, bytearray)):
            raise DataError(f"Got a {type(data).__name__} as data; {_EXPECTED}.")
        data = _spooled(data)
    if len(data) == 0:
        raise DataError("The data set is empty.")
    return undecoded(data)


def _rows(values: Iterable[Any], texts: bool) -> Iterator[dict[str, Any]]:
    for number, value in enumerate(values):
        if isinstance(value, Mapping):
            yield dict(value)
        elif texts and isinstance(value, str):
            yield {"text": value}
        else:
            raise DataError(f"Row {number} of the {type(values).__name__} is a {type(value).__name__}; {_EXPECTED}.")


def _columns(rows: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """Columns of rows: a row has None where others have a value; NaN among texts, as pandas has it, is None too."""
    rows = list(rows)
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(itertools.chain(*rows))}
    for name, values in columns.items():
        if any(isinstance(value, str) for value in values):
            columns[name] = [None if isinstance(value, float) and value != value else value for value in values]
    return columns


class _Folder(tempfile.TemporaryDirectory):
    """A temporary folder that copies of a data set share."""

    def __deepcopy__(self, memo: Any) -> _Folder:
        return self


def _spooled(stream: Any) -> Any:
    """Writes a stream to a temporary folder, which goes with the data set, and maps the files into memory."""
    import datasets

    typed = isinstance(stream, datasets.IterableDataset) and stream.features is not None
    tables = _typed(undecoded(stream)) if typed else _inferred(_rows(stream, texts=isinstance(stream, Iterator)))
    folder = _Folder(prefix="cahp-stream-")
    atexit.register(shutil.rmtree, folder.name, ignore_errors=True)  # `datasets` makes it anew for what it caches
    try:
        dataset = _joined(_write(tables, Path(folder.name)))
        size = sum(file.stat().st_size for file in Path(folder.name).iterdir()) / 2**20
    except BaseException:
        folder.cleanup()
        raise
    logger.info(f"A stream of {len(dataset)} rows was written to {folder.name} ({size:.0f} MiB), for this run only.")
    dataset.spooled = folder
    return dataset


def _typed(stream: Any) -> Iterator[Any]:
    """Pieces of a stream whose columns are known, as Arrow tables (as rows, recordings would need torchcodec)."""
    from datasets.table import table_cast

    features = stream.features
    for table in stream.with_format("arrow").iter(batch_size=_PIECE):
        yield table_cast(table.select(list(features)), features.arrow_schema)


def _inferred(rows: Iterator[dict[str, Any]]) -> Iterator[Any]:
    """Pieces of rows as Arrow tables; their types widen with what comes."""
    import datasets
    import pyarrow as pa

    features, count = None, 0
    while piece := list(itertools.islice(rows, _PIECE)):
        try:
            found = datasets.Dataset.from_dict(_columns(piece))
            features = found.features if features is None else _wider(features, found.features)
            found = _cast(found, features)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise DataError(
                f"Rows {count} to {count + len(piece) - 1} of the stream do not fit together, or with those before, "
                f"of types {features}: {error}"
            ) from error
        yield found.data.table
        count += len(piece)


def _write(tables: Iterator[Any], folder: Path) -> list[Any]:
    """Writes tables to an Arrow file, and to another from where the types differ."""
    import datasets
    import pyarrow as pa

    paths: list[str] = []
    schema, writer = None, None
    try:
        for table in tables:
            if writer is None or not table.schema.equals(schema, check_metadata=True):
                if writer is not None:
                    writer.close()
                schema = table.schema
                paths.append(str(folder / f"{len(paths)}.arrow"))
                writer = pa.ipc.new_stream(paths[-1], schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    if not paths:
        raise DataError("The data set is empty.")
    return [datasets.Dataset.from_file(path) for path in paths]


def _wider(features: Any, others: Any) -> Any:
    """Columns that hold both: what was None so far may be anything, an integer may be a float."""
    import datasets
    import pyarrow as pa

    schemas = features.arrow_schema, others.arrow_schema
    plain = [schema.remove_metadata() for schema in schemas]
    schema = pa.unify_schemas(plain, promote_options="permissive")
    wider = datasets.Features.from_arrow_schema(schema)
    for known, given in zip((others, features), reversed(plain), strict=True):  # Image and the like stay what they are
        wider.update({name: known[name] for name in given.names if given.field(name).type == schema.field(name).type})
    return wider


def _cast(dataset: Any, features: Any) -> Any:
    """A data set in wider types; columns that it lacks are None."""
    import pyarrow as pa

    for name in features.keys() - dataset.features.keys():
        dataset = dataset.add_column(name, pa.nulls(len(dataset)))
    return dataset if dataset.features == features else dataset.select_columns(list(features)).cast(features)


def _joined(parts: list[Any]) -> Any:
    import datasets

    return datasets.concatenate_datasets([*(_cast(part, parts[-1].features) for part in parts[:-1]), parts[-1]])
