"""From a model to an ONNX graph: Optimum's exporter where it runs, plain ``torch.onnx`` elsewhere."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers.utils import logging

from cahp_plugin._compat import TRANSFORMERS_MAJOR
from cahp_plugin.architectures import attention_layers, kept_state
from cahp_plugin.errors import ConfigError, ExportError, MissingDependencyError
from cahp_plugin.export.source import Source

Backend = Literal["optimum", "torch"]
OPSETS = range(14, 21)
_PRIMES = (61, 59, 53, 47, 43, 41, 37, 31, 29, 23, 19, 17, 13, 11, 7, 5)
_LARGEST_BYTES = 2**31 - 2**24  # a graph in one file is one protobuf message


def choose_backend(name: str) -> Backend:
    """Decides which exporter runs.

    Args:
        name: ``"auto"``, ``"optimum"`` or ``"torch"``.

    Returns:
        ``"optimum"`` where Optimum's exporter is installed and runs on this version of transformers (4.57), else
        ``"torch"``.

    Raises:
        ConfigError: The name is another one.
        MissingDependencyError: Optimum is asked for and can't run here.
    """
    if name not in ("auto", *get_args(Backend)):
        raise ConfigError(f"`backend` must be auto, {' or '.join(get_args(Backend))}; got {name!r}.")
    if name == "torch":
        return "torch"
    usable = TRANSFORMERS_MAJOR < 5 and _has("optimum.exporters.onnx")
    if name == "optimum" and not usable:
        raise MissingDependencyError(
            "Optimum's exporter is not installed, or does not run on this version of transformers (it needs 4.57): "
            'pip install "cahp-plugin[optimum]". The exporter "torch" runs on both.'
        )
    return "optimum" if usable else "torch"


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def write_graph(source: Source, path: Path, *, backend: Backend, opset: int) -> dict[str, int]:
    """Writes a model as an ONNX graph with dynamic batch size and sequence length.

    Args:
        source: The model.
        path: File to write.
        backend: Which exporter.
        opset: Version of ONNX's operators.

    Returns:
        The batch size and the sequence length that the graph was traced with, by axis name. Neither is a width
        of the model, so that a constant of that value in the graph was baked from the example.

    Raises:
        ExportError: The exporter fails, or the model is too large for one file.
    """
    model = source.model
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    if size > _LARGEST_BYTES:
        raise ExportError(f"The model has {size / 2**30:.1f} GiB of weights; a graph in one file holds 2 GiB at most.")
    example = _example_shape(source)
    write = _write_with_optimum if backend == "optimum" else _write_with_torch
    try:
        with kept_state(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's, about every Python branch
            model.eval()
            write(source, path, opset, example)
    except (ExportError, OSError, KeyboardInterrupt):
        raise
    except Exception as error:  # the exporters raise whatever went wrong below them
        raise ExportError(f"The {backend} exporter failed: {type(error).__name__}: {str(error)[:400]}") from error
    return example


def _example_shape(source: Source) -> dict[str, int]:
    layers = attention_layers(source.model)
    widths = {len(layer.heads) for layer in layers} | {source.head_dim}
    widths |= {side for parameter in source.model.parameters() for side in parameter.shape}
    free = [prime for prime in _PRIMES if prime not in widths and prime <= source.longest]
    if len(free) < 2:
        raise ExportError(f"The model takes {source.longest} tokens at most: too few to trace it at.")
    return {"batch_size": free[-1], "sequence_length": free[0]}


def _write_with_torch(source: Source, path: Path, opset: int, example: dict[str, int]) -> None:
    outputs = source.task.outputs
    inputs = source.random_inputs(*example.values(), padded=True, generator=torch.Generator().manual_seed(0))
    axes: dict[str, dict[int, str]] = {name: {0: "batch_size", 1: "sequence_length"} for name in inputs}
    with torch.no_grad():
        torch.onnx.export(
            _Named(source.model, tuple(outputs), tuple(inputs)),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes | outputs,
            opset_version=opset,
            dynamo=False,  # dynamo needs onnxscript, and writes no better graph for these models
        )


class _Named(torch.nn.Module):
    """A model as a function from tensors in order to its named outputs in order, which is what tracing needs."""

    def __init__(self, model: Any, outputs: tuple[str, ...], inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.outputs, self.inputs = model, outputs, inputs

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Runs the model; shapes are the model's own."""
        result = self.model(**dict(zip(self.inputs, tensors, strict=True)))
        return tuple(result[name] for name in self.outputs)


def _write_with_optimum(source: Source, path: Path, opset: int, example: dict[str, int]) -> None:
    from optimum.exporters.onnx import onnx_export_from_model

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    folder = path.parent / "optimum"
    try:
        # Validation is ours (`compare`): Optimum's logs a difference and goes on.
        onnx_export_from_model(
            source.model,
            folder,
            opset=opset,
            task=source.task.name,
            do_validation=False,
            no_post_process=True,
            **example,
        )
    finally:
        logging.set_verbosity(verbosity)
    (folder / "model.onnx").replace(path)
