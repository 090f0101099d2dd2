"""Times loading: a dense model of about 1 GB by ``from_pretrained`` against its pruned copies by ``load_pruned``.

    python examples/benchmark_loading.py

Every load runs in a fresh process (forked from a server that has the imports done and nothing else), and the ways take
turns. Since weights may be mapped from the file and read only when they are used, every weight is read once within the
clock. Memory is the peak resident memory of the process above what it held before loading, mapped files included. The
results are written to ``examples/results/loading.md`` and ``loading.json``.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from cahp_plugin import machine
from cahp_plugin._compat import package_versions
from cahp_plugin.table import format_table

RESULTS = Path(__file__).parent / "results"
LAYERS, HEADS = 18, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="loads of each kind")
    parser.add_argument("--hidden-size", type=int, default=1024, help="1024 makes about 1 GB")
    parser.add_argument("--output", type=Path, default=RESULTS / "loading.md", help="where the table goes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folders = save_models(Path(work), arguments.hidden_size)
        ways = {
            "dense, from_pretrained": ("from_pretrained", folders["dense"]),
            "dense, load_pruned": ("load_pruned", folders["dense"]),
            "one head a layer removed, load_pruned": ("load_pruned", folders["one"]),
            "half the heads removed, load_pruned": ("load_pruned", folders["half"]),
        }
        if "pruned_heads" in json.loads((folders["half"] / "config.json").read_text()):  # transformers 4.57
            ways["half the heads removed, from_pretrained"] = ("from_pretrained", folders["half"])
        runs: dict[str, list[dict]] = {name: [] for name in ways}
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["cahp_plugin.prune", "transformers.models.bert.modeling_bert"])
        with context.Pool(1, maxtasksperchild=1) as fresh:
            for number in range(arguments.rounds + 1):
                for name, (way, folder) in ways.items():
                    found = fresh.apply(load, (way, str(folder)))
                    if number:  # the first round fills the file cache
                        runs[name].append(found)
        sizes = {name: size_of(folder) for name, (_, folder) in ways.items()}
    write_results(runs, sizes, arguments.output)


def save_models(work: Path, hidden_size: int) -> dict[str, Path]:
    """A BERT with random weights, dense, without one head in each layer, and without half of all heads, unevenly."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from cahp_plugin import CAHPImportance, CAHPPruner, save_pruned

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=hidden_size,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * hidden_size,
        num_labels=5,
    )
    model = BertForSequenceClassification(config).eval()
    folders = {name: work / name for name in ("dense", "one", "half")}
    model.save_pretrained(folders["dense"])
    inputs = {"input_ids": torch.ones(1, 4, dtype=torch.long)}
    one = {layer: tuple(head for head in range(HEADS) if head != layer % HEADS) for layer in range(LAYERS)}
    CAHPPruner(model, inputs, importance=CAHPImportance(one)).step()
    save_pruned(model, folders["one"])
    half = {layer: heads[: 4 if layer % 2 else 12] for layer, heads in one.items()}
    CAHPPruner(model, inputs, importance=CAHPImportance(half)).step()
    save_pruned(model, folders["half"])
    return folders


def load(way: str, folder: str) -> dict[str, float]:
    """Loads a model, reads every weight, and says how long it took and how much memory; in a process of its own."""
    import torch
    from transformers import BertForSequenceClassification
    from transformers.utils import logging

    from cahp_plugin import load_pruned

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.ones(64, 64) @ torch.ones(64, 64)  # whatever torch allocates at its first product
    call = {"from_pretrained": BertForSequenceClassification.from_pretrained, "load_pruned": load_pruned}[way]
    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    model = call(folder)
    loaded = time.perf_counter() - start
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.sum()
    return {
        "seconds": time.perf_counter() - start,
        "seconds_without_reading": loaded,
        "peak_mib": (machine.peak_memory() - before) / 2**20,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def size_of(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e9


def write_results(runs: dict[str, list[dict]], sizes: dict[str, float], path: Path) -> None:
    base = next(iter(runs.values()))
    rows, figures = [], []
    for name, found in runs.items():
        seconds, peak = (statistics.median(run[key] for run in found) for key in ("seconds", "peak_mib"))
        times = [run["seconds"] / other["seconds"] for run, other in zip(found, base, strict=True)]
        memory = [run["peak_mib"] / other["peak_mib"] for run, other in zip(found, base, strict=True)]
        entry = {
            "way": name,
            "gigabytes": sizes[name],
            "seconds": seconds,
            "time_ratio": statistics.median(times),
            "peak_mib": peak,
            "memory_ratio": statistics.median(memory),
            "runs": found,
        }
        figures.append(entry)
        rows.append(
            {
                "model and way": name,
                "parameters": f"{found[0]['parameters']:,}",
                "GB": f"{sizes[name]:.3f}",
                "seconds": f"{seconds:.2f}",
                "time, ratio": f"{entry['time_ratio']:.2f}",
                "peak MiB": f"{peak:.0f}",
                "memory, ratio": f"{entry['memory_ratio']:.2f}",
            }
        )
    versions = {name: value for name, value in package_versions().items() if name in ("torch", "transformers")}
    about = ", ".join(f"{name} {value}" for name, value in versions.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    text = (
        f"# Loading a pruned model\n\n{format_table(rows, markdown=True)}\n\n"
        f"Medians of {len(base)} loads in fresh processes, taking turns, files in the file cache, one thread, every "
        "weight read once within the clock; ratios are medians of the ratios to the first line in the same round. "
        f"{machine.cpu_name()}, Python {platform.python_version()}, {about}; load average at the end "
        f"{psutil.getloadavg()[0]:.1f}. Made by `python examples/benchmark_loading.py`.\n"
    )
    path.write_text(text)
    path.with_suffix(".json").write_text(
        json.dumps({"cpu": machine.cpu_name(), "versions": versions, "ways": figures}, indent=2) + "\n"
    )
    print(text)


if __name__ == "__main__":
    main()
