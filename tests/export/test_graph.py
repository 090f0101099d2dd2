import pytest
import torch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from cahp_plugin.errors import ExportError
from cahp_plugin.export.graph import check_graph
from cahp_plugin.export.optimize import check_fused_heads

EXAMPLE = {"batch_size": 5, "sequence_length": 37}
FREE = {"x": (0, 1)}


def write(module, path, *, dynamic=True):
    axes = {"x": {0: "batch_size", 1: "sequence_length"}} if dynamic else None
    torch.onnx.export(
        module, (torch.zeros(5, 37, 8),), str(path), input_names=["x"], output_names=["y"], dynamic_axes=axes,
        dynamo=False, opset_version=18,
    )  # fmt: skip
    return path


class Free(torch.nn.Module):
    def forward(self, x):
        return x.reshape(x.shape[0], x.shape[1], 2, 4).sum(-1)


class Baked(torch.nn.Module):
    def forward(self, x):
        return x.reshape(-1, 37 * 1, 2, 4).sum(-1)


class Empty(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(8, 0))

    def forward(self, x):
        return (x @ self.weight).sum(-1)


def test_a_free_graph_passes(tmp_path):
    check_graph(write(Free(), tmp_path / "a.onnx"), EXAMPLE, FREE)


def test_a_traced_length_is_found(tmp_path):
    with pytest.raises(ExportError, match=r"holds 37, the sequence_length of the example"):
        check_graph(write(Baked(), tmp_path / "a.onnx"), EXAMPLE, FREE)


def test_tensors_of_size_0_are_found(tmp_path):
    with pytest.raises(ExportError, match="tensors of size 0"):
        check_graph(write(Empty(), tmp_path / "a.onnx"), EXAMPLE, FREE)


def test_fixed_axes_are_found(tmp_path):
    with pytest.raises(ExportError, match=r"`x` has fixed sides \[5, 37\]"):
        check_graph(write(Free(), tmp_path / "a.onnx", dynamic=False), EXAMPLE, FREE)


def test_an_invalid_graph_is_found(tmp_path):
    path = write(Free(), tmp_path / "a.onnx")
    model = onnx.load(str(path))
    model.graph.node[0].op_type = "Nothing"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="not valid ONNX"):
        check_graph(path, EXAMPLE, FREE)


@pytest.mark.parametrize(("heads", "fits"), [(3, True), (4, False), (12, False)])
def test_a_fused_attention_with_another_head_count_is_found(heads, fits):
    weight = onnx.numpy_helper.from_array(torch.zeros(32, 3 * 3 * 8).numpy(), "w")
    node = onnx.helper.make_node("Attention", ["x", "w", "b"], ["y"], name="fused", num_heads=heads)
    graph = onnx.helper.make_graph([node], "g", [], [], [weight])
    if fits:
        check_fused_heads(graph, head_dims={8})
    else:
        with pytest.raises(ExportError, match=f"fused was given {heads} heads for 24 channels"):
            check_fused_heads(graph, head_dims={8})
