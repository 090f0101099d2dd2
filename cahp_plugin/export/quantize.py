"""Smaller numbers: int8 with measured or with precomputed ranges of the activations, and fp16."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from transformers.utils import logging as transformers_logging

from cahp_plugin.errors import DataError, ExportError
from cahp_plugin.export.graph import onnx_module
from cahp_plugin.machine import saturates_int8

logger = transformers_logging.get_logger(__name__)

Quantization = Literal["dynamic", "static", "fp16"]
#: Optimum's names of int8 arithmetic; the first is right on every processor.
Preset = Literal["avx2", "avx512_vnni", "arm64"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
_ARITHMETIC = ("Abs", "Add", "Cast", "Div", "Floor", "Log", "Mul", "Neg", "Sub")


def quantize_graph(
    source: Path,
    target: Path,
    kind: Quantization,
    *,
    preset: Preset = "avx2",
    calibration: Iterable[Mapping[str, Any]] = (),
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
    try:
        with _quiet():
            if kind == "dynamic":
                _dynamic(source, target, reduce_range=preset == "avx2")
            elif kind == "static":
                _static(source, target, calibration, reduce_range=preset == "avx2")
            else:
                _fp16(source, target)
    except (DataError, ExportError, OSError):
        raise
    except Exception as error:  # onnxruntime's tools raise whatever went wrong below them
        raise ExportError(f"Quantizing ({kind}) failed: {type(error).__name__}: {str(error)[:300]}") from error


def warn_of_saturation(preset: str | None, what: str) -> None:
    """Says that a graph's int8 products overflow on this machine, where they do."""
    if preset not in (None, "avx2") and saturates_int8():
        logger.warning(
            f"{what} has int8 weights for other processors (preset {preset}): this one has no VNNI, so products "
            "overflow and outputs are wrong here. The preset avx2 is right on every processor."
        )


def _dynamic(source: Path, target: Path, *, reduce_range: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(source),
        str(target),
        per_channel=True,
        reduce_range=reduce_range,
        weight_type=QuantType.QInt8,
        # An optimized graph holds operators that onnx can't infer the types of.
        extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx_module().TensorProto.FLOAT},
    )


def _static(source: Path, target: Path, calibration: Iterable[Mapping[str, Any]], *, reduce_range: bool) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as scratch:  # the calibrator leaves its graph where it runs
        augmented = Path(scratch) / source.name
        augmented.write_bytes(source.read_bytes())
        quantize_static(
            str(augmented),
            str(target),
            _Calibration(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx_module().TensorProto.FLOAT},
        )


class _Calibration:
    """Batches as onnxruntime's calibrator reads them."""

    def __init__(self, batches: Iterable[Mapping[str, Any]]) -> None:
        self.batches = iter(batches)
        self.count = 0

    def get_next(self) -> Mapping[str, Any] | None:
        """Returns the next batch; ``None`` behind the last.

        Raises:
            DataError: There was none.
        """
        batch = next(self.batches, None)
        if batch is None and not self.count:
            raise DataError("Static quantization needs calibration data: the calibration set is empty.")
        self.count += 1
        return batch


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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps onnxruntime's advice about shape inference beforehand, which these graphs do not need, off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
