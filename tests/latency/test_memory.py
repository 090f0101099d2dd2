"""The process that measures memory: where it starts, and what it imports. test_latency.py measures with it."""

import json
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

from cahp_plugin.latency import memory
from cahp_plugin.latency.memory import run_elsewhere

SHOWS = "import json, os, sys; print(json.dumps([sys.path, os.getcwd(), os.listdir(), sys.argv]))"


@pytest.mark.parametrize("entries", [["lib", "."], [".", "lib", ""], ["lib", "../here"], ["lib", "link"]])
def test_of_the_search_path_only_the_current_folder_is_left_out(entries, tmp_path, monkeypatch):
    here = tmp_path / "here"
    (here / "lib").mkdir(parents=True)
    (here / "link").symlink_to(here)
    (here / "lib" / "shows.py").write_text(SHOWS)
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(entries))
    run = run_elsewhere("shows", "argument", environment={"MORE": "1"})
    assert run.returncode == 0, run.stderr
    path, folder, content, arguments = json.loads(run.stdout)
    reached = {os.path.realpath(entry or folder) for entry in path}
    assert str(here) not in reached and str(here / "lib") in reached
    assert folder != str(here) and content == [] and arguments[1:] == ["argument"]
    assert not Path(folder).exists()


def test_it_is_the_library_of_the_calling_process(tmp_path, monkeypatch):
    """Even where another copy is installed, and nothing else of its folder."""
    (tmp_path / "psutil.py").write_text("raise SystemExit('not mine')")
    monkeypatch.chdir(tmp_path)
    shows = "import cahp_plugin, psutil; print(cahp_plugin.__file__, psutil.__file__)"
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "shows.py").write_text(shows)
    monkeypatch.setenv("PYTHONPATH", "lib")
    copy = tmp_path / "cahp_plugin"
    shutil.copytree(Path(memory.__file__).parents[1], copy)
    monkeypatch.setattr(memory, "__file__", str(copy / "latency" / "memory.py"))
    run = run_elsewhere("shows", "", environment={"HF_HOME": "cache"})
    assert run.returncode == 0 and run.stdout.startswith(str(copy)), run.stderr
