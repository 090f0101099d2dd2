"""Running an exported graph with onnxruntime, and finding it in a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from cahp_plugin.errors import DataError, ExportError
from cahp_plugin.export.parts import DECODER, ENCODER, MODEL
from cahp_plugin.export.tools import onnxruntime

EXPORT_REPORT_NAME = "cahp_export.json"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def graph_files(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Finds the graphs of an exported model in a folder.

    Returns:
        Name -> file: one ``model``, or ``encoder_model`` and ``decoder_model`` in this order, whatever stands behind
        these in the file's name (``_quantized``); empty where there is no ``.onnx`` file.

    Raises:
        ExportError: There are others.
    """
    files = sorted(Path(folder).glob("*.onnx"))
    if len(files) == 1 and not files[0].stem.startswith((ENCODER, DECODER)):
        return {MODEL: files[0]}
    pair = {name: [file for file in files if file.stem.startswith(name)] for name in (ENCODER, DECODER)}
    if len(files) == 2 and all(len(found) == 1 for found in pair.values()) and not _of_a_cache(pair[DECODER][0]):
        return {name: found[0] for name, found in pair.items()}
    if files:
        raise ExportError(
            f"{folder} holds {len(files)} graphs ({', '.join(file.name for file in files)}); expected one, or an "
            f"encoder and a decoder ({ENCODER}*.onnx, {DECODER}*.onnx) without a cache. Keep each model in a folder "
            "of its own."
        )
    return {}


def recorded_preset(folder: str | os.PathLike[str]) -> str | None:
    """The int8 preset that an exported folder has on record; ``None`` where it has none."""
    try:
        preset = json.loads(Path(folder, EXPORT_REPORT_NAME).read_text(encoding="utf-8"))["preset"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(preset) if preset else None


def _of_a_cache(decoder: Path) -> bool:
    return "with_past" in decoder.stem or "merged" in decoder.stem


def open_session(path: Path, *, threads: int | None = None, device: str = "cpu") -> Any:
    """Opens a graph.

    Args:
        path: The graph.
        threads: Threads inside an operator, which then do not spin while they wait for work: that slows whatever else
            runs. Without it, onnxruntime's choice.
        device: ``"cpu"`` or ``"cuda"``.

    Raises:
        ExportError: onnxruntime refuses it, or would run it elsewhere.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(str(path), options, providers=[PROVIDERS[device]])
    except Exception as error:  # onnxruntime raises classes of its own, without a common root but Exception
        raise ExportError(f"onnxruntime can't load {path.name}: {str(error).splitlines()[0]}") from error
    session.disable_fallback()
    if session.get_providers()[0] != PROVIDERS[device]:
        raise ExportError(f"onnxruntime runs {path} on {session.get_providers()[0]}, not on {PROVIDERS[device]}.")
    return session


def open_sessions(graphs: Mapping[str, Path]) -> dict[str, Any]:
    """Opens the graphs of a model: name -> file to name -> session; see :func:`open_session`."""
    return {name: open_session(path) for name, path in graphs.items()}


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
