"""int8 for other processors than the one that exports."""

import json
import logging

import numpy as np
import pytest
import torch
from commands import prune_arguments
from tiny import tiny_batches, tiny_model
from words import tiny_tokenizer

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from cahp_plugin import machine
from cahp_plugin.cli import main
from cahp_plugin.errors import ConfigError
from cahp_plugin.export import export_pruned
from cahp_plugin.export.session import recorded_preset
from cahp_plugin.latency import measure_latency
from cahp_plugin.machine import saturates_int8

VNNI, OLD = ("avx2", "avx512_vnni"), ("avx2",)


def export(folder, **settings):
    kind = settings.setdefault("quantize", "dynamic")
    if kind == "static":
        settings["calibration"] = tiny_batches(8)
    return export_pruned(tiny_model(), folder, tokenizer=tiny_tokenizer(), **settings)


def largest_pair(graph):
    """Largest sum that two neighbouring products of a row's sum can reach: u8 activation times s8 weight, twice.

    ``vpmaddubsw`` of AVX2 adds them in 16 bits, and cuts off what exceeds 32,767.
    """
    model = onnx.load(str(graph))
    weights = [onnx.numpy_helper.to_array(tensor).astype(int) for tensor in model.graph.initializer
               if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2]  # fmt: skip
    assert weights
    pairs = []
    for weight in weights:
        even = weight[: len(weight) // 2 * 2].reshape(-1, 2, weight.shape[1])
        # the inputs that are largest where both weights have one sign
        pairs += [255 * np.maximum(even, 0).sum(1).max(), -255 * np.minimum(even, 0).sum(1).min()]
    return max(pairs)


@pytest.mark.parametrize("flags", [VNNI, OLD])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_the_default_is_right_on_every_processor_whatever_exports(flags, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "cpu_flags", lambda: flags)
    report = export(tmp_path / "a", quantize=kind)
    assert report.preset == recorded_preset(tmp_path / "a") == "avx2"
    assert largest_pair(tmp_path / "a" / report.files[0]) <= 32767


@pytest.mark.parametrize("preset", ["avx512_vnni", "arm64"])
def test_the_others_go_by_name_and_are_on_record(preset, tmp_path):
    report = export(tmp_path / "a", preset=preset)
    assert report.preset == recorded_preset(tmp_path / "a") == preset and preset in str(report)
    assert json.loads((tmp_path / "a" / "cahp_export.json").read_text())["preset"] == preset
    assert largest_pair(tmp_path / "a" / report.files[0]) > 32767  # finer, and too much for AVX2


def test_a_graph_that_is_exported_on_keeps_its_preset(tmp_path):
    export(tmp_path / "a", preset="avx512_vnni")
    assert export_pruned(tmp_path / "a", tmp_path / "b").preset == recorded_preset(tmp_path / "b") == "avx512_vnni"
    with pytest.raises(ConfigError, match=r"is int8 already \(preset avx512_vnni\)"):
        export_pruned(tmp_path / "b", tmp_path / "c", quantize="dynamic")


def test_where_products_overflow_it_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(machine, "cpu_flags", lambda: VNNI)
    with caplog.at_level(logging.WARNING):
        export(tmp_path / "a", preset="avx512_vnni")
        measure_latency([tmp_path / "a"], sequence_lengths=[4], rounds=2, warmup=0, memory=False)
    assert not [record for record in caplog.records if "VNNI" in record.getMessage()]
    monkeypatch.setattr(machine, "cpu_flags", lambda: OLD)
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    for use in (
        lambda: export(tmp_path / "b", preset="avx512_vnni"),
        lambda: measure_latency([tmp_path / "a"], sequence_lengths=[4], rounds=2, warmup=0, memory=False),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            use()
        assert len([r for r in caplog.records if "this one has no VNNI" in r.getMessage()]) == 1
    monkeypatch.setattr(machine.platform, "machine", lambda: "arm64")
    assert not saturates_int8()


@pytest.mark.skipif(not saturates_int8(), reason="this processor adds int8 products in 32 bits")
def test_this_processor_overflows_and_the_default_does_not(tmp_path):
    """What the fault looks like where it happens: a layer whose products all have one sign."""
    model = tiny_model(num_labels=3)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.intermediate.dense.weight.abs_()
            layer.attention.output.dense.weight.abs_()
    drift = {}
    for preset in ("avx2", "avx512_vnni"):
        report = export_pruned(model, tmp_path / preset, quantize="dynamic", preset=preset)
        drift[preset] = report.difference
    assert drift["avx2"] < drift["avx512_vnni"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "avx9"}, "`preset` must be one of avx2, avx512_vnni, arm64; got 'avx9'"),
        ({"preset": "avx2", "quantize": "fp16"}, "`preset` is of int8 arithmetic, and `quantize` is 'fp16'"),
        ({"preset": "avx2", "quantize": None}, "`preset` is of int8 arithmetic, and `quantize` is None"),
    ],
)
def test_presets_that_make_no_sense(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        export_pruned(tiny_model(), tmp_path / "a", **settings)


def test_commands_take_a_preset(given, capsys):
    arguments = ["export", "-m", str(given / "model"), "-o", str(given / "a"), "--quantize", "dynamic", "--quiet"]
    assert main([*arguments, "--preset", "avx512_vnni", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["preset"] == recorded_preset(given / "a") == "avx512_vnni"
    arguments = prune_arguments(given, "--num-heads", "6", "--epochs", "0", "--no-figures", output="out")
    more = ["--sequence-length", "4", "--rounds", "2", "--warmup", "0", "--no-memory", "--preset", "arm64", "--json"]
    assert main(["deploy", *arguments[1:], *more]) == 0
    exports = json.loads(capsys.readouterr().out)["exports"]
    presets = {name: export["preset"] for name, export in exports.items()}
    assert presets == {"dense": None, "dense-int8": "arm64", "pruned-onnx": None, "pruned-int8": "arm64"}
    assert recorded_preset(given / "out" / "pruned-int8") == "arm64" and recorded_preset(given / "out") is None
