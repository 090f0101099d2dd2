"""Measures what a second process saves of the observation, and whether several see the same as one.

    python examples/benchmark_processes.py MODEL --train sst5/train.jsonl -o examples/results/processes

The observation of a classifier (signatures, salience, entropies, Gram matrices of the heads) in one process and in
several, by turns, a thread a process; loading is not counted. The processes are started by `torchrun`. Then: seconds,
their ratios round by round, whether the sums are the same bit for bit, the largest relative difference of a Gram
matrix, and the heads kept by every selector that observes. Writes JSON and a page; a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cahp_plugin.files import write_text
from cahp_plugin.table import format_table

METHODS = ("cahp", "medoid", "salience", "salience-layernorm", "hies", "obs")


def main() -> None:
    """Measures, and writes both files; with `--measure`, one measurement in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a fine-tuned classifier")
    parser.add_argument("--train", required=True, help="training set, as `cahp prune` takes it")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--examples", type=int, help="examples taken, the first ones (default: all)")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", required=True, help="path of the results without its ending")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments)
        return
    path = Path(f"{arguments.output}.json")
    runs: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    while len(runs) < 2 * arguments.repeats:
        size = (1, arguments.processes)[len(runs) % 2]
        runs.append(started(arguments, size))
        write_text(path, json.dumps({"runs": runs}, indent=1) + "\n")
        print(f"{size} process(es): {runs[-1]['seconds']:.1f} s", file=sys.stderr)
    write_text(Path(f"{arguments.output}.md"), page(runs))
    print(page(runs))


def started(arguments: argparse.Namespace, size: int) -> dict[str, Any]:
    """One measurement by so many processes."""
    launcher = [sys.executable] if size == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone",
                                                   "--nproc_per_node", str(size)]  # fmt: skip
    found = Path(f"{arguments.output}.part.json")
    command = [*launcher, __file__, arguments.model, "--train", arguments.train, "-o", str(found), "--measure"]
    command += ["--examples", str(arguments.examples)] if arguments.examples else []
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"})
    result: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
    found.unlink()
    return result


def measure(arguments: argparse.Namespace) -> None:
    """Observes in this process, or in all that were started with it; the first writes what was seen."""
    import hashlib

    import torch

    from cahp_plugin import encode, load_pruned, machine
    from cahp_plugin._compat import package_versions
    from cahp_plugin.data import load_examples
    from cahp_plugin.observe.grams import HeadGrams
    from cahp_plugin.observe.sums import accumulate
    from cahp_plugin.processes import processes
    from cahp_plugin.selectors import View, make_selector
    from cahp_plugin.tasks.processors import load_processor

    torch.set_num_threads(1)
    model, tokenizer = load_pruned(arguments.model), load_processor(arguments.model)
    data = load_examples(arguments.train)
    data = data.shuffle(seed=0).select(range(arguments.examples or len(data)))
    view = View(model, encode(data, model, tokenizer).by_length().batches())
    batches = view.prepared(view.conditioning)
    processes().all(None)
    start = time.perf_counter()
    evidence = view.evidence
    observed = time.perf_counter() - start
    grams = HeadGrams(model, view.layers)
    accumulate(model, batches, [grams], "Measuring heads")
    seconds = time.perf_counter() - start
    kept = {name: make_selector(name).fit(view).keep(0.5).to_dict() for name in METHODS}
    sums = [grams.state[layer.index].centred() for layer in view.layers]
    if processes().main:
        assert evidence.separation is not None
        found = {
            "processes": processes().size,
            "seconds": seconds,
            "observation": observed,
            "examples": batches.num_examples,
            "batches": len(batches),
            "separation": hashlib.sha256(evidence.separation.tobytes()).hexdigest(),
            "salience": hashlib.sha256(evidence.salience.tobytes()).hexdigest(),
            "grams": [[float(gram.norm()), *gram.flatten()[:: gram.numel() // 39].tolist()] for gram, _ in sums],
            "kept": kept,
            "cpu": machine.cpu_name(),
            "versions": package_versions(),
        }
        write_text(Path(arguments.output), json.dumps(found) + "\n")


def gram_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Largest difference of the entries that were written down, relative to the norm of their matrix."""
    return max(
        max(abs(a - b) for a, b in zip(mine, theirs, strict=True)) / mine[0]
        for mine, theirs in zip(one["grams"], other["grams"], strict=True)
    )


def page(runs: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    singles, several = runs[::2], runs[1::2]
    cells = []
    for name, kind in (("signatures and salience", "observation"), ("the same and Gram matrices", "seconds")):
        ratios = [one[kind] / many[kind] for one, many in zip(singles, several, strict=True)]
        cells.append(
            {
                "walk": name,
                "1 process, s": f"{statistics.median(run[kind] for run in singles):.1f}",
                f"{several[0]['processes']} processes, s": f"{statistics.median(run[kind] for run in several):.1f}",
                "times as fast": f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            }
        )
    same = all(run[name] == runs[0][name] for run in runs for name in ("separation", "salience", "kept"))
    worst = max(gram_difference(runs[0], run) for run in runs)
    first = runs[0]
    return f"""# Several processes

By `examples/benchmark_processes.py`: {first["examples"]} examples in {first["batches"]} batches, by turns,
a thread a process, on {first["cpu"]}. Median of the ratios of {len(singles)} rounds (least to most). Loading is not
counted.

{", ".join(f"{name} {version}" for name, version in first["versions"].items())}.

{format_table(cells, markdown=True)}

Separation, salience and the heads kept by {", ".join(METHODS)} at half of the heads are
{"the same bit for bit in all runs" if same else "NOT THE SAME IN ALL RUNS"}. Gram matrices differ by {worst:.1e} of
their norm at most.
"""


if __name__ == "__main__":
    main()
