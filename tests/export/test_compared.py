"""What an export compares with what, and how often it opens a graph."""

import inspect
from collections import Counter

import numpy as np
import pytest
import torch
from tiny import tiny_batches, tiny_model
from uneven import pruned
from words import encoded_words

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from cahp_plugin.errors import ExportError
from cahp_plugin.export import export as module
from cahp_plugin.export import export_pruned
from cahp_plugin.export.parity import compare
from cahp_plugin.export.session import open_sessions
from cahp_plugin.export.source import open_source

TORCH, GRAPH = "against the torch model", "against the graph that was there"


@pytest.fixture
def opened(monkeypatch):
    """Counts the sessions by file that this package opens to run a graph; exporters and optimizers open their own."""
    counts = Counter()

    class Counted(ort.InferenceSession):
        def __init__(self, path, *options, **settings):
            caller = inspect.currentframe().f_back.f_globals["__name__"]
            if caller.startswith("cahp_plugin.") and caller != "cahp_plugin.export.optimize":
                counts[str(path)] += 1
            super().__init__(path, *options, **settings)

    monkeypatch.setattr(ort, "InferenceSession", Counted)
    return counts


@pytest.mark.parametrize(
    ("name", "settings", "from_torch", "from_graphs"),
    [
        ("bert", {}, 1, 1),
        ("bert", {"optimize": "O1"}, 1, 2),
        ("bert", {"quantize": "dynamic"}, 2, 2),
        ("bert", {"quantize": "static", "calibration": tiny_batches(8)}, 2, 2),
        ("bert", {"quantize": "fp16", "optimize": "O2"}, 2, 3),
        ("t5", {"quantize": "dynamic"}, 4, 4),
        ("t5", {"quantize": "dynamic", "optimize": "O1"}, 4, 6),
    ],
)
def test_each_graph_is_opened_once(name, settings, from_torch, from_graphs, tmp_path, opened):
    if name == "bert":
        settings = settings | {"evaluation": encoded_words(tiny_model(), 8)}
    model = tiny_model() if name == "bert" else pruned(name)
    export_pruned(model, tmp_path / "a", **settings)
    assert list(opened.values()) == [1] * from_torch
    export_pruned(model, tmp_path / "graphs")
    opened.clear()
    export_pruned(tmp_path / "graphs", tmp_path / "b", **settings)
    assert list(opened.values()) == [1] * from_graphs


def outputs(path, inputs):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [session.run(["logits"], {name: tensor.numpy() for name, tensor in each.items()})[0] for each in inputs]


def differences(ours, theirs):
    return [float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)]


@pytest.fixture
def exported(tmp_path):
    """A model, the report of its graph in ``onnx``, the inputs that both are compared on, and the graph's outputs."""
    model = tiny_model()
    report = export_pruned(model, tmp_path / "onnx")
    generator, source = torch.Generator().manual_seed(0), open_source(model)
    inputs = [
        source.random_inputs(shape.batch_size, shape.sequence_length, padded=shape.padded, generator=generator)
        for shape in report.parity
    ]
    return model, report, inputs, outputs(tmp_path / "onnx" / "model.onnx", inputs)


@pytest.mark.parametrize("kind", ["dynamic", "fp16"])
def test_a_graph_that_was_there_is_not_compared_with_itself(kind, exported, tmp_path):
    _, first, inputs, before = exported
    report = export_pruned(tmp_path / "onnx", tmp_path / "a", quantize=kind)
    found = max(differences(before, outputs(tmp_path / "a" / report.files[0], inputs)))
    assert report.parity == () and report.difference == pytest.approx(found, rel=1e-4) and found > 1e-6
    assert f"Quantized graph {GRAPH}: {report.difference:.2g} at most" in str(report)
    assert "fp32 graph" not in str(report) and "0.0e+00" not in str(report)
    assert f"fp32 graph {TORCH}: " in str(first) and "was there" not in str(first)


def test_a_copy_is_said_to_be_one(exported, tmp_path):
    report = export_pruned(tmp_path / "onnx", tmp_path / "a")
    assert report.parity == () and report.difference is None
    assert "A copy of the graph that was there: nothing to compare." in str(report) and "against" not in str(report)
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "onnx" / "model.onnx").read_bytes()


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_an_optimized_graph_is_compared_with_the_one_that_was_there(level, exported, tmp_path):
    _, _, inputs, before = exported
    report = export_pruned(tmp_path / "onnx", tmp_path / "a", optimize=level)
    found = differences(before, outputs(tmp_path / "a" / "model.onnx", inputs))
    assert [entry.max_abs for entry in report.parity] == pytest.approx(found, abs=1e-8)
    assert f"Optimized graph {GRAPH}: " in str(report) and "nothing to compare" not in str(report)


def add_to_logits(number, source, target):
    graph = onnx.load(str(source))
    (bias,) = [tensor for tensor in graph.graph.initializer if tensor.name.endswith("classifier.bias")]
    moved = onnx.numpy_helper.to_array(bias) + np.float32(number)
    bias.CopyFrom(onnx.numpy_helper.from_array(moved, bias.name))
    onnx.save(graph, str(target))


@pytest.mark.parametrize("from_torch", [True, False])
def test_both_graphs_are_compared_with_what_was_given(from_torch, exported, tmp_path, monkeypatch):
    """Not the quantized graph with the optimized one, which a wrong optimization sets apart here."""
    model, _, inputs, given = exported
    source, against, called = tmp_path / "onnx", GRAPH, "the graph that was there"
    if from_torch:
        source, against, called = model, TORCH, "the model"
        with torch.no_grad():
            given = [model(**each).logits.numpy() for each in inputs]

    def wrong(plain, target, *_, **__):
        add_to_logits(0.01, plain, target)
        return {}

    monkeypatch.setattr(module, "optimize_graph", wrong)
    report = export_pruned(source, tmp_path / "a", quantize="dynamic", optimize="O1", tolerance=0.1)
    assert [entry.max_abs for entry in report.parity] == pytest.approx([0.01] * len(inputs), abs=1e-5)
    found = max(differences(given, outputs(tmp_path / "a" / report.files[0], inputs)))
    assert report.difference == pytest.approx(found, rel=1e-4)
    assert f"Optimized graph {against}: 1.0e-02 at most" in str(report)
    assert f"Quantized graph {against}: {report.difference:.2g} at most" in str(report)
    with pytest.raises(ExportError, match=f"optimized by O1 differs from {called} by"):
        export_pruned(source, tmp_path / "b", optimize="O1")


def test_a_graph_that_was_there_and_gives_no_numbers_agrees_with_none(exported, tmp_path):
    path = tmp_path / "onnx" / "model.onnx"
    good = open_sessions({"model": path})
    add_to_logits(np.nan, path, path)
    with pytest.raises(ExportError, match="`logits` from the graph that was there is not finite"):
        compare(open_source(tmp_path / "onnx"), good)
    with pytest.raises(ExportError, match="`logits` from the graph is not finite"):
        export_pruned(tmp_path / "onnx", tmp_path / "a", quantize="dynamic")
