import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import ARCHITECTURES, model_inputs, tiny_model
from transformers import AutoModelForSequenceClassification
from zoo import FAMILIES, outputs, zoo_inputs, zoo_model

from cahp_plugin import CAHPImportance, CAHPPruner, load_pruned, save_pruned
from cahp_plugin._compat import TRANSFORMERS_MAJOR
from cahp_plugin.units import attention_layers

old = pytest.mark.skipif(TRANSFORMERS_MAJOR >= 5, reason="transformers 5 can't remove heads itself")


def pruned(name, kept):
    model = tiny_model(name)
    CAHPPruner(model, model_inputs(), importance=CAHPImportance(kept)).step()
    return model


def logits(model):
    with torch.no_grad():
        return model(**model_inputs()).logits


def record(folder):
    return json.loads((folder / "config.json").read_text()).get("pruned_heads")


def plain(folder):
    return AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager")


@old
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "deberta-v2"])
def test_plain_transformers_loads_it_exactly(name, tmp_path):
    model = pruned(name, {0: (1, 3), 2: (0,)})
    folder = save_pruned(model, tmp_path / "a")
    assert record(folder) == {"0": [0, 2], "2": [1, 2, 3]}
    assert model.config.pruned_heads == {}  # the model in memory would save it on, stale after the next pruning
    assert torch.equal(logits(plain(folder)), logits(model))
    # pruned a second time, from the saved copy
    loaded = load_pruned(folder, attn_implementation="eager")
    assert loaded.config.pruned_heads == {}
    CAHPPruner(loaded, model_inputs(), importance=CAHPImportance({0: (3,), 1: (0, 2)})).step()
    folder = save_pruned(loaded, tmp_path / "b")
    assert record(folder) == {"0": [0, 1, 2], "1": [1, 3], "2": [1, 2, 3]}
    assert torch.equal(logits(plain(folder)), logits(loaded))
    assert torch.equal(logits(load_pruned(folder, attn_implementation="eager")), logits(loaded))


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("deberta-v2", {0: (1, 3)}),  # its class refuses
        ("bert", {0: (1, 3), 1: ()}),  # a layer without heads
    ],
)
def test_no_record_where_transformers_could_not_follow_it(name, kept, tmp_path):
    assert record(save_pruned(pruned(name, kept), tmp_path / "a")) is None


def test_an_unpruned_model_has_none(tmp_path):
    assert not record(save_pruned(tiny_model(), tmp_path / "a"))


@pytest.mark.skipif(TRANSFORMERS_MAJOR < 5, reason="for transformers 5")
def test_transformers_5_writes_none_and_drops_an_old_one(tmp_path):
    model = pruned("bert", {0: (1, 3)})
    folder = save_pruned(model, tmp_path / "a")
    assert record(folder) is None
    values = json.loads((folder / "config.json").read_text()) | {"pruned_heads": {"0": [0, 2]}}
    (folder / "config.json").write_text(json.dumps(values))
    loaded = load_pruned(folder, attn_implementation="eager")
    assert torch.equal(logits(loaded), logits(model))
    assert record(save_pruned(loaded, tmp_path / "b")) is None


@pytest.mark.parametrize("name", FAMILIES)
def test_a_whole_layer_without_heads_is_never_filled_at_random(name, tmp_path):
    # all other layers have their full shape: nothing else would tell plain transformers
    model, inputs = zoo_model(name), zoo_inputs(name)
    for layer in {layer.pattern: layer for layer in attention_layers(model)}.values():
        CAHPPruner(model, inputs, importance=CAHPImportance({layer.index: ()})).step()
    save_pruned(model, tmp_path / "a")
    model.save_pretrained(tmp_path / "b")
    for folder in (tmp_path / "a", tmp_path / "b"):
        with pytest.raises(RuntimeError, match=r"size mismatch|ignore_mismatched_sizes"):
            type(model).from_pretrained(folder, attn_implementation="eager")
    loaded = load_pruned(tmp_path / "b", attn_implementation="eager")
    assert torch.equal(outputs(loaded, inputs), outputs(model, inputs))


def test_a_checkpoint_from_before_that_safeguard_still_loads(tmp_path):
    model = pruned("bert", {1: ()})
    folder = save_pruned(model, tmp_path / "a")
    tensors = load_file(folder / "model.safetensors")
    del tensors["bert.encoder.layer.1.attention.output.dense.weight"]  # of size 0; not there before
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(logits(load_pruned(folder, attn_implementation="eager")), logits(model))
