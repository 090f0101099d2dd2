"""Images, decoders and encoder-decoders as graphs."""

import dataclasses
import json

import pytest
import torch
import transformers
from datasets import Dataset
from tiny import tiny_model
from uneven import pruned
from words import encoded_words
from zoo import zoo_inputs, zoo_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from cahp_plugin import load_pruned, save_pruned
from cahp_plugin.errors import CheckpointError, ConfigError, DataError, ExportError
from cahp_plugin.export import export_pruned, graph_files, open_session, run_session
from cahp_plugin.export.parity import compare, require_parity
from cahp_plugin.export.source import open_source
from cahp_plugin.export.tasks import task_of
from cahp_plugin.export.to_onnx import choose_backend
from cahp_plugin.observe.inputs import random_inputs
from cahp_plugin.tasks import TASKS, Examples
from cahp_plugin.units import attention_layers

TASK_OF = {
    "vit": "image-classification",
    "deit": "image-classification",
    "dinov2": "image-classification",
    "clip": "zero-shot-image-classification",
    "clip-text": "feature-extraction",
    "gpt2": "text-generation",
    "llama": "text-generation",
    "mistral": "text-generation",
    "qwen3": "text-generation",
    "gemma2": "text-generation",
    "gemma3": "text-generation",
    "gpt-neox": "text-generation",
    "bloom": "text-generation",
    "falcon": "text-generation",
    "t5": "text2text-generation",
    "bart": "text2text-generation",
    "marian": "text2text-generation",
    "whisper": "automatic-speech-recognition",
    "albert": "text-classification",
    "mpnet": "text-classification",
    "modernbert": "text-classification",
}
#: Where both exporters run, those that need something of their own from torch's.
CASES = [(name, "auto") for name in TASK_OF]
if choose_backend("auto") != "torch":
    CASES += [(name, "torch") for name in ("vit", "clip", "gpt2", "mistral", "gemma2", "t5", "whisper")]
PAIR = ("encoder_model.onnx", "decoder_model.onnx")


def run_graphs(folder, inputs):
    """What the graphs of a folder compute, put together here by hand."""
    graphs = graph_files(folder)
    if "model" in graphs:
        session = open_session(graphs["model"])
        if "position_ids" in [entry.name for entry in session.get_inputs()]:
            positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            inputs = {**inputs, "position_ids": positions}
        return run_session(session, inputs)
    hidden = run_session(open_session(graphs["encoder_model"]), inputs)["last_hidden_state"]
    decoder = {"input_ids": inputs["decoder_input_ids"], "encoder_hidden_states": hidden}
    if "attention_mask" in inputs:
        decoder["encoder_attention_mask"] = inputs["attention_mask"]
    return run_session(open_session(graphs["decoder_model"]), decoder)


def run_model(model, inputs):
    takes_positions = model.config.model_type in ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gpt_neox", "falcon")
    if takes_positions:
        inputs = {**inputs, "position_ids": (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)}
    with torch.no_grad():
        return model(**inputs)


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_the_graphs_compute_what_the_model_computes(name, backend, tmp_path):
    model = pruned(name)
    report = export_pruned(model, tmp_path / "onnx", backend=backend, tolerance=1e-5)
    assert report.task == TASK_OF[name] and report.num_heads == sum(map(len, attention_heads(model)))
    assert backend == "auto" or report.backend == backend
    two = TASKS[report.task].two_graphs
    assert report.files == (PAIR if two else ("model.onnx",))
    assert {entry.graph for entry in report.parity} == {file.removesuffix(".onnx") for file in report.files}
    shapes = {(entry.batch_size, entry.sequence_length, entry.padded) for entry in report.parity}
    assert len(shapes) >= 4
    if "attention_mask" in zoo_inputs(name):
        assert {padded for *_, padded in shapes} == {True, False}
    inputs = zoo_inputs(name, batch=3, seed=5)  # not what the export compared
    expected, found = run_model(model, inputs), run_graphs(tmp_path / "onnx", inputs)
    for key in TASKS[report.task].outputs:
        ours, theirs = expected[key], found[key]
        mask = inputs.get("attention_mask")
        if mask is not None and ours.dim() == 3 and ours.shape[:2] == mask.shape:
            ours, theirs = ours[mask.bool()], theirs[mask.bool()]
        assert torch.allclose(ours, theirs, atol=1e-5), key


