import json

import pytest
import torch
from safetensors.torch import load_file
from tiny import ARCHITECTURES, model_inputs, tiny_model

from cahp_plugin import CAHPImportance, CAHPPruner, load_pruned, save_pruned
from cahp_plugin.errors import CheckpointError, ConfigError, UnsupportedModelError
from cahp_plugin.prune.checkpoint import load_config, untrained_model
from cahp_plugin.tasks.processors import load_processor

KEPT = {0: (1, 3), 1: (), 2: (0, 1, 2, 3)}


def pruned(name="bert", kept=KEPT):
    model = tiny_model(name)
    CAHPPruner(model, model_inputs(), importance=CAHPImportance(kept)).step()
    return model


def logits(model):
    with torch.no_grad():
        return model(**model_inputs()).logits


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def saved(tmp_path):
    return save_pruned(pruned(), tmp_path / "pruned")


@pytest.mark.parametrize("where", [{"device": "cpu"}, {"device_map": "auto"}, {"device_map": {"": "cpu"}}])
def test_places(saved, where):
    loaded = load_pruned(saved, attn_implementation="eager", **where)
    assert loaded.device.type == "cpu" and torch.equal(logits(loaded), logits(pruned()))


def test_offloaded_to_disk(saved, tmp_path):
    layers = {f"bert.encoder.layer.{i}": "disk" if i == 1 else "cpu" for i in range(3)}
    where = {"bert.embeddings": "cpu", **layers, "bert.pooler": "cpu", "dropout": "cpu", "classifier": "cpu"}
    loaded = load_pruned(saved, attn_implementation="eager", device_map=where, offload_folder=tmp_path / "off")
    assert torch.equal(logits(loaded), logits(pruned()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "cpu", "device_map": "auto"}, "both say where"),
        ({"device": "meta"}, "would drop the weights"),
        ({"device": "nowhere"}, "'nowhere'.* can't be used"),
        ({"trust_remote_code": True}, "runs no other code"),
    ],
)
def test_arguments_that_are_refused(saved, arguments, message):
    with pytest.raises(ConfigError, match=message):
        load_pruned(saved, **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(saved):
    with pytest.raises(ConfigError, match=r"'cuda'.* can't be used"):
        load_pruned(saved, device="cuda")


@pytest.mark.parametrize("argument", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, "float16"])
def test_dtypes(saved, argument, dtype):
    loaded = load_pruned(saved, **{argument: dtype})
    wanted = dtype if isinstance(dtype, torch.dtype) else torch.float16
    assert {parameter.dtype for parameter in loaded.parameters()} == {wanted}


def test_what_save_pretrained_of_a_pruned_model_wrote(tmp_path):
    model = pruned()
    model.save_pretrained(tmp_path / "a")
    assert torch.equal(logits(load_pruned(tmp_path / "a", attn_implementation="eager")), logits(model))


def test_sharded(tmp_path):
    model = pruned()
    save_pruned(model, tmp_path / "a", max_shard_size="20KB")
    assert len(list((tmp_path / "a").glob("*.safetensors"))) > 1
    assert torch.equal(logits(load_pruned(tmp_path / "a", attn_implementation="eager")), logits(model))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_heads_are_not_removed_twice(name, tmp_path):
    # transformers 4.57 writes such a record, and its models obey it while they are built
    kept = {0: (1, 3), 1: (2,), 2: (0, 1, 2, 3)}
    model = pruned(name, kept)
    folder = save_pruned(model, tmp_path / "a")
    edit_config(folder, pruned_heads={"0": [0, 2], "1": [0, 1, 3]})
    loaded = load_pruned(folder, attn_implementation="eager")
    assert torch.equal(logits(loaded), logits(model))
    assert not getattr(loaded.config, "pruned_heads", None)
    assert sum(p.numel() for p in untrained_model(load_config(folder)).parameters()) == loaded.num_parameters()


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickles_are_not_read(saved, tmp_path):
    (saved / "model.safetensors").unlink()
    torch.save({"bert.pooler.dense.weight": Bomb(str(tmp_path / "ran"))}, saved / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pickle \(.bin\).*use_safetensors=False"):
        load_pruned(saved)
    assert not (tmp_path / "ran").exists()


def test_pickles_are_read_on_request(saved):
    torch.save(load_file(saved / "model.safetensors"), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    loaded = load_pruned(saved, use_safetensors=False, attn_implementation="eager")
    assert torch.equal(logits(loaded), logits(pruned()))


def test_code_in_a_checkpoint_is_not_run(saved, tmp_path):
    (saved / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: ...\nclass M: ...\nclass T: ...\n")
    edit_config(saved, auto_map={"AutoConfig": "code.C", "AutoModelForSequenceClassification": "code.M"})
    loaded = load_pruned(saved, attn_implementation="eager")
    assert torch.equal(logits(loaded), logits(pruned()))
    edit_config(saved, model_type="mine")  # nothing of transformers' own would do
    with pytest.raises(CheckpointError, match=r"no config.json that can be read"):
        load_pruned(saved)
    (saved / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["code.T", None]}}))
    with pytest.raises(CheckpointError, match="no tokenizer that loads"):
        load_processor(str(saved))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"architectures": ["DistilBertForSequenceClassification"]}, CheckpointError, "describes a 'bert' model"),
        ({"architectures": ["pipeline"]}, CheckpointError, "'pipeline', which is no model class"),
        ({"architectures": ["BertConfig"]}, CheckpointError, "'BertConfig', which is no model class"),
        ({"architectures": None}, CheckpointError, "names the class None"),
        ({"num_hidden_layers": 4}, CheckpointError, r"names the layers \[0, 1, 2\]; the model has layers 0 to 3"),
        ({"hidden_size": 64}, CheckpointError, "4 heads of 8 channels.*unpruned it has 4 of 16"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
            UnsupportedModelError,
            "is quantized",
        ),
    ],
)
def test_configs_that_do_not_fit(saved, changes, error, message):
    edit_config(saved, **changes)
    with pytest.raises(error, match=message):
        load_pruned(saved)


def test_no_quantization_while_loading(saved):
    with pytest.raises(UnsupportedModelError, match="to be quantized while it is loaded"):
        load_pruned(saved, quantization_config={"quant_method": "bitsandbytes"})


@pytest.mark.parametrize("place", [0, 8, 60])
def test_tampered_headers(saved, place):
    file = saved / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[place] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"can't be loaded|disagree"):
        load_pruned(saved)
