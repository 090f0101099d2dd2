"""Smaller numbers: int8 with measured or with precomputed ranges of the activations, and fp16."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

from transformers.utils import logging

from cahp_plugin.errors import DataError
from cahp_plugin.export.tools import forget_inner_shapes, onnx_module, quiet, reported
from cahp_plugin.machine import saturates_int8

logger = logging.get_logger(__name__)

Quantization = Literal["dynamic", "static", "fp16"]
#: Optimum's names of int8 arithmetic; the first is right on every processor.
Preset = Literal["avx2", "avx512_vnni", "arm64"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
Arrays = Iterable[Mapping[str, Any]]
_ARITHMETIC = ("Abs", "Add", "Cast", "Div", "Floor", "Log", "Mul", "Neg", "Sub")


def quantize_graph(
    source: Path, target: Path, kind: Quantization, *, preset: Preset = "avx2", calibration: Arrays = ()
) -> None:
    """Writes a quantized copy of an fp32 graph.

    ``"dynamic"`` quantizes the weights of all matrix products and embeddings to int8, a scale a channel, and the
    activations to uint8 at run time. ``"static"`` quantizes the matrix products with weights only (their
    activations by the smallest and largest value seen on the calibration set). ``"fp16"`` halves everything; inputs
    and outputs stay fp32.

    Args:
        source: The fp32 graph.
        target: File to write.
        kind: What to do.
        preset: ``"avx2"`` (weights of 7 bits, whose products fit the 16 bits that x86 adds pairs of them in) or, for
            processors that add them in 32 bits, ``"avx512_vnni"`` or ``"arm64"`` (weights of 8 bits).
        calibration: Batches, input name -> array, for ``"static"``.

    Raises:
        DataError: ``"static"`` without a batch.
        ExportError: onnxruntime fails, or quantized nothing.
    """
    with reported(f"Quantizing ({kind})"), quiet():
        if kind == "fp16":
            _fp16(source, target)
        else:
            _int8(source, target, calibration if kind == "static" else None, reduce_range=preset == "avx2")
            forget_inner_shapes(target)


def warn_of_saturation(preset: str | None, what: str) -> None:
    """Says that a graph's int8 products overflow on this machine, where they do."""
    if preset not in (None, "avx2") and saturates_int8():
        logger.warning(
            f"{what} has int8 weights for other processors (preset {preset}): this one has no VNNI, so products "
            "overflow and outputs are wrong here. The preset avx2 is right on every processor."
        )


def _int8(source: Path, target: Path, calibration: Arrays | None, *, reduce_range: bool) -> None:
    """Quantizes with the ranges of calibration data, or at run time without any."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_dynamic, quantize_static

    settings = {
        "per_channel": True,
        "reduce_range": reduce_range,
        "weight_type": QuantType.QInt8,
        # An optimized graph holds operators that onnx can't infer the types of.
        "extra_options": {"MatMulConstBOnly": True, "DefaultTensorType": onnx_module().TensorProto.FLOAT},
    }
    if calibration is None:
        quantize_dynamic(str(source), str(target), **settings)
        return
    batches = iter(calibration)
    first = next(batches, None)
    if first is None:
        raise DataError("Static quantization needs calibration data: the calibration set is empty.")
    given = itertools.chain([first], batches)
    with tempfile.TemporaryDirectory() as scratch:  # the calibrator leaves its graph where it runs
        augmented = Path(scratch) / source.name
        augmented.write_bytes(source.read_bytes())
        quantize_static(
            str(augmented),
            str(target),
            SimpleNamespace(get_next=lambda: next(given, None)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm"],
            activation_type=QuantType.QUInt8,
            calibrate_method=CalibrationMethod.MinMax,
            **settings,
        )


def _fp16(source: Path, target: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx = onnx_module()
    model = onnx.load(str(source))
    exact = integers_by_way_of_floats(model.graph)
    onnx.save(convert_float_to_float16(model, keep_io_types=True, node_block_list=exact), str(target))


def integers_by_way_of_floats(graph: Any) -> list[str]:
    """Names of the nodes that compute integers in floating point: T5's buckets of distances, by a logarithm.

    Half precision would put a distance at the edge of a bucket into the next one, whose bias is quite another.
    """
    types = onnx_module().TensorProto
    makers = {output: node for node in graph.node for output in node.output}
    whole = {types.INT32, types.INT64}
    found: dict[str, None] = {}
    open_ends = [node for node in graph.node if node.op_type == "Cast" and node.attribute[0].i in whole]
    while open_ends:
        for name in open_ends.pop().input:
            node = makers.get(name)
            if node is not None and node.op_type in _ARITHMETIC and node.name not in found:
                found[node.name] = None
                open_ends.append(node)
    return list(found)
