"""Folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from cahp_plugin.errors import CheckpointError


def check_output_directory(
    path: str | os.PathLike[str], *, overwrite: bool = False, inputs: Iterable[str | os.PathLike[str] | None] = ()
) -> None:
    """Checks that a folder may be written, before work is put into what goes there.

    Args:
        path: The folder.
        overwrite: Whether it may be replaced where it is not empty.
        inputs: What the work reads: files, folders, or ids of the Hub, which are no files here.

    Raises:
        CheckpointError: It is a file, is not empty and ``overwrite`` is false, or holds one of the inputs, which
            would be deleted with it.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; expected a folder or a new name.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    held = [os.fspath(entry) for entry in inputs if entry is not None and _lies_in(entry, folder)]
    if held:
        what = "is" if os.path.realpath(held[0]) == os.path.realpath(folder) else f"holds {held[0]}:"
        raise CheckpointError(
            f"{folder} {what} what is read here, and would be deleted with the old content of the output folder. Name "
            "another folder for the output."
        )
    if not overwrite:
        raise CheckpointError(f"{folder} is not empty. Pass `overwrite=True` (`--overwrite`) or another folder.")


def _lies_in(entry: str | os.PathLike[str], folder: Path) -> bool:
    """Whether a path is a folder or in it, as it is written or behind its links."""
    if not os.path.lexists(entry):
        return False
    return any(
        resolve(folder) in (place, *place.parents) for resolve in (_absolute, _real) for place in [resolve(entry)]
    )


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(path))


def _real(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def replaced_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Gives a temporary folder that takes the place of ``path`` when the block ends well, in one step.

    Whatever goes wrong in the block (a full disk, Ctrl-C), ``path`` stays as it was and nothing else is left. Where
    another process has filled ``path`` meanwhile, and it may not be replaced, the result stays beside it.

    Raises:
        CheckpointError: As :func:`check_output_directory`, or the disk refuses.
    """
    folder = Path(path).absolute()
    check_output_directory(folder, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    old: Path | None = None
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp's 0o700 would lock others out
        if not overwrite and folder.is_dir() and any(folder.iterdir()):
            beside = partial.with_name(f"{folder.name}-{os.getpid()}")
            partial.rename(beside)
            raise CheckpointError(f"{folder} was filled by another process meanwhile. The result is in {beside}.")
        if folder.exists():
            old = partial.with_suffix(".old")
            folder.rename(old)
        partial.rename(folder)
    except BaseException as error:
        if old is not None and old.exists() and not folder.exists():
            old.rename(folder)
        if isinstance(error, OSError) and not isinstance(error, CheckpointError):
            raise CheckpointError(f"{folder} could not be written: {error}. Nothing is left there.") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if old is not None and folder.exists():
            shutil.rmtree(old, ignore_errors=True)
