import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import ARCHITECTURES, model_inputs, tiny_batches, tiny_model

from cahp_plugin import CAHPConfig, CAHPImportance, CAHPPruner, HeadSelection, load_pruned, save_pruned, select_heads
from cahp_plugin.errors import CheckpointError
from cahp_plugin.units import attention_layers

KEPT = {0: (1, 3), 1: (), 2: (0, 1, 2, 3)}


def pruned(name="bert", kept=KEPT, **changes):
    model = tiny_model(name, **changes)
    CAHPPruner(model, model_inputs(), importance=CAHPImportance(kept)).step()
    return model


def logits(model):
    with torch.no_grad():
        return model(**model_inputs()).logits


@pytest.mark.parametrize("name", ["bert"])  # test_families.py has the others, in one process
@pytest.mark.parametrize("kept", [KEPT, {0: (), 1: (), 2: ()}])
def test_reload_is_exact_in_a_fresh_process(name, kept, tmp_path):
    model = pruned(name, kept)
    save_pruned(model, tmp_path / "pruned")
    code = (
        "import sys, torch; from tiny import model_inputs; from cahp_plugin import load_pruned\n"
        "model = load_pruned(sys.argv[1], attn_implementation='eager')\n"
        "with torch.no_grad(): torch.save((type(model).__name__, model(**model_inputs()).logits), sys.argv[2])"
    )
    tests = Path(__file__).parents[1]
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "pruned"), str(tmp_path / "logits.pt")],
        env=os.environ | {"PYTHONPATH": str(tests)},
        cwd=tests.parent,
        check=True,
        capture_output=True,
    )
    found = torch.load(tmp_path / "logits.pt")
    assert found[0] == type(model).__name__
    assert torch.equal(found[1], logits(model))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_loaded_model_is_like_any_other(name, tmp_path):
    model = pruned(name)
    save_pruned(model, tmp_path / "a")
    loaded = load_pruned(tmp_path / "a", attn_implementation="eager")
    assert type(loaded) is type(model) and not loaded.training
    assert {layer.index: layer.heads for layer in attention_layers(loaded)} == KEPT
    # Prune, save and load again: indices still are those of the first model.
    CAHPPruner(loaded, model_inputs(), importance=CAHPImportance({0: (3,), 2: (2,)})).step()
    save_pruned(loaded, tmp_path / "b")
    again = load_pruned(tmp_path / "b", attn_implementation="eager")
    assert {layer.index: layer.heads for layer in attention_layers(again)} == {0: (3,), 1: (), 2: (2,)}
    assert torch.equal(logits(again), logits(loaded))


def test_options_of_from_pretrained_work(tmp_path):
    save_pruned(pruned(), tmp_path / "a")
    loaded = load_pruned(tmp_path / "a", dtype=torch.bfloat16, attn_implementation="sdpa")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert loaded.config._attn_implementation == "sdpa"


def test_sharded_checkpoints_load(tmp_path):
    model = pruned()
    model.save_pretrained(tmp_path / "a", max_shard_size="20KB")
    assert len(list((tmp_path / "a").glob("*.safetensors"))) > 1
    assert torch.equal(logits(load_pruned(tmp_path / "a", attn_implementation="eager")), logits(model))


def test_selection_and_tokenizer_lie_beside_the_model(tmp_path):
    class Tokenizer:
        def save_pretrained(self, folder):
            (Path(folder) / "tokenizer.json").write_text("{}")

    model = tiny_model()
    selection = select_heads(model, tiny_batches(), CAHPConfig(num_heads=6))
    CAHPPruner(model, model_inputs(), importance=CAHPImportance(selection)).step()
    assert save_pruned(model, tmp_path / "a", selection=selection, tokenizer=Tokenizer()) == tmp_path / "a"
    assert (tmp_path / "a" / "tokenizer.json").exists()
    saved = json.loads((tmp_path / "a" / "selection.json").read_text())
    assert HeadSelection.from_dict(saved).kept.heads == selection.kept.heads
    config = json.loads((tmp_path / "a" / "config.json").read_text())["cahp_config"]
    assert config["layers"] == {
        str(layer): {"num_heads": 4, "head_dim": 8, "group_size": 1, "kept": list(heads)}
        for layer, heads in selection.kept.heads.items()
    }


