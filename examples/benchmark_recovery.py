"""Measures the least-squares repair: its seconds, its memory beyond the models, and the accuracy it brings back.

    python examples/benchmark_recovery.py --model MODEL --train train.jsonl --test test.jsonl --heads 16 \
        -o examples/results/recovery

CAHP's heads and random ones, one-shot and repaired, on the test set. Seconds and memory come from processes of their
own, which load the dense and the pruned checkpoint and do nothing else. Writes `recovery.json` and `recovery.md`.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from cahp_plugin import CAHPImportance, CAHPPruner, encode, evaluate, load_pruned, machine, save_pruned
from cahp_plugin._compat import package_versions
from cahp_plugin.data import load_examples
from cahp_plugin.files import write_text
from cahp_plugin.recover import RecoverySettings
from cahp_plugin.recover.settings import repair
from cahp_plugin.selectors import View, make_selector
from cahp_plugin.table import format_table


def main() -> None:
    """Measures, and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="fine-tuned classifier")
    parser.add_argument("--train", required=True, help="training set: selects and calibrates")
    parser.add_argument("--test", required=True, help="test set")
    parser.add_argument("--heads", type=int, default=16, help="heads kept (default: 16)")
    parser.add_argument("--examples", type=int, default=384, help="examples of the repair (default: 384)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=2, help="threads of the timed repair (default: 2)")
    parser.add_argument("--repeats", type=int, default=3, help="timed repairs, each in its own process (default: 3)")
    parser.add_argument("-o", "--output", help="path of the results without its ending")
    parser.add_argument("--timed", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.timed:
        print(json.dumps(timed(arguments)))
        return
    if not arguments.output:
        parser.error("--output is required")
    found = run(arguments)
    write_text(Path(f"{arguments.output}.json"), json.dumps(found, indent=2) + "\n")
    write_text(Path(f"{arguments.output}.md"), page(found))
    print(page(found))


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures, as plain JSON values."""
    dense, train, test = loaded(arguments)
    view = View(dense, train.by_length().batches())
    runs, costs = [], []
    settings = RecoverySettings("least-squares", calibration_examples=-(-arguments.examples * 4 // 3))
    for seed in arguments.seeds:
        for method in ("cahp", "random"):
            kept = make_selector(method).fit(view, seed=seed).keep(arguments.heads)
            model = copy.deepcopy(dense)
            example = {name: value for name, value in test.batch([0]).items() if name != "labels"}
            CAHPPruner(model, example, importance=CAHPImportance(kept)).step()
            if (method, seed) == ("cahp", arguments.seeds[0]):
                costs = in_own_processes(arguments, model)
            before = evaluate(model, test).score.value
            repair(model, dense, train, settings, seed=seed)
            after = evaluate(model, test).score.value
            runs.append({"method": method, "seed": seed, "one_shot": before, "repaired": after})
    return {
        "heads": arguments.heads,
        "of": view.units.num_heads,
        "examples": arguments.examples,
        "dense": evaluate(dense, test).score.value,
        "test_examples": len(test),
        "runs": runs,
        "costs": costs,
        "threads": arguments.threads,
        "cpu": machine.cpu_name(),
        "cores": os.cpu_count(),
        "versions": package_versions(),
    }


def loaded(arguments: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Dense model, examples of the training and the test set."""
    from transformers import AutoTokenizer

    dense = load_pruned(arguments.model)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    train, test = (encode(load_examples(path), dense, tokenizer) for path in (arguments.train, arguments.test))
    return dense, train, test


def in_own_processes(arguments: argparse.Namespace, pruned: Any) -> list[dict[str, float]]:
    """Seconds, MiB and the machine's load for each timed repair."""
    command = [sys.executable, __file__, "--model", arguments.model, "--train", arguments.train]
    command += ["--test", arguments.test, "--examples", str(arguments.examples), "--threads", str(arguments.threads)]
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        save_pruned(pruned, folder)
        for _ in range(arguments.repeats):
            load = os.getloadavg()[0]
            process = subprocess.run(
                [*command, "--timed", folder],
                capture_output=True,
                text=True,
                check=True,
                env=os.environ | {"OMP_NUM_THREADS": str(arguments.threads)},
            )
            costs.append(json.loads(process.stdout.splitlines()[-1]) | {"load_before": round(load, 2)})
    return costs


def timed(arguments: argparse.Namespace) -> dict[str, float]:
    """One repair in this process; the peak counts from after both models and the data are there."""
    dense, train, _ = loaded(arguments)
    pruned = load_pruned(arguments.timed)
    torch.set_num_threads(arguments.threads)
    settings = RecoverySettings("least-squares", calibration_examples=-(-arguments.examples * 4 // 3))
    gc.collect()
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again from here
    cpu, start = os.times(), time.perf_counter()
    repair(pruned, dense, train, settings, seed=0)
    seconds, spent = time.perf_counter() - start, os.times()
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(spent.user + spent.system - cpu.user - cpu.system, 2),
        "peak_mib": round((machine.peak_memory() - before) / 2**20, 1),
    }


def page(found: dict[str, Any]) -> str:
    """The results as a page of Markdown."""
    rows = []
    for method in ("cahp", "random"):
        runs = [run for run in found["runs"] if run["method"] == method]
        lifts = [100 * (run["repaired"] - run["one_shot"]) for run in runs]
        rows.append(
            {"heads": method}
            | {name: spread([100 * run[name] for run in runs]) for name in ("one_shot", "repaired")}
            | {"lift, points": spread(lifts)}
        )
    costs = [
        {
            "seconds": f"{cost['seconds']:.1f}",
            "CPU seconds": f"{cost['cpu_seconds']:.1f}",
            "peak beyond the models, MiB": f"{cost['peak_mib']:.0f}",
            "load average before": f"{cost['load_before']:.1f}",
        }
        for cost in found["costs"]
    ]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"""# The least-squares repair

{found["heads"]} of {found["of"]} heads, {found["examples"]} unlabelled training sentences (a fifth of them held out),
accuracy in % on {found["test_examples"]:,} test sentences, mean ± standard deviation over seeds; dense
{100 * found["dense"]:.1f}.

{format_table(rows, markdown=True)}

Cost, {found["threads"]} threads on {found["cores"]} cores ({found["cpu"]}), each line a process of its own. Threads
that wait for a core count as busy, so on a shared machine both columns of seconds are upper bounds; the load average
stands beside them. Drawing and sorting the examples is in the seconds, loading the models and tokenizing is not.

{format_table(costs, markdown=True)}

{versions}.
"""


def spread(values: list[float]) -> str:
    """Mean, standard deviation and number."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation} (n={len(values)})"


if __name__ == "__main__":
    main()