def attention_heads(model):
    return [layer.heads for layer in attention_layers(model)]


@pytest.mark.parametrize("name", ["vit", "gpt2", "llama", "t5", "bart"])
def test_models_without_any_head(name, tmp_path):
    report = export_pruned(pruned(name, empty=range(6)), tmp_path / "onnx")
    assert report.num_heads == 0
    inputs = zoo_inputs(name, seed=5)
    assert run_graphs(tmp_path / "onnx", inputs)["logits"].shape[0] == 2


@pytest.mark.parametrize("name", ["llama", "bart", "vit"])
def test_sdpa_attention_exports(name, tmp_path):
    export_pruned(pruned(name, attn_implementation="sdpa"), tmp_path / "onnx", tolerance=1e-5)


@pytest.mark.parametrize("name", ["vit", "gpt2", "llama", "t5", "whisper"])
@pytest.mark.parametrize("kind", ["dynamic", "fp16"])
def test_every_graph_is_quantized(name, kind, tmp_path):
    report = export_pruned(pruned(name), tmp_path / "onnx", quantize=kind)
    ending = {"dynamic": "_quantized.onnx", "fp16": "_fp16.onnx"}[kind]
    assert all(file.endswith(ending) for file in report.files)
    assert sorted(report.files) == sorted(path.name for path in (tmp_path / "onnx").glob("*.onnx"))
    assert 0 < report.difference < 1.5
    for file in report.files:
        graph = onnx.load(str(tmp_path / "onnx" / file)).graph
        halved = sum(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
        products = sum(node.op_type == "MatMulInteger" for node in graph.node)
        assert halved > 0 if kind == "fp16" else products > 0


def test_distances_stay_exact_in_half_precision(tmp_path):
    report = export_pruned(pruned("t5"), tmp_path / "onnx", quantize="fp16")
    assert report.difference < 0.02  # a wrong bucket of distances would be 0.4


@pytest.mark.parametrize("name", ["t5", "llama", "vit"])
def test_exported_graphs_are_optimized_and_quantized_later(name, tmp_path):
    save_pruned(pruned(name), tmp_path / "pruned")
    first = export_pruned(tmp_path / "pruned", tmp_path / "onnx")
    again = export_pruned(tmp_path / "onnx", tmp_path / "int8", quantize="dynamic", optimize="O1")
    assert again.backend is None and again.task == first.task and again.num_heads == first.num_heads
    assert len(again.files) == len(first.files) and again.mib < first.mib
    assert max(entry.max_abs for entry in again.parity) < 1e-4
    assert "from the graph that was there" in str(again) and again.files[-1] in str(again)


def test_the_optimizer_takes_decoders_and_images(tmp_path):
    for name in ("vit", "gpt2"):
        report = export_pruned(pruned(name), tmp_path / name, optimize="O2", tolerance=1e-5)
        assert report.fused


def test_a_generating_folder_says_that_it_has_no_cache(tmp_path):
    save_pruned(pruned("llama"), tmp_path / "pruned")
    export_pruned(tmp_path / "pruned", tmp_path / "onnx")
    assert json.loads((tmp_path / "onnx" / "generation_config.json").read_text())["use_cache"] is False


def test_settings_for_images_come_along(tmp_path, caplog):
    save_pruned(pruned("vit"), tmp_path / "pruned")
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}
    (tmp_path / "pruned" / "preprocessor_config.json").write_text(json.dumps(settings))
    export_pruned(tmp_path / "pruned", tmp_path / "onnx")
    assert json.loads((tmp_path / "onnx" / "preprocessor_config.json").read_text()) == settings
    assert "tokenizer" not in caplog.text


