"""What Optimum's ORTModel classes do with exported images, decoders and encoder-decoders."""

import pytest
import torch
from uneven import pruned
from zoo import zoo_inputs

ort = pytest.importorskip("optimum.onnxruntime")

from cahp_plugin import load_pruned, save_pruned
from cahp_plugin.export import export_pruned
from cahp_plugin.units import kept_set

GENERATION = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": 1, "use_cache": False}


def exported(name, folder, **settings):
    """A pruned model as it is loaded again, and its exported folder."""
    save_pruned(pruned(name), folder / "pruned")
    export_pruned(folder / "pruned", folder / "onnx", **settings)
    return load_pruned(folder / "pruned")


def check_generation(model, loaded, inputs):
    with torch.no_grad():
        expected = model.generate(**inputs, **GENERATION)
    assert torch.equal(loaded.generate(**inputs, **GENERATION), expected)
    assert kept_set(loaded.config).heads == kept_set(model.config).heads


@pytest.mark.parametrize("backend", ["optimum", "torch"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_decoders_generate_from_texts_padded_on_the_left(name, backend, tmp_path):
    model = exported(name, tmp_path, backend=backend)
    loaded = ort.ORTModelForCausalLM.from_pretrained(tmp_path / "onnx", use_cache=False)
    inputs = zoo_inputs(name, batch=3)
    assert not inputs["attention_mask"].all()
    check_generation(model, loaded, inputs)


@pytest.mark.parametrize("quantize", [None, "dynamic"])
@pytest.mark.parametrize("name", ["t5", "bart", "marian"])
def test_encoder_decoders_generate(name, quantize, tmp_path):
    model = exported(name, tmp_path, quantize=quantize)
    loaded = ort.ORTModelForSeq2SeqLM.from_pretrained(tmp_path / "onnx", use_cache=False)
    inputs = zoo_inputs(name, batch=3)
    if quantize is None:
        check_generation(model, loaded, {key: inputs[key] for key in ("input_ids", "attention_mask")})
    with torch.no_grad():
        difference = (loaded(**inputs).logits - model(**inputs).logits).abs().max()
    assert difference < (1e-5 if quantize is None else 1.0)


def test_speech_is_recognized(tmp_path):
    model = exported("whisper", tmp_path)
    loaded = ort.ORTModelForSpeechSeq2Seq.from_pretrained(tmp_path / "onnx", use_cache=False)
    inputs = zoo_inputs("whisper")
    with torch.no_grad():
        assert torch.allclose(loaded(**inputs).logits, model(**inputs).logits, atol=1e-5)


def test_images_are_classified(tmp_path):
    model = exported("vit", tmp_path)
    loaded = ort.ORTModelForImageClassification.from_pretrained(tmp_path / "onnx")
    inputs = zoo_inputs("vit", batch=3)
    with torch.no_grad():
        assert torch.allclose(loaded(**inputs).logits, model(**inputs).logits, atol=1e-5)
