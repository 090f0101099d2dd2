"""Work and latency of images, decoders and encoder-decoders."""

import pytest
import torch
import transformers
from uneven import pruned
from zoo import zoo_model

pytest.importorskip("onnxruntime")

from cahp_plugin import save_pruned
from cahp_plugin._compat import TRANSFORMERS_MAJOR
from cahp_plugin.errors import ConfigError
from cahp_plugin.export import export_pruned
from cahp_plugin.latency import measure_latency, targets
from cahp_plugin.latency.macs import work_of
from cahp_plugin.latency.targets import check_device, example_inputs, find_targets, load_target
from cahp_plugin.prune import load_pruned
from cahp_plugin.units import attention_layers, feed_forward_layers

HIDDEN, INNER, VOCABULARY = 32, 48, 100


def attention_macs(layers, queries, keys):
    """Closed form: a head's query and output, its share of keys and values, its two products."""
    total = 0
    for layer in layers:
        heads, size = len(layer.heads), layer.size
        shared = heads // layer.group_size  # keys and values
        total += 2 * queries * HIDDEN * size * heads + 2 * keys * HIDDEN * size * shared
        total += 2 * queries * keys * size * heads
    return total


def neurons(model):
    return sum(len(layer.present) for layer in feed_forward_layers(model))


@pytest.mark.parametrize("length", [1, 9])
def test_work_of_a_decoder_with_shared_keys_and_a_gate(length):
    model = pruned("llama")
    layers = attention_layers(model)
    assert {layer.group_size for layer in layers} == {2}
    feed_forward = 3 * length * HIDDEN * neurons(model)  # gate, up and down
    expected = attention_macs(layers, length, length) + feed_forward + length * HIDDEN * VOCABULARY
    if TRANSFORMERS_MAJOR < 5:  # the angles of the positions are a matrix product too: 4 frequencies of each token
        expected += 4 * length
    work = work_of(model.config, [length], "pruned")
    assert work.num_heads == sum(len(layer.heads) for layer in layers) and work.macs == {length: expected}


@pytest.mark.parametrize("length", [1, 9])
def test_work_of_fused_projections(length):
    model = pruned("gpt2")
    feed_forward = 2 * length * HIDDEN * neurons(model)
    expected = attention_macs(attention_layers(model), length, length) + feed_forward + length * HIDDEN * VOCABULARY
    assert work_of(model.config, [length], "pruned").macs == {length: expected}


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize("length", [1, 9])
def test_work_of_an_encoder_and_one_step_of_its_decoder(name, length):
    model = pruned(name)
    layers = attention_layers(model)
    assert {layer.pattern for layer in layers} == {"self", "causal", "cross"}
    sides = {"self": (length, length), "causal": (1, 1), "cross": (1, length)}
    expected = sum(attention_macs([layer], *sides[layer.pattern]) for layer in layers)
    for layer in feed_forward_layers(model):
        expected += 2 * sides[layer.pattern][0] * HIDDEN * len(layer.present)
    expected += HIDDEN * VOCABULARY  # logits of one token
    assert work_of(model.config, [length], "pruned").macs == {length: expected}


def test_work_of_an_image():
    model = pruned("vit")
    tokens = 2 * 2 + 1  # patches of 4 x 4 in 8 x 8 pixels, and the class token
    patches = 4 * (3 * 4 * 4) * HIDDEN
    expected = attention_macs(attention_layers(model), tokens, tokens) + 2 * tokens * HIDDEN * neurons(model)
    assert work_of(model.config, [tokens], "pruned").macs == {tokens: expected + patches + HIDDEN * 3}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")

    def make(name):
        if not (root / name).exists():
            save_pruned(zoo_model(name), root / name / "dense")
            model = pruned(name)
            save_pruned(model, root / name / "pruned")
            export_pruned(model, root / name / "onnx")
        return root / name

    return make


