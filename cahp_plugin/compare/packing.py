"""What each example adds to a metric, as short text: bits as hexadecimal digits, numbers compressed."""

from __future__ import annotations

import base64
import math
import zlib
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def pack(hits: Any) -> str:
    """Bits as hexadecimal digits."""
    return np.packbits(np.asarray(hits, dtype=bool)).tobytes().hex()


def unpack(text: str, count: int) -> Array:
    """The inverse of :func:`pack`: bool of shape ``(count,)``.

    Raises:
        ValueError: These are not the digits of so many bits.
    """
    packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    if len(packed) != -(-count // 8):
        raise ValueError("bits and examples differ in number")
    return np.unpackbits(packed, count=count).astype(bool)


def pack_rows(rows: Array) -> str | None:
    """An array of numbers as text, ``"400x2:eJx..."``: its shape and the base64 of its compressed float64.

    Returns:
        The text; ``None`` for rows of objects, which have no such form.
    """
    if rows.dtype.kind not in "biuf":
        return None
    values = np.ascontiguousarray(rows, dtype="<f8")
    return f"{'x'.join(map(str, rows.shape))}:{base64.b64encode(zlib.compress(values.tobytes())).decode()}"


def pack_halves(values: Array) -> str:
    """Numbers at or above 0 as the base64 of their float16, which has three digits: ``(examples,)``."""
    halves = np.minimum(values, np.finfo(np.float16).max).astype("<f2")
    return base64.b64encode(halves.tobytes()).decode()


def unpack_halves(text: str, count: int) -> Array:
    """The inverse of :func:`pack_halves`: float64 of shape ``(count,)``.

    Raises:
        ValueError: These are not so many numbers.
    """
    packed = base64.b64decode(text, validate=True)
    if len(packed) != 2 * count:
        raise ValueError("divergences and examples differ in number")
    return np.frombuffer(packed, dtype="<f2").astype(np.float64)


def unpack_rows(text: str, count: int) -> Array:
    """The inverse of :func:`pack_rows`: float64, of ``count`` rows.

    Raises:
        ValueError: These are not so many rows.
    """
    sides, _, packed = text.partition(":")
    shape = tuple(map(int, sides.split("x")))
    size = 8 * math.prod(shape)
    if shape[0] != count or min(shape) < 0:
        raise ValueError("rows and examples differ in number")
    unpacker = zlib.decompressobj()
    try:
        values = unpacker.decompress(base64.b64decode(packed, validate=True), size + 1)  # no more, whatever it holds
    except (zlib.error, OverflowError) as error:
        raise ValueError(f"the rows are damaged: {error}") from error
    if len(values) != size:
        raise ValueError("the rows are of another size than their shape")
    return np.frombuffer(values, dtype="<f8").reshape(shape)