def test_a_plain_checkpoint_loads_with_an_info_line(tmp_path, caplog):
    model = tiny_model()
    model.save_pretrained(tmp_path / "a")
    with caplog.at_level(logging.INFO):
        loaded = load_pruned(tmp_path / "a", attn_implementation="eager")
    assert torch.equal(logits(loaded), logits(model))
    assert len([record for record in caplog.records if "was not pruned by cahp-plugin" in record.getMessage()]) == 1


def test_a_folder_that_is_not_empty_is_kept(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "precious").write_text("mine")
    with pytest.raises(CheckpointError, match=r"not empty.*overwrite"):
        save_pruned(pruned(), tmp_path / "a")
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["precious"]
    save_pruned(pruned(), tmp_path / "a", overwrite=True)
    assert not (tmp_path / "a" / "precious").exists() and (tmp_path / "a" / "model.safetensors").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        save_pruned(pruned(), tmp_path / "file")


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("exists", [False, True])
def test_a_failure_while_saving_leaves_nothing_half_written(failure, exists, tmp_path):
    class FailingTokenizer:
        def save_pretrained(self, folder):
            assert (Path(folder) / "model.safetensors").exists()  # the model was written already
            raise failure

    if exists:
        save_pruned(pruned(), tmp_path / "a")
    before = sorted((file.relative_to(tmp_path), file.stat().st_mtime_ns) for file in tmp_path.rglob("*"))
    with pytest.raises(KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else CheckpointError):
        save_pruned(pruned(), tmp_path / "a", tokenizer=FailingTokenizer(), overwrite=True)
    assert sorted((file.relative_to(tmp_path), file.stat().st_mtime_ns) for file in tmp_path.rglob("*")) == before


def damaged(tmp_path, change):
    save_pruned(pruned(), tmp_path / "a")
    change(tmp_path / "a")
    return tmp_path / "a"


def edit_map(kept):
    """Replaces the map: layer -> kept heads, or what is no map at all."""
    entry = {"num_heads": 4, "head_dim": 8, "group_size": 1}
    return edit_config(layers=kept and {layer: entry | {"kept": heads} for layer, heads in kept.items()})


def edit_config(**changes):
    def change(folder):
        path = folder / "config.json"
        values = json.loads(path.read_text())
        for key, value in changes.items():
            values["cahp_config"][key] = value
        path.write_text(json.dumps(values))

    return change


def drop_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["bert.encoder.layer.0.attention.self.query.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), "no config.json that can be read"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json that can be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "can't be loaded"),
        (lambda folder: os.truncate(folder / "model.safetensors", 5000), "can't be loaded"),
        (drop_tensor, "disagree.*missing keys: bert.encoder.layer.0.attention.self.query.bias"),
        (edit_map({"0": [1], "1": [], "2": [0, 1, 2, 3]}), "can't be loaded.*do not belong together"),
        (edit_map({"0": [1, 3], "1": [0], "2": [0, 1, 2, 3]}), "disagree|can't be loaded"),
        (edit_map({"0": [1, 3]}), "names the layers \\[0\\]"),
        (edit_map({"0": [1, 9], "1": [], "2": [0]}), "damaged.*layer 0 keeps heads \\[1, 9\\]"),
        (edit_map({"0": [3, 1], "1": [], "2": [0]}), "damaged"),
        (edit_map(None), "damaged"),
        (edit_config(format=99), "format 99; this version of cahp-plugin reads the formats 2 to 3"),
    ],
)
def test_damaged_checkpoints(change, message, tmp_path):
    folder = damaged(tmp_path, change)
    with pytest.raises(CheckpointError, match=message):
        load_pruned(folder, attn_implementation="eager")


def test_unknown_places_and_classes(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        load_pruned(tmp_path / "nowhere")
    folder = damaged(tmp_path, lambda folder: None)
    values = json.loads((folder / "config.json").read_text()) | {"architectures": ["MyBert"]}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="names the class 'MyBert'"):
        load_pruned(folder)
