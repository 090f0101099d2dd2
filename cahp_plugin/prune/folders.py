"""Folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cahp_plugin.errors import CheckpointError


def check_output_directory(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Checks that a folder may be written, before work is put into what goes there.

    Raises:
        CheckpointError: It is a file, or is not empty and ``overwrite`` is false.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; expected a folder or a new name.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise CheckpointError(f"{folder} is not empty. Pass `overwrite=True` (`--overwrite`) or another folder.")


@contextlib.contextmanager
def replaced_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Gives a temporary folder that takes the place of ``path`` when the block ends well, in one step.

    Whatever goes wrong in the block (a full disk, Ctrl-C), ``path`` stays as it was and nothing else is left.

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
