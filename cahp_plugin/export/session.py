"""Running an exported graph with onnxruntime, and finding it in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from cahp_plugin.errors import DataError, ExportError, MissingDependencyError


def onnxruntime() -> Any:
    """Imports onnxruntime.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import onnxruntime as module
    except ImportError as error:
        raise MissingDependencyError('This needs onnxruntime: pip install "cahp-plugin[onnx]".') from error
    return module


def onnx_file(folder: str | os.PathLike[str]) -> Path | None:
    """Finds the graph in a folder.

    Returns:
        The only ``.onnx`` file; ``None`` where there is none.

    Raises:
        ExportError: There are several.
    """
    files = sorted(Path(folder).glob("*.onnx"))
    if len(files) > 1:
        raise ExportError(
            f"{folder} holds {len(files)} graphs ({', '.join(file.name for file in files)}); expected one. Keep each "
            "in a folder of its own."
        )
    return files[0] if files else None


def open_session(path: Path, *, threads: int | None = None) -> Any:
    """Opens a graph on the CPU, with ``threads`` threads inside an operator (onnxruntime's choice without it).

    Raises:
        ExportError: onnxruntime refuses it.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own, without a common root but Exception
        raise ExportError(f"onnxruntime can't load {path.name}: {str(error).splitlines()[0]}") from error


def graph_inputs(names: Iterable[str], inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Picks the inputs that a graph has, as arrays.

    A graph may lack an input: without any head in the model nothing looks at the attention mask. Token types that
    are not given are 0, as in the model.

    Raises:
        DataError: It asks for an input that is not there.
    """
    names = list(names)
    if "token_type_ids" in names and "token_type_ids" not in inputs and "input_ids" in inputs:
        inputs = {**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])}
    missing = sorted(set(names) - set(inputs))
    if missing:
        raise DataError(f"A batch lacks {', '.join(missing)}; it has {', '.join(sorted(inputs))}.")
    return {name: inputs[name].cpu().numpy() for name in names}


def run_session(session: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Runs a graph on the inputs that it has; see :func:`graph_inputs`.

    Returns:
        Output name -> tensor.

    Raises:
        DataError: It asks for an input that is not there.
    """
    outputs = session.run(None, graph_inputs((entry.name for entry in session.get_inputs()), inputs))
    names = [entry.name for entry in session.get_outputs()]
    return {name: torch.from_numpy(output) for name, output in zip(names, outputs, strict=True)}
