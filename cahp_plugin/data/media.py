"""Reads images and recordings: none is decoded before it is needed."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from cahp_plugin.errors import DataError, MissingDependencyError


def read_image(value: Any, where: str, *, small: bool = False) -> Any:
    """Reads an image.

    Args:
        value: A PIL image, a path, bytes, or ``{"bytes", "path"}``.
        where: What it is, for messages.
        small: Whether a JPEG file is decoded at an eighth of its size: to see whether it can be read.

    Returns:
        A PIL image in RGB, turned as its camera has it on record.

    Raises:
        DataError: It can't be read.
    """
    from PIL import Image, ImageOps

    try:
        image = value if isinstance(value, Image.Image) else _image(value, where)
        if small and image is not value:
            image.draft("RGB", (1, 1))
        return ImageOps.exif_transpose(image).convert("RGB")
    except DataError:
        raise
    except Exception as error:  # Pillow's readers raise many kinds
        raise DataError(f"{where}: the image{_named(value)} can't be read: {error}") from error


def unreadable(dataset: Any, column: str) -> list[str]:
    """What of a column of images can't be read, as messages: each is decoded once, JPEG at an eighth of its size."""
    found = []
    for row, values in enumerate(dataset.with_format(None).select_columns([column])):
        try:
            read_image(values[column], f"Column {column!r}, row {row}", small=True)
        except DataError as error:
            found.append(str(error))
    return found


def read_audio(value: Any, sampling_rate: int, where: str) -> np.ndarray[Any, Any]:
    """Reads a recording.

    Args:
        value: ``{"array", "sampling_rate"}``, a path, bytes, or ``{"bytes", "path"}``.
        sampling_rate: Samples a second that are expected.
        where: What it is, for messages.

    Returns:
        Samples, float32 of shape ``(samples,)``; channels are averaged.

    Raises:
        DataError: It can't be read, is empty, or has another rate.
        MissingDependencyError: soundfile is not installed.
    """
    if isinstance(value, Mapping) and value.get("array") is not None:
        try:
            samples, rate = _samples(value["array"], where), int(value["sampling_rate"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where}: expected numbers as `array` and a `sampling_rate`; got {error!r}.") from error
    else:
        try:
            import soundfile
        except ImportError as error:
            raise MissingDependencyError(
                'Reading recordings needs soundfile: pip install "cahp-plugin[audio]".'
            ) from error
        try:
            samples, rate = soundfile.read(_opened(value, where), dtype="float32")
        except (RuntimeError, OSError, TypeError, ValueError) as error:
            raise DataError(f"{where}: the recording{_named(value)} can't be read: {error}") from error
    if rate != sampling_rate:
        raise DataError(
            f"{where}: the recording{_named(value)} has {rate} samples a second; the model takes {sampling_rate}. "
            f'Resample it first: dataset.cast_column("audio", Audio(sampling_rate={sampling_rate})), ffmpeg or sox.'
        )
    if samples.size == 0 or not np.isfinite(samples).all():
        raise DataError(f"{where}: the recording{_named(value)} is empty, or holds what is no number.")
    return samples.mean(axis=np.argmin(samples.shape), dtype=np.float32) if samples.ndim > 1 else samples


def _image(value: Any, where: str) -> Any:
    """Opens an image; not PostScript, for which Pillow runs Ghostscript on the file."""
    from PIL import Image

    Image.init()
    return Image.open(_opened(value, where), formats=[name for name in Image.OPEN if name != "EPS"])


def _samples(values: Any, where: str) -> np.ndarray[Any, Any]:
    """Samples in -1..1; those of 16 or 32 bits are whole numbers up to the largest that fits."""
    samples = np.asarray(values)
    if samples.dtype in (np.int16, np.int32):
        return samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    if samples.dtype.kind != "f":
        raise DataError(f"{where}: the samples are of type {samples.dtype}; expected floats in -1..1, int16 or int32.")
    return samples.astype(np.float32)


def _opened(value: Any, where: str) -> Any:
    """A path, or bytes as a file."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, (bytes, bytearray)):
        return io.BytesIO(value)
    if not isinstance(value, (str, os.PathLike)):
        raise DataError(f"{where}: expected a path, bytes or what is decoded from them; got {type(value).__name__}.")
    if "://" in str(value):
        raise DataError(f"{where}: {value} is an address; nothing is fetched. Download it first.")
    if not os.path.isfile(value):
        raise DataError(f"{where}: there is no file {value}.")
    return os.fspath(value)


def _named(value: Any) -> str:
    path = value.get("path") if isinstance(value, Mapping) else value
    return f" {path}" if isinstance(path, (str, os.PathLike)) else ""