def test_accuracy_of_an_image_classifier(tmp_path):
    model = pruned("vit")
    images = zoo_inputs("vit", batch=12)["pixel_values"]
    with torch.no_grad():
        labels = model(pixel_values=images).logits.argmax(-1)
    examples = Examples(
        TASKS["image-classification"],
        Dataset.from_dict({"place": list(range(12))}),
        lambda rows: {name: values[[row["place"] for row in rows]] for name, values in
                      (("pixel_values", images), ("labels", labels))},
        [4] * 12,
        labels.tolist(),
        range(12),
    )  # fmt: skip
    report = export_pruned(model, tmp_path / "onnx", quantize="dynamic", evaluation=examples)
    assert report.fp32.score.value == 1 and report.agreement > 0.7
    assert report.quantized.score.value == pytest.approx(report.agreement) and report.divergence > 0
    static = export_pruned(model, tmp_path / "static", quantize="static", calibration=examples.batches(),
                           evaluation=examples)  # fmt: skip
    assert static.agreement > 0.7


@pytest.mark.parametrize("name", ["gpt2", "t5", "bert"])
def test_features_of_decoders_and_encoders(name, tmp_path):
    model = pruned(name)
    if name == "t5":
        with pytest.raises(ExportError, match=r"no one sequence of features; export it for 'text2text-generation'"):
            export_pruned(model, tmp_path / "onnx", task="feature-extraction")
        return
    export_pruned(model, tmp_path / "onnx", task="feature-extraction", tolerance=1e-5)
    session = open_session(tmp_path / "onnx" / "model.onnx")
    assert [entry.name for entry in session.get_outputs()] == ["last_hidden_state"]


@pytest.mark.parametrize(
    ("name", "auto_class"), [("vit", "AutoModel"), ("gpt2", "AutoModelForSequenceClassification")]
)
def test_more_heads_of_the_architectures(name, auto_class, tmp_path):
    config = zoo_model(name).config
    model = getattr(transformers, auto_class).from_config(config).eval()
    report = export_pruned(model, tmp_path / "onnx", backend="torch", tolerance=1e-5)
    assert report.task == {"AutoModel": "feature-extraction"}.get(auto_class, "text-classification")


def test_a_wrong_graph_of_the_two_is_found(tmp_path):
    model = pruned("bart")
    export_pruned(model, tmp_path / "onnx")
    path = tmp_path / "onnx" / "decoder_model.onnx"
    graph = onnx.load(str(path))
    weight = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(weight) * 1.01
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    path.write_bytes(graph.SerializeToString())
    sessions = {name: open_session(file) for name, file in graph_files(tmp_path / "onnx").items()}
    parity = compare(open_source(model), sessions)
    assert max(entry.max_abs for entry in parity if entry.graph == "encoder_model") < 1e-5
    with pytest.raises(ExportError, match=r"differs from the model by .* at decoder_model: batch size"):
        require_parity(parity, 1e-4, "The graph")


def test_outputs_at_padding_on_the_left_are_not_compared_and_others_are(tmp_path):
    model = pruned("gpt2")
    export_pruned(model, tmp_path / "onnx")
    source = open_source(model)
    session = open_session(tmp_path / "onnx" / "model.onnx")
    wrong = dataclasses.replace(source.parts[0], module=zoo_model("gpt2"))
    with pytest.raises(ExportError, match="differs from the model"):
        require_parity(compare(dataclasses.replace(source, parts=(wrong,)), {"model": session}), 1e-4, "The graph")
    inputs = source.random_inputs(3, 9, padded=True, generator=torch.Generator().manual_seed(0))
    assert inputs["attention_mask"][:, -1].all() and not inputs["attention_mask"][1:, 0].any()
    assert inputs["position_ids"][0].tolist() == list(range(9))
    first = inputs["attention_mask"].argmax(-1)
    assert inputs["position_ids"].gather(1, first[:, None]).eq(0).all()


