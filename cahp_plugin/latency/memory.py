"""Peak memory of one target, in a process of its own: ``python -m cahp_plugin.latency.memory '{...}'``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import psutil

from cahp_plugin import machine
from cahp_plugin.errors import ExportError


def peak_memory(
    path: str, *, batch_size: int, sequence_length: int, device: str, threads: int, attn_implementation: str | None
) -> float:
    """Peak resident memory of a fresh process that loads a target and runs it, above the process before loading.

    Args:
        path: Folder or Hub id.
        batch_size: Examples.
        sequence_length: Tokens.
        device: ``"cpu"`` or ``"cuda"``; host memory either way.
        threads: Threads.
        attn_implementation: For torch; transformers' own choice where it is ``None``.

    Returns:
        MiB.

    Raises:
        ExportError: The process failed.
    """
    settings = {
        "path": path,
        "batch_size": batch_size,
        "sequence_length": sequence_length,
        "device": device,
        "threads": threads,
        "attn_implementation": attn_implementation,
    }
    run = subprocess.run(
        [sys.executable, "-m", "cahp_plugin.latency.memory", json.dumps(settings)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )
    if run.returncode:
        raise ExportError(f"{path}: the process that measures memory failed: {run.stderr.strip().splitlines()[-1:]}")
    return float(run.stdout.splitlines()[-1])


def _main(settings: dict[str, Any]) -> None:
    import torch

    from cahp_plugin.export.session import onnxruntime
    from cahp_plugin.latency.targets import example_inputs, find_targets, load_target
    from cahp_plugin.prune.checkpoint import model_class

    torch.set_num_threads(settings["threads"])
    target = find_targets([settings["path"]])[0]
    if not target.graphs:  # imports are not the model's memory
        model_class(target.config, target.path)
    else:
        onnxruntime()
    inputs = example_inputs([target], settings["batch_size"], settings["sequence_length"], 0)
    before = psutil.Process().memory_info().rss
    settings = {name: settings[name] for name in ("device", "threads", "attn_implementation")}
    call = load_target(target, **settings)(inputs)
    for _ in range(3):
        call()
    print((machine.peak_memory() - before) / 2**20)


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
