"""Several processes see and choose what one does; what goes wrong in one is an error in all."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import prune_arguments
from comparing import compare
from processes_worker import RUNS, job

from cahp_plugin.cli import main

TESTS = Path(__file__).parent
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


def environment(**more):
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "TQDM_DISABLE": "1"} | more


def test_two_processes_see_and_choose_what_one_does(tmp_path):
    path = tmp_path / "found"
    run = subprocess.Popen([*LAUNCH, str(TESTS / "processes_worker.py")], env=environment(FOUND=str(path)),
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    threads = torch.get_num_threads()
    try:
        mine = job()
    finally:
        torch.set_num_threads(threads)
    output, _ = run.communicate(timeout=250)
    assert run.returncode == 0, output
    theirs = pickle.loads(path.read_bytes())
    assert (mine["size"], theirs["size"]) == (1, 2)
    for conditioning in ("label", "prediction", "none"):  # to the bit: from what the heads are chosen, and which
        assert mine[conditioning][0] == theirs[conditioning][0]
        np.testing.assert_array_equal(mine[conditioning][1], theirs[conditioning][1])
        np.testing.assert_array_equal(mine[conditioning][2], theirs[conditioning][2])
    assert mine["kept"] == theirs["kept"] and len(mine["kept"]) >= 13
    for one, other in zip(mine["grams"], theirs["grams"], strict=True):
        assert float((one - other).norm()) <= 1e-10 * float(one.norm()) and float(one.norm()) > 0
    assert mine["evaluation"] == theirs["evaluation"]
    # What goes wrong in one is the same error in both.
    first, second = theirs["errors"]
    assert first == second and first["nan"] == mine["errors"][0]["nan"] and "not numbers" in first["nan"]
    assert first["few"] == "ConfigError: 2 processes can't share 1 batches. Start fewer, or make smaller batches."
    assert "The 2 processes differ in what they were given (data: " in first["data"]
    assert "differ in what they were given (versions: {'torch': '2.0'}, {'torch': '2.1'})" in first["versions"]
    assert "differ in what they were given (settings: " in first["seed"] and "'seed': 1" in first["seed"]
    # One process goes on where two have stopped: all runs are there.
    lines = (tmp_path / "runs" / "runs.jsonl").read_text()
    found = compare(tmp_path / "runs", **RUNS)
    assert len(found.runs) == 5 and (tmp_path / "runs" / "runs.jsonl").read_text() == lines
    fresh = compare(tmp_path / "alone", **RUNS)
    for one, other in zip(found.runs, fresh.runs, strict=True):
        same = ("key", "kept", "correct", "score", "loss", "parameters")
        assert [getattr(one, name) for name in same] == [getattr(other, name) for name in same]


def launched(arguments, **more):
    return subprocess.Popen([*LAUNCH, "-m", "cahp_plugin", *arguments], env=environment(**more),
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip


def test_the_command_in_two_processes(given, capsys):
    """The heads are those of one process, both fine-tune; the folder that it starts in is not imported."""
    (given / "datasets.py").write_text("raise SystemExit('the current folder was imported')")
    arguments = prune_arguments(given, "--json", "--epochs", "1", "--no-figures")
    run = subprocess.run([*LAUNCH, "-m", "cahp_plugin", *arguments], env=environment(), cwd=given, capture_output=True,
                         text=True, timeout=200)  # fmt: skip
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)  # one process prints
    saved = json.loads((given / "pruned" / "cahp_report.json").read_text())
    assert report["world_size"] == saved["world_size"] == 2 and saved["stages"][-1]["name"] == "recovered"
    assert main(prune_arguments(given, "--json", "--recover", "none", "--no-figures", output="alone")) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["world_size"] == 1 and alone["kept"] == report["kept"]
    assert sorted(path.name for path in given.iterdir()) == ["alone", "datasets.py", "eval.jsonl", "model", "pruned",
                                                             "train.jsonl"]  # fmt: skip


@pytest.mark.parametrize("budget", [["--macs", "0.7"], ["--max-drop", "20", "--order", "salience"]])
def test_two_processes_meet_a_budget_as_one_does(given, capsys, budget):
    more = [*budget, "--json", "--no-figures", "--calibration-examples", "40", "--batch-size", "4", "--refine", "1"]
    run = subprocess.run([*LAUNCH, "-m", "cahp_plugin", *prune_arguments(given, *more)], env=environment(), cwd=given,
                         capture_output=True, text=True, timeout=200)  # fmt: skip
    assert run.returncode == 0, run.stderr
    two = json.loads(run.stdout)["plan"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(prune_arguments(given, *more, output="alone")) == 0
    finally:
        torch.set_num_threads(threads)
    one = json.loads(capsys.readouterr().out)["plan"]
    assert two["layers"] == one["layers"] and two["divergence"] == pytest.approx(one["divergence"], rel=1e-6)
    assert [drop["value"] for drop in two["drops"]] == [drop["value"] for drop in one["drops"]]
    assert sorted(path.name for path in given.iterdir() if path.name.startswith(("pruned", "alone"))) == [
        "alone", "pruned"
    ]  # fmt: skip


def test_a_lost_process_is_an_error_in_all(given):
    """The second is killed in the middle of the fine-tuning, and the launcher ends the first by SIGTERM.

    Nothing half-written is left.
    """
    before = sorted(path.name for path in given.iterdir())
    run = launched(prune_arguments(given, "--epochs", "2000"))
    deadline = time.monotonic() + 120
    while not any(path.name not in before for path in given.iterdir()):  # the folder that is being written
        assert time.monotonic() < deadline and run.poll() is None, run.communicate()
        time.sleep(0.2)
    workers = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    assert run.wait(timeout=90) != 0
    assert sorted(path.name for path in given.iterdir()) == before
