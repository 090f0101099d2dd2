"""What is measured: a checkpoint in torch, or a graph in onnxruntime, each as a function without arguments."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cahp_plugin.errors import ConfigError
from cahp_plugin.export.graph import onnx_module
from cahp_plugin.export.session import graph_inputs, onnx_file, onnxruntime
from cahp_plugin.prune import load_pruned
from cahp_plugin.prune.checkpoint import load_config

CUDA_PROVIDER = "CUDAExecutionProvider"
CPU_PROVIDER = "CPUExecutionProvider"


@dataclasses.dataclass(frozen=True)
class Target:
    """One thing to measure, looked at but not loaded.

    Attributes:
        name: Short name, different from the others'.
        path: Folder or Hub id.
        graph: Its graph; ``None`` for a checkpoint that torch runs.
        precision: ``"fp32"``, ``"fp16"``, ``"int8 dynamic"`` or ``"int8 static"``; of a checkpoint, its dtype.
        config: Its config.
        mib: Size of its weights on disk, MiB; ``None`` for a checkpoint on the Hub.
    """

    name: str
    path: str
    graph: Path | None
    precision: str
    config: Any
    mib: float | None

    @property
    def backend(self) -> str:
        """``"torch"`` or ``"onnxruntime"``."""
        return "torch" if self.graph is None else "onnxruntime"


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
    graph = onnx_file(path)
    config = load_config(path)
    files = [graph] if graph is not None else sorted(Path(path).glob("*.safetensors"))
    mib = sum(file.stat().st_size for file in files) / 2**20 if files else None
    precision = _precision_of(graph) if graph is not None else str(getattr(config, "dtype", None) or "float32")
    precision = {"torch.float32": "fp32", "float32": "fp32", "torch.float16": "fp16"}.get(precision, precision)
    return Target(name, path, graph, precision, config, mib)


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


def check_device(targets: Sequence[Target], device: str) -> None:
    """Checks that all targets can run where they are asked to, before anything is loaded.

    Raises:
        ConfigError: The device is unknown or absent, or a target makes no sense on it.
    """
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"`device` must be cpu or cuda; got {device!r}.")
    if device == "cpu":
        return
    if any(target.graph is None for target in targets) and not torch.cuda.is_available():
        raise ConfigError("`device` is cuda, but torch sees no CUDA device here. Nothing was measured.")
    if any(target.graph is not None for target in targets):
        providers = onnxruntime().get_available_providers()
        if CUDA_PROVIDER not in providers:
            raise ConfigError(
                f"`device` is cuda, but this onnxruntime has only {', '.join(providers)}. Install onnxruntime-gpu; "
                "a figure from the CPU would not be one of the GPU, so nothing was measured."
            )
    slow = [target.name for target in targets if target.precision == "int8 dynamic"]
    if slow:
        raise ConfigError(
            f"{', '.join(slow)}: dynamic int8 has no CUDA kernels and runs many times slower there. Export it with "
            "`--quantize fp16` for the GPU."
        )


def example_inputs(targets: Sequence[Target], batch_size: int, sequence_length: int, seed: int) -> dict[str, Any]:
    """Random token ids that every target knows, without padding: name -> int64 ``(batch_size, sequence_length)``."""
    vocabulary = min(int(target.config.vocab_size) for target in targets)
    padding = {getattr(target.config, "pad_token_id", None) for target in targets}
    tokens = torch.randint(0, vocabulary, (batch_size, sequence_length), generator=torch.Generator().manual_seed(seed))
    other = next(token for token in range(vocabulary) if token not in padding)
    for token in padding - {None}:
        tokens[tokens == token] = other
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


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
    if target.graph is None:
        return _load_torch(target, device, attn_implementation)
    return _load_onnx(target.graph, device, threads)


def _load_torch(target: Target, device: str, attn_implementation: str | None) -> Callable[..., Call]:
    model = load_pruned(target.path, attn_implementation=attn_implementation).to(device).eval()

    def prepare(inputs: dict[str, torch.Tensor]) -> Call:
        placed = {name: tensor.to(device) for name, tensor in inputs.items()}

        def call() -> None:
            with torch.inference_mode():
                model(**placed)
            if device == "cuda":
                torch.cuda.synchronize()

        return call

    return prepare


def _load_onnx(graph: Path, device: str, threads: int) -> Callable[..., Call]:
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Threads that spin for work would slow the other models of the round.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = CUDA_PROVIDER if device == "cuda" else CPU_PROVIDER
    session = ort.InferenceSession(str(graph), options, providers=[wanted])
    session.disable_fallback()
    if session.get_providers()[0] != wanted:
        raise ConfigError(f"onnxruntime runs {graph} on {session.get_providers()[0]}, not on {wanted}.")
    names = [entry.name for entry in session.get_inputs()]
    outputs = [entry.name for entry in session.get_outputs()]

    def prepare(inputs: dict[str, torch.Tensor]) -> Call:
        arrays = graph_inputs(names, inputs)
        if device == "cpu":
            return lambda: session.run(None, arrays)
        binding = session.io_binding()
        for name, array in arrays.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
        for name in outputs:
            binding.bind_output(name, "cuda", 0)

        def call() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return call

    return prepare
