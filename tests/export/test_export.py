import dataclasses
import json
import logging
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import transformers
from tiny import ARCHITECTURES, model_inputs, tiny_batches, tiny_model
from words import encoded_words, tiny_tokenizer

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from cahp_plugin import CAHPImportance, CAHPPruner, save_pruned
from cahp_plugin._compat import TRANSFORMERS_MAJOR
from cahp_plugin.errors import CheckpointError, ConfigError, DataError, ExportError, MissingDependencyError
from cahp_plugin.export import ExportReport, export_pruned, open_session, run_session
from cahp_plugin.export.to_onnx import choose_backend
from cahp_plugin.units import kept_set

BACKENDS = sorted({"torch", choose_backend("auto")})
UNEVEN = {0: (1, 3), 1: (0, 1, 2), 2: (2,)}
EMPTY_LAYER = {0: (1, 3), 1: (), 2: (0, 1, 2, 3)}
NO_HEADS = {0: (), 1: (), 2: ()}


def pruned(name="bert", kept=EMPTY_LAYER, model=None):
    model = tiny_model(name) if model is None else model
    CAHPPruner(model, model_inputs(), importance=CAHPImportance(kept)).step()
    return model


def with_head(name, auto_class):
    """A random model of another task with the body of a tiny classifier."""
    config = tiny_model(name, num_labels=2).config
    model = getattr(transformers, auto_class).from_config(config)
    model.base_model.load_state_dict(tiny_model(name).base_model.state_dict(), strict=False)
    return model.eval()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kept", [UNEVEN, EMPTY_LAYER, NO_HEADS], ids=["uneven", "empty-layer", "no-heads"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_graph_computes_what_the_model_computes(name, kept, backend, tmp_path):
    model = pruned(name, kept)
    report = export_pruned(model, tmp_path / "onnx", backend=backend, tolerance=1e-5)
    assert report.backend == backend and report.task == "text-classification"
    assert report.num_heads == sum(map(len, kept.values()))
    assert len(report.parity) >= 4 and {entry.padded for entry in report.parity} == {True, False}
    inputs = model_inputs(seed=3)  # not one of the inputs that the export compared
    with torch.no_grad():
        expected = model(**inputs).logits
    computed = run_session(open_session(tmp_path / "onnx" / report.files[0]), inputs)["logits"]
    assert torch.allclose(computed, expected, atol=1e-5)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "onnx")
    assert kept_set(config).heads == kept


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_either_attention_exports(backend, attn_implementation, tmp_path):
    model = pruned(model=tiny_model(attn_implementation=attn_implementation))
    export_pruned(model, tmp_path / "onnx", backend=backend, tolerance=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("auto_class", "task", "outputs"),
    [
        ("AutoModelForTokenClassification", "token-classification", ["logits"]),
        ("AutoModelForQuestionAnswering", "question-answering", ["start_logits", "end_logits"]),
        ("AutoModelForMaskedLM", "fill-mask", ["logits"]),
        ("AutoModel", "feature-extraction", ["last_hidden_state"]),
    ],
)
@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_every_task_of_the_architectures(name, auto_class, task, outputs, backend, tmp_path):
    model = pruned(model=with_head(name, auto_class))
    report = export_pruned(model, tmp_path / "onnx", backend=backend)
    assert report.task == task
    session = open_session(tmp_path / "onnx" / report.files[0])
    assert [entry.name for entry in session.get_outputs()] == outputs


def test_a_classifier_exports_its_features_too(tmp_path):
    model = pruned()
    report = export_pruned(model, tmp_path / "onnx", task="feature-extraction")
    inputs = model_inputs()
    found = run_session(open_session(tmp_path / "onnx" / report.files[0]), inputs)
    with torch.no_grad():
        assert torch.allclose(found["last_hidden_state"], model.base_model(**inputs).last_hidden_state, atol=1e-5)


@pytest.mark.parametrize(("kind", "file"), [("dynamic", "model_quantized.onnx"), ("fp16", "model_fp16.onnx")])
def test_quantized_graphs_are_smaller_and_close(kind, file, tmp_path):
    report = export_pruned(
        pruned(model=tiny_model(vocab_size=8000)),
        tmp_path / "onnx",
        quantize=kind,
        evaluation=encoded_words(tiny_model(), 40),
        tokenizer=tiny_tokenizer(),
    )
    assert [path.name for path in (tmp_path / "onnx").glob("*.onnx")] == [file]
    assert report.mib < 0.8 * report.fp32_mib and 0 < report.difference < 0.5
    assert report.agreement > 0.8 and report.quantized.num_examples == 40
    assert (report.preset is None) == (kind == "fp16")
    assert (tmp_path / "onnx" / "tokenizer_config.json").is_file()
    written = json.loads((tmp_path / "onnx" / "cahp_export.json").read_text())
    assert written | {"output": str(tmp_path / "onnx")} == json.loads(json.dumps(report.to_dict()))
    assert "output" not in written and "predictions" not in written["fp32"]
    for part in (f"{report.fp32_mib:.1f} -> {report.mib:.1f} MiB", "Same prediction as fp32", kind):
        assert part in str(report)