@pytest.mark.parametrize(
    ("name", "asked", "length"),
    [("vit", None, 5), ("gpt2", [8], 8), ("gpt2", None, 64), ("t5", [8], 8), ("whisper", None, 12), ("clip", [8], 8)],
)
def test_checkpoints_and_graphs_side_by_side(name, asked, length, folder_of):
    folder = folder_of(name)
    report = measure_latency(
        [folder / "dense", folder / "pruned", folder / "onnx"],
        sequence_lengths=asked, rounds=2, warmup=1, memory=False,
    )  # fmt: skip
    assert [entry.backend for entry in report.measurements] == ["torch", "torch", "onnxruntime"]
    assert {entry.sequence_length for entry in report.measurements} == {length}
    dense, *others = report.measurements
    assert all(entry.theory == others[0].theory < 1 and entry.num_heads < dense.num_heads for entry in others)
    files = sum(path.stat().st_size for path in (folder / "onnx").glob("*.onnx")) / 2**20
    assert report.measurements[2].mib == pytest.approx(files)
    assert ("the way to the first token" in str(report)) == (name in ("t5", "whisper"))


def test_the_chain_of_graphs_hands_the_encoders_output_to_the_decoder(folder_of, monkeypatch):
    import onnxruntime

    seen = []
    real = onnxruntime.InferenceSession

    class Watched:
        def __init__(self, *arguments, **settings):
            self.session = real(*arguments, **settings)

        def __getattr__(self, name):
            return getattr(self.session, name)

        def run(self, names, inputs):
            outputs = self.session.run(names, inputs)
            seen.append((inputs, outputs))
            return outputs

    monkeypatch.setattr(onnxruntime, "InferenceSession", Watched)
    folder = folder_of("bart")
    [target] = find_targets([folder / "onnx"])
    inputs = example_inputs([target], 2, 7, 0)
    call = load_target(target, device="cpu", threads=1, attn_implementation=None)(inputs)
    seen.clear()  # the export of the folder ran its graphs too
    call()
    (_first, hidden), (second, logits) = seen
    assert second["encoder_hidden_states"] is hidden[0] and second["input_ids"].shape == (2, 1)
    model = pruned("bart")
    with torch.no_grad():
        expected = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            decoder_input_ids=inputs["decoder_input_ids"],
        ).logits
    assert torch.allclose(torch.from_numpy(logits[0]), expected, atol=1e-5)


def test_memory_of_an_encoder_decoder(folder_of):
    report = measure_latency([folder_of("t5") / "onnx"], sequence_lengths=[8], rounds=2, warmup=0)
    assert report.measurements[0].peak_mib > 0


def test_other_lengths_than_an_image_has_are_refused(folder_of):
    with pytest.raises(ConfigError, match=r"of 5 tokens, no more and no less; `sequence_lengths` holds 8, 16\. Leave"):
        measure_latency([folder_of("vit") / "onnx"], sequence_lengths=[8, 16])


def test_targets_of_other_inputs_are_refused(folder_of, tmp_path):
    with pytest.raises(ConfigError, match=r"take other inputs \(pixel_values of 3 x 8 x 8; input_ids\)"):
        measure_latency([folder_of("vit") / "onnx", folder_of("gpt2") / "dense"])
    larger = transformers.ViTConfig(**{**zoo_model("vit").config.to_dict(), "image_size": 16})
    transformers.ViTForImageClassification(larger).save_pretrained(tmp_path / "larger")
    with pytest.raises(ConfigError, match=r"3 x 8 x 8; pixel_values of 3 x 16 x 16"):
        measure_latency([folder_of("vit") / "onnx", tmp_path / "larger"])


def test_lengths_beyond_the_positions_are_refused(folder_of):
    with pytest.raises(ConfigError, match="takes 64 tokens at most; `sequence_lengths` holds 65"):
        measure_latency([folder_of("gpt2") / "onnx"], sequence_lengths=[65])


def test_two_graphs_are_refused_on_cuda(folder_of, monkeypatch):
    import onnxruntime

    # A machine with CUDA, as far as this check can see.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(ConfigError, match="onnx: graphs of an encoder and a decoder are timed on the CPU only"):
        check_device(find_targets([folder_of("t5") / "onnx"]), "cuda")


@pytest.mark.parametrize("name", ["llama", "vit"])
def test_a_checkpoint_in_half_precision_is_timed_in_it(name, tmp_path, monkeypatch):
    loaded = []

    def load(*given, **how):
        loaded.append(load_pruned(*given, **how))
        return loaded[-1]

    monkeypatch.setattr(targets, "load_pruned", load)
    save_pruned(zoo_model(name).to(torch.bfloat16), tmp_path / "half")
    (entry,) = measure_latency([tmp_path / "half"], rounds=2, warmup=0, memory=False).measurements
    assert {own.dtype for own in loaded[0].parameters()} == {torch.bfloat16} and entry.precision.endswith("bfloat16")
