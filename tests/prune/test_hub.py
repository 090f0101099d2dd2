import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import local_hub
from tiny import tiny_model

from cahp_plugin import save_pruned
from cahp_plugin.errors import CheckpointError, ConfigError

PREAMBLE = """
import sys, torch
from pathlib import Path
from tiny import model_inputs, tiny_model
from cahp_plugin import CAHPImportance, CAHPPruner, load_pruned, save_pruned
work = Path(sys.argv[1])
def logits(model):
    with torch.no_grad():
        return model(**model_inputs()).logits
model = tiny_model()
CAHPPruner(model, model_inputs(), importance=CAHPImportance({0: (1, 3), 1: ()})).step()
"""


def run(hub, tmp_path, code):
    """Runs code in a process whose Hub is the local one: the endpoint is read when huggingface_hub is imported."""
    tests = Path(__file__).parents[1]
    environment = {
        "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}",
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + code, str(tmp_path)],
        env={name: value for name, value in os.environ.items() if "TRANSFORMERS_OFFLINE" not in name} | environment,
        capture_output=True,
        text=True,
    )


def test_to_the_hub_and_back(tmp_path):
    code = """
save_pruned(model, work / "a", push_to_hub=True, repo_id="me/tiny", private=True, token="secret-token")
assert torch.equal(logits(load_pruned("me/tiny", attn_implementation="eager")), logits(model))
model.push_to_hub("me/by-transformers", token="secret-token")
assert torch.equal(logits(load_pruned("me/by-transformers", attn_implementation="eager")), logits(model))
dense = tiny_model()
dense.push_to_hub("me/dense", token="secret-token")
import logging
logging.basicConfig(level=logging.INFO)
assert torch.equal(logits(load_pruned("me/dense", attn_implementation="eager")), logits(dense))
"""
    with local_hub() as hub:
        found = run(hub, tmp_path, code)
    assert found.returncode == 0, found.stderr[-3000:]
    folder = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert hub.files["me/tiny"] == folder and {"README.md", "config.json", "model.safetensors"} <= set(folder)
    assert hub.private["me/tiny"] is True
    assert {token for path, token in hub.requests if "/commit/" in path} == {"Bearer secret-token"}
    assert found.stderr.count("me/dense was not pruned by cahp-plugin; it is loaded as it is.") == 1
    assert b'load_pruned("me/tiny")' in folder["README.md"] and b"secret-token" not in b"".join(folder.values())


def test_a_failed_upload_leaves_the_folder_whole(tmp_path):
    code = """
from cahp_plugin.errors import CheckpointError
try:
    save_pruned(model, work / "a", push_to_hub=True, token="secret-token")
except CheckpointError as error:
    print(error)
assert torch.equal(logits(load_pruned(work / "a", attn_implementation="eager")), logits(model))
"""
    with local_hub() as hub:
        hub.broken = True
        found = run(hub, tmp_path, code)
    assert found.returncode == 0, found.stderr[-3000:]
    assert "is saved and whole, but its upload to 'a' failed" in found.stdout
    assert "me/a" in hub.files  # the folder's name is the repository's


def test_offline(tmp_path):
    with pytest.raises(CheckpointError, match="is saved and whole, but its upload to 'me/a' failed"):
        save_pruned(tiny_model(), tmp_path / "a", push_to_hub=True, repo_id="me/a", token="none")
    assert (tmp_path / "a" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"repo_id": "me/a", "private": True}, "`repo_id` and `private` given without `push_to_hub=True`"),
        ({"push_to_hub": True, "repo_id": "not a name"}, "must be a name like `user/model`, got 'not a name'"),
    ],
)
def test_arguments_are_checked_before_anything_is_written(arguments, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        save_pruned(tiny_model(), tmp_path / "a", **arguments)
    assert not (tmp_path / "a").exists()