def op_counts(path):
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def test_dynamic_int8_quantizes_products_and_embeddings(tmp_path):
    counts = op_counts(exported(tmp_path / "a", quantize="dynamic"))
    # 2 layers with heads: query, key, value, output; 3 layers of 2 in the feed-forward part; pooler and classifier.
    assert counts["MatMulInteger"] == 2 * 4 + 3 * 2 + 2


def exported(folder, **settings):
    return folder / export_pruned(pruned(), folder, **settings).files[0]


def test_static_int8_uses_the_ranges_of_the_calibration_set(tmp_path):
    batches = tiny_batches(40)
    path = exported(tmp_path / "a", quantize="static", calibration=batches,
                    evaluation=encoded_words(tiny_model(), 40))  # fmt: skip
    counts = op_counts(path)
    assert counts["QuantizeLinear"] > 0 and "DynamicQuantizeLinear" not in counts
    report = json.loads((tmp_path / "a" / "cahp_export.json").read_text())
    assert report["agreement"] > 0.7 and 0 < report["difference"] < 0.5


@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.parametrize("kept", [UNEVEN, EMPTY_LAYER], ids=["uneven", "empty-layer"])
def test_an_optimized_graph_is_held_to_the_same_tolerance(level, kept, tmp_path):
    report = export_pruned(pruned(kept=kept), tmp_path / "a", optimize=level, quantize="dynamic", tolerance=1e-5)
    assert report.optimize == level and max(entry.max_abs for entry in report.parity) < 1e-4
    if level == "O2":
        assert report.fused["LayerNormalization"] > 0 and "Fused" in str(report)
        assert report.fused.keys() & {"SkipLayerNormalization", "EmbedLayerNormalization"} == set()


@pytest.mark.parametrize("optimize", [None, "O2"])
@pytest.mark.parametrize("quantize", [None, "dynamic", "static"])
def test_no_addition_is_fused_with_its_norm_when_a_graph_is_loaded(quantize, optimize, tmp_path):
    """CPUs take several times as long for that operator of onnxruntime as for the two."""
    calibration = tiny_batches(8) if quantize == "static" else None
    path = exported(tmp_path / "a", quantize=quantize, optimize=optimize, calibration=calibration)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "as-run.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    counts = op_counts(tmp_path / "as-run.onnx")
    assert counts["LayerNormalization"] == 7 and counts["SkipLayerNormalization"] == 0  # 3 layers of 2, embeddings


def test_a_graph_that_was_exported_before_is_quantized(tmp_path):
    save_pruned(pruned(), tmp_path / "pruned", tokenizer=tiny_tokenizer())
    first = export_pruned(tmp_path / "pruned", tmp_path / "onnx")
    second = export_pruned(tmp_path / "onnx", tmp_path / "int8", quantize="dynamic",
                           evaluation=encoded_words(tiny_model(), 16))  # fmt: skip
    assert first.backend in BACKENDS and second.backend is None and second.opset is None
    assert second.num_heads == first.num_heads == 6 and second.mib < first.mib
    assert second.agreement is not None and "from the graph that was there" in str(second)
    assert (tmp_path / "int8" / "tokenizer_config.json").is_file()


def test_a_plain_model_exports_with_a_word(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="cahp_plugin")
    logging.getLogger("cahp_plugin").propagate = True
    assert export_pruned(tiny_model(), tmp_path / "onnx").num_heads == 12
    assert "was not pruned" in caplog.text


def test_a_checkpoint_without_a_tokenizer_exports_with_a_word(tmp_path, caplog):
    logging.getLogger("cahp_plugin").propagate = True
    save_pruned(pruned(), tmp_path / "pruned")
    export_pruned(tmp_path / "pruned", tmp_path / "onnx")
    assert "has no tokenizer: no file tokenizer*" in caplog.text
    assert not list((tmp_path / "onnx").glob("tokenizer*"))


def test_the_model_stays_as_it_was(tmp_path):
    model = pruned().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_pruned(model, tmp_path / "onnx")
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert kept_set(model.config).heads == EMPTY_LAYER


def nothing_left(folder):
    return not list(folder.iterdir())


def test_a_difference_beyond_the_tolerance_writes_nothing(tmp_path):
    with pytest.raises(ExportError, match=r"differs from the model by .* Nothing was written"):
        export_pruned(pruned(), tmp_path / "onnx", tolerance=1e-12)
    assert nothing_left(tmp_path)


def test_a_kill_in_the_middle_leaves_nothing(tmp_path):
    examples = encoded_words(tiny_model(), 40)
    seen = []

    def collate(rows):
        seen.append(len(rows))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return examples.collate(rows)

    with pytest.raises(KeyboardInterrupt):
        export_pruned(pruned(), tmp_path / "onnx", evaluation=dataclasses.replace(examples, collate=collate))
    assert seen == [32, 8]
    assert nothing_left(tmp_path)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from tiny import tiny_model
