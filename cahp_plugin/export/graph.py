"""What an exported graph must and must not contain."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from cahp_plugin.errors import ExportError
from cahp_plugin.export.tools import onnx_module

#: Operators whose integer inputs are shapes or places, where a traced size would be frozen into the graph.
_SHAPED_BY = {"Reshape", "Expand", "Tile", "ConstantOfShape", "Slice", "Range"}


def check_graph(path: Path, example: Mapping[str, int], free: Mapping[str, Collection[int]]) -> None:
    """Checks a graph without running it.

    It passes ``onnx.checker`` with full type checks and a strict shape inference with data propagation; no initializer
    has a side of 0; the inputs' axes are free where they have to be; no shape holds a size of the traced example.

    Args:
        path: The graph.
        example: Axis name -> size in the example that the graph was traced with.
        free: Input name -> its axes that must be free.

    Raises:
        ExportError: It does not.
    """
    onnx = onnx_module()
    try:
        onnx.checker.check_model(str(path), full_check=True)
        graph = onnx.shape_inference.infer_shapes(
            onnx.load(str(path)), check_type=True, strict_mode=True, data_prop=True
        ).graph
    except Exception as error:  # onnx raises classes of its compiled part
        raise ExportError(f"The graph is not valid ONNX: {str(error).splitlines()[0]}") from error
    empty = [tensor.name for tensor in graph.initializer if 0 in tensor.dims]
    if empty:
        raise ExportError(f"The graph holds tensors of size 0: {', '.join(empty[:4])}.")
    for entry in graph.input:
        sides = entry.type.tensor_type.shape.dim
        fixed = [sides[axis].dim_value for axis in free.get(entry.name, ()) if not sides[axis].dim_param]
        if fixed:
            raise ExportError(f"The input `{entry.name}` has fixed sides {fixed}; batch size and length must be free.")
    baked = [(name, value) for name, value in _shape_constants(onnx, graph) if value in example.values()]
    if baked:
        name, value = baked[0]
        axis = next(axis for axis, size in example.items() if size == value)
        raise ExportError(f"The node {name} holds {value}, the {axis} of the example: the graph has that size only.")


def _shape_constants(onnx: Any, graph: Any) -> Iterator[tuple[str, int]]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants.update((node.output[0], part.t) for part in node.attribute if part.name == "value")
    for node in graph.node:
        if node.op_type not in _SHAPED_BY:
            continue
        for name in node.input if node.op_type in ("Range", "ConstantOfShape") else node.input[1:]:
            tensor = constants.get(name)
            if tensor is not None and tensor.data_type == onnx.TensorProto.INT64:
                for value in onnx.numpy_helper.to_array(tensor).reshape(-1).tolist():
                    yield node.name, value
