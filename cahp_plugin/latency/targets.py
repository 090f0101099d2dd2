"""What is measured: a checkpoint in torch, or a graph in onnxruntime, each as a function without arguments."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cahp_plugin.errors import ConfigError
from cahp_plugin.export.parts import DECODER, feed
from cahp_plugin.export.quantize import warn_of_saturation
from cahp_plugin.export.session import PROVIDERS, graph_files, graph_inputs, open_session, recorded_preset
from cahp_plugin.export.tools import onnx_module, onnxruntime
from cahp_plugin.observe.inputs import (
    fixed_length,
    image_shape,
    model_inputs,
    random_inputs,
    speech_frames,
    text_config,
)
from cahp_plugin.prune import load_pruned
from cahp_plugin.prune.checkpoint import load_config, model_class
from cahp_plugin.units.positions import config_positions
from cahp_plugin.units.state import call_options

_LENGTH = 128


@dataclasses.dataclass(frozen=True)
class Target:
    """One thing to measure, looked at but not loaded.

    Attributes:
        name: Short name, different from the others'.
        path: Folder or Hub id.
        graphs: Its graphs by name, in the order in which they run; empty for a checkpoint that torch runs.
        precision: ``"fp32"``, ``"fp16"``, ``"int8 dynamic"`` or ``"int8 static"``; of a checkpoint, its dtype.
        config: Its config.
        mib: Size of its weights on disk, MiB; ``None`` for a checkpoint on the Hub.
    """

    name: str
    path: str
    graphs: Mapping[str, Path]
    precision: str
    config: Any
    mib: float | None

    @property
    def backend(self) -> str:
        """``"torch"`` or ``"onnxruntime"``."""
        return "onnxruntime" if self.graphs else "torch"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs that the model needs."""
        return tuple(model_inputs(model_class(self.config, self.path)))


def find_targets(paths: Sequence[str | os.PathLike[str]]) -> list[Target]:
    """Looks at folders or Hub ids.

    Raises:
        CheckpointError: One is no model.
        ExportError: One holds several graphs.
    """
    names = _short_names([os.fspath(path) for path in paths])
    return [_look_at(name, os.fspath(path)) for name, path in zip(names, paths, strict=True)]


def _short_names(paths: list[str]) -> list[str]:
    short = [Path(path).name or path for path in paths]
    names = [name if short.count(name) == 1 else path for name, path in zip(short, paths, strict=True)]
    return [name if names.index(name) == i else f"{name} ({i + 1})" for i, name in enumerate(names)]


def _look_at(name: str, path: str) -> Target:
    graphs = graph_files(path)
    warn_of_saturation(recorded_preset(path) if graphs else None, name)
    config = load_config(path)
    files = list(graphs.values()) if graphs else sorted(Path(path).glob("*.safetensors"))
    mib = sum(file.stat().st_size for file in files) / 2**20 if files else None
    precision = str(getattr(config, "dtype", None) or "float32")
    if graphs:
        precision = " + ".join(dict.fromkeys(_precision_of(graph) for graph in graphs.values()))
    precision = {"torch.float32": "fp32", "float32": "fp32", "torch.float16": "fp16"}.get(precision, precision)
    return Target(name, path, graphs, precision, config, mib)


def _precision_of(graph: Path) -> str:
    onnx = onnx_module()
    model = onnx.load(str(graph), load_external_data=False)
    operators = {node.op_type for node in model.graph.node}
    if operators & {"DynamicQuantizeLinear", "MatMulInteger", "DynamicQuantizeMatMul", "QAttention"}:
        return "int8 dynamic"
    if "QuantizeLinear" in operators:
        return "int8 static"
    types = [tensor.data_type for tensor in model.graph.initializer]
    return "fp16" if types.count(onnx.TensorProto.FLOAT16) > types.count(onnx.TensorProto.FLOAT) else "fp32"


def check_inputs(targets: Sequence[Target]) -> None:
    """Checks that all targets can be given the same inputs.

    Raises:
        ConfigError: Some take texts and others images, images of another size, or only some decode.
    """
    kinds = {target.name: _taken(target) for target in targets}
    first = next(iter(kinds))
    for name, kind in kinds.items():
        if kind != kinds[first]:
            raise ConfigError(
                f"{first} and {name} take other inputs ({kinds[first]}; {kind}); only models that can be given the "
                "same are measured side by side."
            )


def _taken(target: Target) -> str:
    """The inputs of a target in words: their names, and the sides of those that have fixed ones."""
    sides: tuple[int, ...] = ()
    if "pixel_values" in target.inputs:
        sides = image_shape(target.config)
    elif "input_features" in target.inputs:
        sides = int(target.config.num_mel_bins), speech_frames(target.config)
    names = ", ".join(sorted(set(target.inputs) - {"attention_mask"}))
    return f"{names} of {' x '.join(map(str, sides))}" if sides else names


def sequence_lengths_of(targets: Sequence[Target], asked: Sequence[int] | None) -> tuple[int, ...]:
    """The lengths to measure at: those asked for, the one that images or speech have, or else 128 tokens."""
    if asked is not None:
        return tuple(asked)
    fixed = fixed_length(targets[0].config)
    if fixed is not None:
        return (fixed,)
    return (min([_LENGTH, *(limit for target in targets if (limit := config_positions(target.config)))]),)


