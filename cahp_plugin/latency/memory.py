"""Peak memory of one target, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from cahp_plugin import machine
from cahp_plugin.errors import ExportError


def peak_memory(path: str, batch_size: int, sequence_length: int, **settings: Any) -> float:
    """Peak resident memory of a fresh process that loads a target and runs it, above the process before loading.

    Args:
        path: Folder or Hub id.
        batch_size: Examples.
        sequence_length: Tokens.
        **settings: As for :func:`cahp_plugin.latency.targets.load_target`; it is host memory on any device.

    Returns:
        MiB.

    Raises:
        ExportError: The process failed.
    """
    what = [os.path.abspath(path) if os.path.exists(path) else path, batch_size, sequence_length, settings]
    run = run_elsewhere(__name__, json.dumps(what), environment={"OMP_NUM_THREADS": str(settings["threads"])})
    if run.returncode:
        raise ExportError(f"{path}: the process that measures memory failed: {run.stderr.strip().splitlines()[-1:]}")
    return float(run.stdout.splitlines()[-1])


#: Finds this library where this process has it from, and nothing else there: not installed, it may be anywhere.
_BOOT = """
import sys
from importlib.machinery import PathFinder
from runpy import run_module
root, module, *sys.argv[1:] = sys.argv[1:]
class Own:
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [root]) if name == "cahp_plugin" else None
sys.meta_path.insert(0, Own)
run_module(module, run_name="__main__")
"""
#: Folders of caches, which may be named from the current one.
_HUB_FOLDERS = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_TOKEN_PATH")
_FOLDERS = (*_HUB_FOLDERS, "XDG_CACHE_HOME")


def run_elsewhere(module: str, argument: str, *, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a module of this library in a new process that imports nothing from the current folder.

    That folder may be a downloaded checkpoint's, with a ``psutil.py`` in it. The process starts in an empty temporary
    folder; of ``PYTHONPATH`` it gets all but the current folder, as absolute paths. What is installed is found as
    ever: editable, for the user, or by ``PYTHONPATH``.

    Args:
        module: Name of the module, run as ``__main__``.
        argument: Its one argument.
        environment: Variables on top of this process's.

    Returns:
        The ended process, with its output as text.
    """
    here = os.path.realpath(os.curdir)
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    paths = [os.path.abspath(entry) for entry in given if os.path.realpath(entry) != here]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | dict(environment)
    variables |= {name: os.path.abspath(variables[name]) for name in _FOLDERS if variables.get(name)}
    if paths:
        variables["PYTHONPATH"] = os.pathsep.join(paths)
    with tempfile.TemporaryDirectory(prefix="cahp-") as empty:
        return subprocess.run(
            [sys.executable, "-c", _BOOT, str(Path(__file__).parents[2]), module, argument],
            capture_output=True,
            text=True,
            env=variables,
            cwd=empty,
        )


def _main(path: str, batch_size: int, sequence_length: int, settings: dict[str, Any]) -> None:
    import torch

    from cahp_plugin.export.tools import onnxruntime
    from cahp_plugin.latency.targets import example_inputs, find_targets, load_target
    from cahp_plugin.prune.checkpoint import model_class

    torch.set_num_threads(settings["threads"])
    target = find_targets([path])[0]
    if not target.graphs:  # imports are not the model's memory
        model_class(target.config, target.path)
    else:
        onnxruntime()
    inputs = example_inputs([target], batch_size, sequence_length, 0)
    before = psutil.Process().memory_info().rss
    call = load_target(target, **settings)(inputs)
    for _ in range(3):
        call()
    print((machine.peak_memory() - before) / 2**20)


if __name__ == "__main__":
    _main(*json.loads(sys.argv[1]))