def test_random_texts_end_with_the_end_token_and_hold_no_padding():
    config = transformers.BartConfig(vocab_size=20, pad_token_id=1, eos_token_id=2)
    inputs = random_inputs(
        ["input_ids", "attention_mask", "decoder_input_ids"], config, batch_size=4, sequence_length=12,
        target_length=5, padding="right", generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    lengths = inputs["attention_mask"].sum(-1)
    assert (inputs["input_ids"] == 2).sum(-1).tolist() == [1] * 4
    assert inputs["input_ids"].gather(1, lengths[:, None] - 1).eq(2).all()
    assert ((inputs["input_ids"] == 1) == (inputs["attention_mask"] == 0)).all()
    assert inputs["decoder_input_ids"].shape == (4, 5) and not (inputs["decoder_input_ids"] == 1).any()


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("t5", {"quantize": "static", "calibration": []}, ConfigError, r"encoder_model and decoder_model.*dynamic"),
        ("gpt2", {"task": "text-generation-with-past"}, ExportError, r"key-value cache.*use_cache=False"),
        ("t5", {"task": "text2text-generation-with-past"}, ExportError, r"Export 'text2text-generation' instead"),
        ("clip", {"task": "feature-extraction"}, ExportError, "export it for 'zero-shot-image-classification'"),
        ("vit", {"task": "text-classification"}, ExportError, "does image-classification, not text-classification"),
        ("gpt2", {"task": "fill-mask"}, ExportError, "does text-generation, not fill-mask"),
        (
            "gpt2",
            {"evaluation": encoded_words(tiny_model(), 4)},
            DataError,
            "is one for text-classification; this model does text-generation",
        ),
    ],
)
def test_bad_settings(name, settings, error, message, tmp_path):
    with pytest.raises(error, match=message):
        export_pruned(zoo_model(name), tmp_path / "onnx", **settings)
    assert not list(tmp_path.iterdir())


def test_a_cache_is_refused_before_the_model_is_loaded(tmp_path):
    with pytest.raises(ExportError, match="key-value cache"):
        export_pruned(tmp_path / "nothing", tmp_path / "onnx", task="text-generation-with-past")


def test_bare_encoder_decoders_are_refused():
    model = transformers.T5Model(zoo_model("t5").config)
    with pytest.raises(ExportError, match="whose features are two sequences"):
        task_of(model)


def test_folders_with_graphs_of_a_cache_are_refused(tmp_path):
    for name in ("encoder_model.onnx", "decoder_with_past_model.onnx"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ExportError, match=r"expected one, or an encoder and a decoder .* without a cache"):
        graph_files(tmp_path)
    (tmp_path / "decoder_with_past_model.onnx").unlink()
    with pytest.raises(ExportError, match=r"holds 1 graphs \(encoder_model\.onnx\)"):
        graph_files(tmp_path)


@pytest.mark.skipif(choose_backend("auto") == "torch", reason="Optimum's exporter does not run here")
@pytest.mark.parametrize("name", ["dinov2", "clip-text"])
def test_what_optimum_does_not_export_is_said(name, tmp_path):
    with pytest.raises(ExportError, match=r'does not export .* the exporter "torch" does'):
        export_pruned(zoo_model(name), tmp_path / "onnx", backend="optimum")


def test_a_folder_of_sentence_transformers_exports_as_a_plain_model(tmp_path):
    model = transformers.BertModel(zoo_model("bert").config).eval()
    save_pruned(model, tmp_path / "pruned")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "pruned" / "modules.json").write_text(json.dumps(modules))
    report = export_pruned(tmp_path / "pruned", tmp_path / "onnx")
    session = open_session(tmp_path / "onnx" / report.files[0])
    assert next(entry.name for entry in session.get_outputs()) == "last_hidden_state"


def test_checkpoints_of_all_kinds_load_from_disk(tmp_path):
    with pytest.raises(CheckpointError):
        open_source(tmp_path / "nothing")
    save_pruned(pruned("whisper"), tmp_path / "pruned")
    report = export_pruned(tmp_path / "pruned", tmp_path / "onnx")
    inputs = zoo_inputs("whisper", seed=3)
    expected = run_model(load_pruned(tmp_path / "pruned"), inputs).logits
    assert torch.allclose(run_graphs(tmp_path / "onnx", inputs)["logits"], expected, atol=1e-5)
    assert report.files == PAIR