def check_device(targets: Sequence[Target], device: str) -> None:
    """Checks that all targets can run where they are asked to, before anything is loaded.

    Raises:
        ConfigError: The device is unknown or absent, or a target makes no sense on it.
    """
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"`device` must be cpu or cuda; got {device!r}.")
    if device == "cpu":
        return
    if any(not target.graphs for target in targets) and not torch.cuda.is_available():
        raise ConfigError("`device` is cuda, but torch sees no CUDA device here. Nothing was measured.")
    if any(target.graphs for target in targets):
        providers = onnxruntime().get_available_providers()
        if PROVIDERS[device] not in providers:
            raise ConfigError(
                f"`device` is cuda, but this onnxruntime has only {', '.join(providers)}. Install onnxruntime-gpu; "
                "a figure from the CPU would not be one of the GPU, so nothing was measured."
            )
    pairs = [target.name for target in targets if len(target.graphs) > 1]
    if pairs:
        raise ConfigError(
            f"{', '.join(pairs)}: graphs of an encoder and a decoder are timed on the CPU only; their checkpoints are "
            "timed on the GPU too, by torch."
        )
    slow = [target.name for target in targets if target.precision == "int8 dynamic"]
    if slow:
        raise ConfigError(
            f"{', '.join(slow)}: dynamic int8 has no CUDA kernels and runs many times slower there. Export it with "
            "`--quantize fp16` for the GPU."
        )


def example_inputs(
    targets: Sequence[Target], batch_size: int, sequence_length: int, seed: int
) -> dict[str, torch.Tensor]:
    """Random inputs that every target knows, without padding; decoders of encoder-decoders get one token.

    Returns:
        Name -> tensor; see :func:`cahp_plugin.observe.inputs.random_inputs`.
    """
    smallest = min(targets, key=lambda target: getattr(text_config(target.config), "vocab_size", 0)).config
    names = [*dict.fromkeys(name for target in targets for name in target.inputs)]
    texts = [name for name in names if name.endswith("input_ids")]
    if "input_ids" in texts:
        names += ["attention_mask", "position_ids"]
    inputs = random_inputs(
        dict.fromkeys(names),
        smallest,
        batch_size=batch_size,
        sequence_length=sequence_length,
        generator=torch.Generator().manual_seed(seed),
    )
    padding = {getattr(text_config(target.config), "pad_token_id", None) for target in targets} - {None}
    for name in texts:
        other = next(token for token in range(text_config(smallest).vocab_size) if token not in padding)
        for token in padding:
            inputs[name][inputs[name] == token] = other
    return inputs


Call = Callable[[], Any]


def load_target(target: Target, *, device: str, threads: int, attn_implementation: str | None) -> Callable[..., Call]:
    """Loads a target.

    Args:
        target: What to load.
        device: ``"cpu"`` or ``"cuda"``.
        threads: Threads inside an operator, for onnxruntime; torch's are set for the whole process.
        attn_implementation: For torch; transformers' own choice where it is ``None``.

    Returns:
        A function from inputs (name -> tensor on the CPU) to the call that is timed. The call ends when the outputs
        are there; copies of inputs to a GPU are not in it.
    """
    if not target.graphs:
        return _load_torch(target, device, attn_implementation)
    return _load_onnx(target.graphs, device, threads)


def _load_torch(target: Target, device: str, attn_implementation: str | None) -> Callable[..., Call]:
    # In the type of its config, which is what a measurement says: transformers 4.57 takes float32 by itself.
    model = load_pruned(target.path, dtype="auto", attn_implementation=attn_implementation).to(device).eval()
    options = call_options(type(model))

    def prepare(inputs: dict[str, torch.Tensor]) -> Call:
        given = {name: inputs[name].to(device) for name in target.inputs}
        placed = {name: own.to(model.dtype) if own.is_floating_point() else own for name, own in given.items()}

        def call() -> None:
            with torch.inference_mode():
                model(**placed, **options)
            if device == "cuda":
                torch.cuda.synchronize()

        return call

    return prepare


def _load_onnx(graphs: Mapping[str, Path], device: str, threads: int) -> Callable[..., Call]:
    """A graph; or an encoder's and then the decoder's on what it gave, on the CPU."""
    sessions = [open_session(graph, threads=threads, device=device) for graph in graphs.values()]
    takes = [[entry.name for entry in session.get_inputs()] for session in sessions]
    gives = [[entry.name for entry in session.get_outputs()] for session in sessions]

    def prepare(inputs: dict[str, torch.Tensor]) -> Call:
        arrays = graph_inputs(takes[0], inputs)
        given = {name: tensor.numpy() for name, tensor in inputs.items()}

        def call() -> None:
            outputs = sessions[0].run(None, arrays)
            for session, names in zip(sessions[1:], takes[1:], strict=True):
                own = feed(DECODER, {**given, **dict(zip(gives[0], outputs, strict=True))})
                session.run(None, {name: own[name] for name in names})

        return call if device == "cpu" else _on_cuda(sessions[0], arrays, gives[0])

    return prepare


def _on_cuda(session: Any, arrays: Mapping[str, Any], outputs: Sequence[str]) -> Call:
    binding = session.io_binding()
    for name, array in arrays.items():
        binding.bind_ortvalue_input(name, onnxruntime().OrtValue.ortvalue_from_numpy(array, "cuda", 0))
    for name in outputs:
        binding.bind_output(name, "cuda", 0)

    def call() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return call
