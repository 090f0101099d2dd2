"""From a model to an ONNX graph: Optimum's exporter where it runs, plain ``torch.onnx`` elsewhere."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from pathlib import Path
from typing import Literal, get_args

import torch
from transformers.utils import logging

from cahp_plugin._compat import TRANSFORMERS_MAJOR, traceable_masks
from cahp_plugin.errors import ConfigError, ExportError, MissingDependencyError
from cahp_plugin.export.parts import Part
from cahp_plugin.export.source import Source
from cahp_plugin.export.tools import reported
from cahp_plugin.observe.inputs import speech_frames
from cahp_plugin.units import attention_layers, kept_state

logger = logging.get_logger(__name__)

Backend = Literal["optimum", "torch"]
OPSETS = range(14, 21)
_PRIMES = (61, 59, 53, 47, 43, 41, 37, 31, 29, 23, 19, 17, 13, 11, 7, 5)
_NOT_WITH_OPTIMUM = ("dinov2",)  # Optimum makes its example with an image processor, which a model in memory lacks
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
    usable = False
    with contextlib.suppress(ModuleNotFoundError):  # of Optimum itself
        usable = TRANSFORMERS_MAJOR < 5 and importlib.util.find_spec("optimum.exporters.onnx") is not None
    if name == "optimum" and not usable:
        raise MissingDependencyError(
            "Optimum's exporter is not installed, or does not run on this version of transformers (it needs 4.57): "
            'pip install "cahp-plugin[optimum]". The exporter "torch" runs on both.'
        )
    return "optimum" if usable else "torch"


def exporter_of(source: Source, name: str) -> Backend:
    """Decides which exporter runs for a model; see :func:`choose_backend`.

    ``"auto"`` takes ``"torch"`` too where Optimum does not know the architecture or the task.

    Raises:
        ExportError: Optimum is asked for and does not know the architecture or the task.
    """
    backend, kind = choose_backend(name), source.model.config.model_type
    if backend == "torch" or _optimum_knows(kind, source.task.optimum):
        return backend
    if name == "optimum":
        raise ExportError(
            f"Optimum's exporter does not export {kind!r} for {source.task.optimum!r} without more files than the "
            "model; "
            'the exporter "torch" does.'
        )
    logger.info(f"Optimum's exporter does not export {kind!r} for {source.task.optimum!r}; torch's is taken.")
    return "torch"


def _optimum_knows(kind: str, task: str) -> bool:
    import optimum.exporters.onnx.model_configs  # noqa: F401  # fills the table of tasks
    from optimum.exporters.tasks import TasksManager

    known = {name.replace("-", "_") for name in TasksManager.get_supported_model_type_for_task(task, "onnx")}
    return kind not in _NOT_WITH_OPTIMUM and kind.lower().replace("-", "_") in known


def write_graphs(source: Source, folder: Path, *, backend: Backend, opset: int) -> dict[str, int]:
    """Writes each part of a model as an ONNX graph with dynamic batch size and sequence length.

    Args:
        source: The model.
        folder: Folder to write to, one file a part, ``NAME.onnx``.
        backend: Which exporter.
        opset: Version of ONNX's operators.

    Returns:
        The sizes that the graphs were traced with, by axis name. None is a width of the model, so that a constant of
        that value in a graph was baked from the example.

    Raises:
        ExportError: The exporter fails, or the model is too large for one file.
    """
    model = source.model
    for part in source.parts:
        size = sum(parameter.numel() * 4 for parameter in part.module.parameters())
        if size > _LARGEST_BYTES:
            raise ExportError(
                f"The model has {size / 2**30:.1f} GiB of weights; a graph in one file holds 2 GiB at most."
            )
    example = _example_shape(source)
    write = _write_with_optimum if backend == "optimum" else _write_with_torch
    with reported(f"The {backend} exporter"), kept_state(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, about every Python branch
        model.eval()
        write(source, folder, opset, example)
    return example


def _example_shape(source: Source) -> dict[str, int]:
    layers = attention_layers(source.model)
    widths = {len(layer.heads) for layer in layers} | {layer.size for layer in layers}
    widths |= {side for parameter in source.model.parameters() for side in parameter.shape}
    free = [prime for prime in _PRIMES if prime not in widths and prime <= source.longest]
    if not source.has_text and len(source.parts) == 1:  # an image: its length is the config's
        return {"batch_size": free[-1]}
    if len(free) < 3:
        raise ExportError(f"The model takes {source.longest} tokens at most: too few to trace it at.")
    example = {"batch_size": free[-1], "sequence_length": free[0]}
    return example if len(source.parts) == 1 else example | {"decoder_sequence_length": free[1]}


def _write_with_torch(source: Source, folder: Path, opset: int, example: dict[str, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    given = source.random_inputs(
        example["batch_size"],
        example.get("sequence_length", 1),
        target_length=example.get("decoder_sequence_length"),
        padded=True,
        generator=generator,
    )
    for part in source.parts:
        inputs = source.part_inputs(part, given)
        given = {**given, **source.run(part, inputs)}
        with torch.no_grad(), traceable_masks():
            torch.onnx.export(
                _Named(part, tuple(inputs)),
                tuple(inputs.values()),
                str(folder / f"{part.name}.onnx"),
                input_names=list(inputs),
                output_names=list(part.outputs),
                dynamic_axes=part.inputs | part.outputs,
                opset_version=opset,
                dynamo=False,  # dynamo needs onnxscript, and writes no better graph for these models
            )


class _Named(torch.nn.Module):
    """A part as a function from tensors in order to its named outputs in order, which is what tracing needs."""

    def __init__(self, part: Part, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.part, self.inputs = part.module, part, inputs

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Runs the part; shapes are its own."""
        return tuple(self.part.run(dict(zip(self.inputs, tensors, strict=True))).values())


def _write_with_optimum(source: Source, folder: Path, opset: int, example: dict[str, int]) -> None:
    from optimum.exporters.onnx import onnx_export_from_model

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    written = folder / "optimum"
    shapes = {name: size for name, size in example.items() if name != "decoder_sequence_length"}
    if source.parts[0].inputs.keys() & {"input_features"}:
        shapes["nb_max_frames"] = speech_frames(source.config)
    try:
        # Validation is ours (`compare`): Optimum's logs a difference and goes on.
        onnx_export_from_model(
            source.model,
            written,
            opset=opset,
            task=source.task.optimum,
            do_validation=False,
            no_post_process=True,
            library_name="transformers",  # a folder of sentence-transformers would be exported as such
            **shapes,
        )
    finally:
        logging.set_verbosity(verbosity)
    for part in source.parts:
        (written / f"{part.name}.onnx").replace(folder / f"{part.name}.onnx")