import cahp_plugin.export.export as module
module.compare = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # with the graph on disk, before it is compared
module.export_pruned(tiny_model(), sys.argv[2])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_kill_that_lets_nothing_run_leaves_no_output(tmp_path):
    tests = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(tests), str(tmp_path / "onnx")], capture_output=True, cwd=tests.parent
    )
    assert run.returncode == -signal.SIGKILL
    assert not (tmp_path / "onnx").exists()
    assert all(path.name.startswith(".onnx.") for path in tmp_path.iterdir())  # the graph had been begun
    assert list(tmp_path.rglob("model.onnx"))
    export_pruned(tiny_model(), tmp_path / "onnx")  # and what is left is in nobody's way


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"task": "text-generation-with-past"}, ExportError, "one head count for all layers"),
        ({"task": "speech"}, ExportError, "not supported; expected one of multi-label-classification, text-reg"),
        ({"task": "fill-mask"}, ExportError, "does text-classification, not fill-mask"),
        ({"opset": 9}, ConfigError, "`opset` must be 14 to 20; got 9"),
        ({"opset": 99}, ConfigError, "`opset` must be 14 to 20"),
        ({"quantize": "int4"}, ConfigError, "`quantize` must be one of dynamic, static, fp16"),
        ({"optimize": "O9"}, ConfigError, "`optimize` must be one of O1, O2"),
        ({"tolerance": 0}, ConfigError, "`tolerance`"),
        ({"backend": "tvm"}, ConfigError, "`backend` must be auto, optimum or torch"),
        ({"quantize": "static"}, DataError, "needs calibration data"),
        ({"quantize": "static", "calibration": []}, DataError, "calibration set is empty"),
        ({"quantize": "static", "calibration": [{"labels": torch.zeros(1)}]}, DataError, "lacks attention_mask"),
        (
            {"task": "feature-extraction", "evaluation": encoded_words(tiny_model(), 4)},
            DataError,
            "is one for text-classification; this model does feature-extraction",
        ),
        ({"evaluation": encoded_words(tiny_model(), 4).select([])}, DataError, "evaluation set is empty"),
    ],
)
def test_bad_settings(settings, error, message, tmp_path):
    with pytest.raises(error, match=message):
        export_pruned(pruned(), tmp_path / "onnx", **settings)
    assert nothing_left(tmp_path)


def test_bad_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        export_pruned(tmp_path / "nothing", tmp_path / "onnx")
    with pytest.raises(CheckpointError, match=r"empty: .*config\.json"):
        export_pruned(tmp_path / "empty", tmp_path / "onnx")
    export_pruned(pruned(), tmp_path / "onnx")
    with pytest.raises(CheckpointError, match="is not empty"):
        export_pruned(pruned(), tmp_path / "onnx")
    (tmp_path / "onnx" / "second.onnx").write_bytes((tmp_path / "onnx" / "model.onnx").read_bytes())
    with pytest.raises(ExportError, match=r"holds 2 graphs \(model\.onnx, second\.onnx\)"):
        export_pruned(tmp_path / "onnx", tmp_path / "int8")
    (tmp_path / "onnx" / "second.onnx").unlink()
    (tmp_path / "onnx" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"onnx: .*config\.json"):
        export_pruned(tmp_path / "onnx", tmp_path / "int8")
    assert not (tmp_path / "int8").exists()


def test_a_damaged_graph(tmp_path):
    export_pruned(pruned(), tmp_path / "onnx")
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ExportError, match=r"onnxruntime can't load model\.onnx"):
        export_pruned(tmp_path / "onnx", tmp_path / "int8", quantize="dynamic")


def test_half_precision_models_are_refused_and_checkpoints_read_in_fp32(tmp_path):
    save_pruned(pruned().half(), tmp_path / "pruned", tokenizer=tiny_tokenizer())
    assert export_pruned(tmp_path / "pruned", tmp_path / "fp32").num_heads == 6
    with pytest.raises(DataError, match="not in fp32 on the CPU"):
        export_pruned(pruned().half(), tmp_path / "onnx")


@pytest.mark.skipif(TRANSFORMERS_MAJOR < 5, reason="Optimum's exporter runs on transformers 4.57")
def test_optimum_is_refused_where_it_does_not_run(tmp_path):
    with pytest.raises(MissingDependencyError, match="does not run on this version of transformers"):
        export_pruned(pruned(), tmp_path / "onnx", backend="optimum")


def test_an_overwritten_folder_holds_the_new_export_only(tmp_path):
    export_pruned(pruned(), tmp_path / "onnx")
    report = export_pruned(pruned(), tmp_path / "onnx", quantize="dynamic", overwrite=True)
    assert isinstance(report, ExportReport)
    assert [path.name for path in (tmp_path / "onnx").glob("*.onnx")] == ["model_quantized.onnx"]
