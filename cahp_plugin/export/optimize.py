"""Graph optimization ahead of time, with a look at what was fused."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from cahp_plugin.errors import ExportError
from cahp_plugin.export.tools import forget_inner_shapes, onnx_module, onnxruntime, quiet, reported

Optimization = Literal["O1", "O2"]


def optimize_graph(
    source: Path, target: Path, level: Optimization, *, head_dims: Collection[int], skip_norms: bool = False
) -> dict[str, int]:
    """Writes an optimized copy of a graph.

    ``"O1"`` applies onnxruntime's basic rules (constants folded, redundant nodes removed). ``"O2"`` fuses the parts of
    a transformer (attention, layer normalisation, GELU) as well; the heads of every fused attention are checked.
    An addition and the norm behind it are fused for GPUs only: CPUs take several times as long for the fused operator.

    Args:
        source: The graph.
        target: File to write.
        level: What to do.
        head_dims: Channels a head in the model; several numbers where its layers differ.
        skip_norms: Whether additions and the norms behind them are fused.

    Returns:
        Operator -> number of fused nodes of it.

    Raises:
        ExportError: onnxruntime fails, or gave a fused attention another number of heads than its weights have.
    """
    with reported(f"Optimizing ({level})"):
        found = _basic(source, target) if level == "O1" else _fused(source, target, head_dims, skip_norms)
        forget_inner_shapes(target)
    return found


def _basic(source: Path, target: Path) -> dict[str, int]:
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return {}


def _fused(source: Path, target: Path, head_dims: Collection[int], skip_norms: bool) -> dict[str, int]:
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    for name in ("skip_layer_norm", "bias_skip_layer_norm", "embed_layer_norm"):
        setattr(options, f"enable_{name}", skip_norms)
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        # 0 heads: read the number off each layer; any other number would be stamped on all of them.
        model = optimize_model(
            str(source), model_type="bert", num_heads=0, hidden_size=0, optimization_options=options, opt_level=1
        )
        model.save_model_to_file(str(target))
    check_fused_heads(onnx_module().load(str(target)).graph, head_dims)
    return {name: count for name, count in model.get_fused_operator_statistics().items() if count}


def check_fused_heads(graph: Any, head_dims: Collection[int]) -> None:
    """Checks that each fused attention splits its channels into heads of the model's size.

    Args:
        graph: An ONNX graph.
        head_dims: Channels a head in the model; several numbers where its layers differ.

    Raises:
        ExportError: One does not.
    """
    widths = {tensor.name: tensor.dims for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "Attention":
            continue
        heads = next(attribute.i for attribute in node.attribute if attribute.name == "num_heads")
        width = widths[node.input[1]][-1] // 3  # the weights of query, key and value, side by side
        if all(heads * head_dim != width for head_dim in head_dims):
            head_dim = min(head_dims)
            raise ExportError(
                f"The fused attention {node.name} was given {heads} heads for {width} channels; heads of {head_dim} "
                f"channels make {width // head_dim}. Export with transformers 4.57, or leave `optimize` out."
            )
