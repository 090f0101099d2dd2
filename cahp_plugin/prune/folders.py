"""Folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

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
        CheckpointError: It can't be made there, is a file or a mount point, is not empty and ``overwrite`` is false,
            or holds one of the inputs or the current folder, which would be deleted with it.
    """
    folder = Path(path)
    target, here = Path(os.path.realpath(folder)), Path(os.path.realpath(os.curdir))
    try:
        parent = next(place for place in target.parents if place.exists())
        found, full = target.exists(), target.is_dir() and any(target.iterdir())
    except OSError as error:  # a name too long
        raise CheckpointError(f"{folder} can't be written: {error}. Name another folder.") from error
    if found and not target.is_dir():
        raise CheckpointError(f"{folder} is a file; expected a folder or a new name.")
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise CheckpointError(f"{folder} can't be written: no folder can be made in {parent}. Name another folder.")
    if os.path.ismount(target):
        raise CheckpointError(f"{folder} is a mount point, which can't be replaced. Name a folder inside it.")
    if not full:
        return
    held = [os.fspath(entry) for entry in inputs if entry is not None and _lies_in(entry, folder)]
    if held:
        what = "is" if os.path.realpath(held[0]) == str(target) else f"holds {held[0]}:"
        raise CheckpointError(
            f"{folder} {what} what is read here, and would be deleted with the old content of the output folder. Name "
            "another folder for the output."
        )
    if not overwrite:
        raise CheckpointError(f"{folder} is not empty. Pass `overwrite=True` (`--overwrite`) or another folder.")
    if target in (here, *here.parents):
        raise CheckpointError(f"{folder} is or holds the current folder, which is not replaced. Name another folder.")


def _lies_in(entry: str | os.PathLike[str], folder: Path) -> bool:
    """Whether a path is a folder or in it, as it is written or behind its links; or, of a folder, one of its files."""
    if not os.path.lexists(entry):
        return False
    entries = [entry, *(os.scandir(entry) if os.path.isdir(entry) else ())]
    ways: tuple[Callable[[Any], str], ...] = (os.path.abspath, os.path.realpath)
    places = [(Path(way(folder)), Path(way(part))) for way in ways for part in entries]
    return any(outer in (place, *place.parents) for outer, place in places)


@contextlib.contextmanager
def replaced_folder(
    path: str | os.PathLike[str], *, overwrite: bool = False, inputs: Iterable[str | os.PathLike[str] | None] = ()
) -> Iterator[Path]:
    """Gives a temporary folder that takes the place of ``path`` when the block ends well, in one step.

    Whatever goes wrong in the block (a full disk, Ctrl-C), ``path`` stays as it was and nothing else is left. Where
    the finished result can't take its place (another process has filled ``path`` meanwhile), it stays beside it. A
    link is followed.

    Raises:
        CheckpointError: As :func:`check_output_directory`, or the disk refuses.
    """
    check_output_directory(path, overwrite=overwrite, inputs=inputs)
    folder = Path(os.path.realpath(path))
    partial: Path | None = None
    old: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name[:40]}.", suffix=".partial", dir=folder.parent))
        yield partial
        partial.chmod(0o755)  # mkdtemp's 0o700 would lock others out
        try:
            check_output_directory(folder, overwrite=overwrite)
            if folder.exists():
                old = partial.with_suffix(".old")
                folder.rename(old)
            partial.rename(folder)
        except OSError as error:
            raise CheckpointError(f"{error} The result is in {keep_beside(partial, folder)}.") from error
    except BaseException as error:
        if old is not None and old.exists() and not folder.exists():
            old.rename(folder)
        if isinstance(error, OSError) and not isinstance(error, CheckpointError):
            raise CheckpointError(f"{folder} could not be written: {error}. Nothing is left there.") from error
        raise
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        if old is not None and folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def keep_beside(partial: Path, folder: Path) -> Path:
    """Gives a finished result that can't be at its place another name there, so that the work is not lost."""
    number = next(n for n in itertools.count(1) if not folder.with_name(f"{folder.name}-{n}").exists())
    return partial.rename(folder.with_name(f"{folder.name}-{number}"))
