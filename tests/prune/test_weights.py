"""What a checkpoint holds, or says that it holds: nothing is random, nothing is read from elsewhere."""

import json
import logging

import pytest
import torch
from commands import prune_arguments
from safetensors.torch import load_file, save_file
from tiny import model_inputs, tiny_model
from words import tiny_tokenizer
from zoo import zoo_inputs, zoo_model

from cahp_plugin import CAHPImportance, CAHPPruner, load_pruned, save_pruned
from cahp_plugin.cli import main
from cahp_plugin.errors import CheckpointError, ConfigError
from cahp_plugin.prune.checkpoint import load_config
from cahp_plugin.prune.weights import common_prefix


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(folder, change):
    """Saves the tensors again under the names that ``change`` gives them; ``None`` leaves one out."""
    path = folder / "model.safetensors"
    named = {change(key): tensor for key, tensor in load_file(path).items()}
    named.pop(None, None)
    save_file(named, path, metadata={"format": "pt"})


def saved(model, folder):
    """A whole checkpoint, pruned or not, with a tokenizer."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def pruned():
    model = tiny_model()
    CAHPPruner(model, model_inputs(), importance=CAHPImportance({0: (1, 3), 1: ()})).step()
    return model


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.net."])
@pytest.mark.parametrize("make", [tiny_model, pruned], ids=["dense", "pruned"])
def test_a_wrappers_prefix_is_named(prefix, make, tmp_path):
    folder = saved(make(), tmp_path / "a")
    rewrite(folder, lambda key: prefix + key)
    with pytest.raises(CheckpointError, match=rf"missing keys: bert\..*have the prefix '{prefix}'"):
        load_pruned(folder)


def test_the_advice_mends_the_checkpoint(tmp_path):
    model = tiny_model()
    folder = saved(model, tmp_path / "a")
    rewrite(folder, lambda key: "module." + key)
    with pytest.raises(CheckpointError) as caught:
        load_pruned(folder)
    assert "`{key.removeprefix('module.'): tensor for key, tensor in state_dict.items()}`" in str(caught.value)
    rewrite(folder, lambda key: key.removeprefix("module."))
    with torch.no_grad():
        loaded = load_pruned(folder, attn_implementation="eager")
        assert torch.equal(loaded(**model_inputs()).logits, model(**model_inputs()).logits)


def test_prefixes():
    names = ["bert.a.w", "bert.b.w", "head.w"]
    assert common_prefix(names, [f"module.{name}" for name in names]) == "module."
    assert common_prefix(names, ["x.y.bert.a.w", "x.y.bert.b.w"]) == "x.y."
    assert common_prefix(names, ["module.a.w", "module.b.w"], base="bert") == "module."  # of the body alone
    assert common_prefix(names, ["module.bert.a.w", "other.w"]) is None
    assert common_prefix(names, []) is None


MISSING = [
    ("bert", "classifier.", "classifier.bias, classifier.weight"),
    ("bert", "bert.encoder.layer.1.output.dense.weight", "bert.encoder.layer.1.output.dense.weight"),
    ("distilbert", "pre_classifier.", "pre_classifier.bias, pre_classifier.weight"),
    ("vit", "classifier.", "classifier.bias, classifier.weight"),
    ("llama", "lm_head.", "lm_head.weight"),
    ("gpt2", "transformer.h.2.mlp.c_fc.", "transformer.h.2.mlp.c_fc.bias, transformer.h.2.mlp.c_fc.weight"),
]


@pytest.mark.parametrize(("name", "lost", "named"), MISSING)
def test_missing_weights_are_named(name, lost, named, tmp_path):
    model = zoo_model(name)
    model.save_pretrained(tmp_path / "a")
    rewrite(tmp_path / "a", lambda key: None if key.startswith(lost) else key)
    with pytest.raises(CheckpointError, match=rf"are not in the checkpoint \(missing keys: {named}\).*random"):
        load_pruned(tmp_path / "a")


def test_what_is_tied_is_not_missing(tmp_path):
    model = zoo_model("gpt2")
    assert model.lm_head.weight is model.transformer.wte.weight
    model.save_pretrained(tmp_path / "a")
    assert "lm_head.weight" not in load_file(tmp_path / "a" / "model.safetensors")
    loaded = load_pruned(tmp_path / "a", attn_implementation="eager")
    inputs = zoo_inputs("gpt2")
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def test_what_is_left_over_is_named_once(tmp_path, caplog):
    folder = saved(tiny_model(), tmp_path / "a")
    tensors = load_file(folder / "model.safetensors") | {"cls.seq_relationship.weight": torch.ones(2, 3)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING):
        load_pruned(folder)
    told = [record for record in caplog.records if "cls.seq_relationship.weight" in record.getMessage()]
    assert len([record for record in told if record.name.startswith("cahp_plugin")]) == 1


def test_what_belongs_to_a_block_is_not_left_out(tmp_path):
    # relative positions, which transformers 5 dropped; or an adapter that was not merged
    folder = saved(tiny_model(), tmp_path / "a")
    for extra in ("self.distance_embedding.weight", "self.query.lora_A.weight"):
        key = f"bert.encoder.layer.1.attention.{extra}"
        tensors = load_file(folder / "model.safetensors")
        save_file(tensors | {key: torch.ones(2, 3)}, folder / "model.safetensors", metadata={"format": "pt"})
        if "lora" in extra:
            continue  # its parent is no block but a layer, which has such a name
        with pytest.raises(CheckpointError, match=f"has no place for {key}"):
            load_pruned(folder)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_tied_tensor_alone_is_enough_or_an_error(tmp_path):
    model = zoo_model("gpt2")
    model.save_pretrained(tmp_path / "a")
    rewrite(tmp_path / "a", lambda key: "lm_head.weight" if key == "transformer.wte.weight" else key)
    try:
        loaded = load_pruned(tmp_path / "a", attn_implementation="eager")
    except CheckpointError as error:
        assert "missing keys: " in str(error)
    else:
        inputs = zoo_inputs("gpt2")
        with torch.no_grad():
            assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def test_a_body_without_its_pooler(tmp_path):
    tiny_model().bert.save_pretrained(tmp_path / "a")
    rewrite(tmp_path / "a", lambda key: None if key.startswith("pooler") else key)
    with pytest.raises(CheckpointError, match=r"missing keys: pooler.*add_pooling_layer=False"):
        load_pruned(tmp_path / "a")
    assert load_pruned(tmp_path / "a", add_pooling_layer=False).pooler is None


@pytest.mark.parametrize("command", ["prune", "export", "benchmark", "deploy", "compare", "demo"])
@pytest.mark.parametrize("fault", ["prefix", "head"])
def test_every_command_refuses_such_a_checkpoint(command, fault, given, capsys):
    pytest.importorskip("onnxruntime")
    if fault == "prefix":
        rewrite(given / "model", lambda key: "module." + key)
    else:
        rewrite(given / "model", lambda key: None if key.startswith("classifier") else key)
    model, out = str(given / "model"), str(given / "out")
    arguments = prune_arguments(given, output="out")[2:]
    lines = {
        "prune": ["prune", model, *arguments],
        "deploy": ["deploy", model, *arguments],
        "demo": ["demo", "--model", model, *arguments],
        "compare": ["compare", model, *["--test" if word == "--eval" else word for word in arguments]],
        "export": ["export", "-m", model, "-o", out, "--quiet"],
        "benchmark": ["benchmark", model, "-o", out, "--rounds", "2", "--sequence-length", "8", "--quiet"],
    }
    assert main(lines[command]) == 1
    captured = capsys.readouterr()
    assert f"cahp {command}: {model}" in captured.err and "missing keys: " in captured.err
    assert ("prefix 'module.'" in captured.err) == (fault == "prefix")
    assert captured.out == "" and not (given / "out").exists()


@pytest.fixture
def sharded(tmp_path):
    save_pruned(pruned(), tmp_path / "a", max_shard_size="20KB")
    return tmp_path / "a"


def edit_index(folder, shard):
    """Lets the index name another file for the tensors of its first shard."""
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first = sorted(set(index["weight_map"].values()))[0]
    index["weight_map"] = {
        key: (shard(first) if callable(shard) else shard) if name == first else name
        for key, name in index["weight_map"].items()
    }
    path.write_text(json.dumps(index))
    return first


@pytest.mark.parametrize(
    "shard",
    [
        "weights.bin",
        "../outside.safetensors",
        "sub/x.safetensors",
        "..\\outside.safetensors",
        lambda first: f"./{first}",
        "/dev/zero",
        "C:x.safetensors",
        7,
        None,
    ],
)
def test_a_shard_is_a_plain_safetensors_file(shard, sharded, tmp_path):
    first = edit_index(sharded, shard)
    content = (sharded / first).read_bytes()
    for place in (tmp_path / "outside.safetensors", sharded / "weights.bin"):  # they would be read
        place.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"index.json names the file .*expected the plain name|can't be read"):
        load_pruned(sharded)


def test_an_absolute_path_is_none(sharded, tmp_path):
    first = edit_index(sharded, str(tmp_path / "outside.safetensors"))
    (sharded / first).rename(tmp_path / "outside.safetensors")
    with pytest.raises(CheckpointError, match=r"names the file '/.*outside.safetensors'"):
        load_pruned(sharded)


def test_dense_checkpoints_and_indices_of_pickles_are_no_exception(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "a", max_shard_size="20KB")
    edit_index(tmp_path / "a", "../x.safetensors")
    with pytest.raises(CheckpointError, match=r"names the file '\.\./x.safetensors'"):
        load_pruned(tmp_path / "a")
    model.save_pretrained(tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "x.bin")
    index = {"metadata": {}, "weight_map": {key: "../x.bin" for key in model.state_dict()}}
    (tmp_path / "b" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin.index.json names the file '\.\./x.bin'"):
        load_pruned(tmp_path / "b")


def test_an_index_that_is_not_read_does_not_matter(tmp_path):
    folder = saved(tiny_model(), tmp_path / "a")
    (folder / "model.safetensors.index.json").write_text("{")
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"x": "../x.bin"}}')
    load_pruned(folder)


def test_distributed_checkpoints_are_told(tmp_path):
    folder = saved(tiny_model(), tmp_path / "a")
    (folder / "model.safetensors").rename(folder / "shard-00000-model-00001-of-00001.safetensors")
    with pytest.raises(CheckpointError, match="holds a distributed checkpoint"):
        load_pruned(folder)


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": ["b"]}}'])
def test_damaged_indices(index, sharded):
    (sharded / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match="can't be read"):
        load_pruned(sharded)


def test_links_are_followed(sharded, tmp_path):
    # as the Hub's cache has it: names that are links into a folder of contents
    for number, path in enumerate(sorted(sharded.glob("*.safetensors"))):
        path.rename(tmp_path / f"blob{number}")
        path.symlink_to(tmp_path / f"blob{number}")
    with torch.no_grad():
        loaded = load_pruned(sharded, attn_implementation="eager")
        assert torch.equal(loaded(**model_inputs()).logits, pruned()(**model_inputs()).logits)


@pytest.mark.parametrize("value", ["../model.safetensors", "pytorch_model.bin", "/x.safetensors", 3])
def test_the_config_names_no_other_weights(value, tmp_path):
    folder = saved(tiny_model(), tmp_path / "a")
    edit_config(folder, transformers_weights=value)
    with pytest.raises(CheckpointError, match=r"`transformers_weights` in config.json names the file"):
        load_pruned(folder)


HUB_KERNEL = "somebody/attention-kernel"


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
@pytest.mark.parametrize("value", [HUB_KERNEL, "fast", "kernels-community/x@main:f", {"": HUB_KERNEL}])
def test_a_config_names_no_attention_of_its_own(key, value, tmp_path):
    folder = saved(tiny_model(), tmp_path / "a")
    edit_config(folder, **{key: value})
    name = value[""] if isinstance(value, dict) else value
    with pytest.raises(CheckpointError, match=rf"config.json has `_?attn_impl[a-z_]*`: '{name}'.*eager.*sdpa"):
        load_pruned(folder)
    with pytest.raises(CheckpointError, match=r"config.json has"):
        load_config(folder)


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_neither_does_a_part_of_it(key, tmp_path):
    folder = tmp_path / "a"
    zoo_model("clip").save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    values["vision_config"][key] = HUB_KERNEL
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=HUB_KERNEL):
        load_pruned(folder)


def test_known_implementations_pass_and_unknown_arguments_do_not(tmp_path):
    folder = saved(tiny_model(), tmp_path / "a")
    for name in ("eager", "sdpa"):
        edit_config(folder, _attn_implementation=name)
        load_pruned(folder)
        load_pruned(folder, attn_implementation=name)
    with pytest.raises(ConfigError, match=f"`attn_implementation` is '{HUB_KERNEL}'. Known"):
        load_pruned(folder, attn_implementation=HUB_KERNEL)


@pytest.mark.parametrize(
    "changes", [{"dtype": "nonsense"}, {"architectures": [5]}, {"quantization_config": "x"}, {"id2label": 5}]
)
def test_other_values_that_make_no_sense(changes, tmp_path):
    folder = saved(tiny_model(), tmp_path / "a")
    edit_config(folder, **changes)
    try:
        load_pruned(folder)  # a transformers major that does not look at it
    except CheckpointError as error:
        assert str(folder) in str(error)


def test_benchmark_tells_an_unknown_implementation_in_a_line(given, capsys):
    pytest.importorskip("onnxruntime")
    assert main(["benchmark", str(given / "model"), "--attn-implementation", HUB_KERNEL, "--quiet"]) == 1
    assert f"`attn_implementation` is '{HUB_KERNEL}'" in capsys.readouterr().err
