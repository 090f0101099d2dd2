"""What the tools for ONNX graphs have in common: where they come from, how they fail, what they print."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cahp_plugin.errors import DataError, ExportError, MissingDependencyError


def onnx_module() -> Any:
    """Imports onnx.

    Raises:
        MissingDependencyError: It is not installed.
    """
    return _needed("onnx")


def onnxruntime() -> Any:
    """Imports onnxruntime.

    Raises:
        MissingDependencyError: It is not installed.
    """
    return _needed("onnxruntime")


def _needed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(f'This needs {name}: pip install "cahp-plugin[onnx]".') from error


def forget_inner_shapes(graph: Path) -> None:
    """Removes the shapes of a graph's inner values from its file.

    Where onnxruntime is told them, it fuses an addition and the norm behind it to ``SkipLayerNormalization``, which
    takes several times as long on CPUs as the two do (onnxruntime 1.32). The shapes of inputs and outputs stay.
    """
    onnx = onnx_module()
    model = onnx.load(str(graph))
    del model.graph.value_info[:]
    onnx.save(model, str(graph))


@contextlib.contextmanager
def reported(what: str) -> Iterator[None]:
    """Lets a tool fail by one error, whatever it raises.

    Raises:
        ExportError: It fails.
    """
    try:
        yield
    except (DataError, ExportError, OSError):
        raise
    except Exception as error:  # these tools raise whatever went wrong below them
        raise ExportError(f"{what} failed: {type(error).__name__}: {str(error)[:400]}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps onnxruntime's advice about shape inference and fusion, which these graphs do not need, off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
