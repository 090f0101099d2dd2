"""Memory and time of comparing a thousand heads on long sequences, with and without sampled queries.

    python examples/benchmark_observation.py --output examples/results

A decoder of 32 layers of 32 heads with random weights reads one sequence of 2,048 tokens. Each measurement runs in a
process of its own, on one thread. How far sampled queries change the distances is measured on 256 tokens, where all
queries can be compared.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import transformers

from cahp_plugin.config import CAHPConfig
from cahp_plugin.files import write_text
from cahp_plugin.machine import cpu_name, peak_memory
from cahp_plugin.observe import observe, prepare_batches
from cahp_plugin.observe.conditioning import CONDITIONINGS
from cahp_plugin.observe.head_maps import HeadDistances, run_with_maps
from cahp_plugin.observe.sums import frozen_eval
from cahp_plugin.units import attention_layers

NONE = CONDITIONINGS["none"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--head-dim", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--max-queries", type=int, default=64)
    parser.add_argument("--compared-tokens", type=int, default=256)
    parser.add_argument("--output", default="examples/results")
    parser.add_argument("--measure", choices=tuple(MEASUREMENTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        torch.set_num_threads(1)
        print(json.dumps(MEASUREMENTS[arguments.measure](arguments)))
        return
    found = {name: in_a_process(name) for name in MEASUREMENTS}
    report = {
        "settings": {name: value for name, value in vars(arguments).items() if name not in ("output", "measure")},
        "machine": {"cpu": cpu_name(), "torch": torch.__version__, "transformers": transformers.__version__},
        "measurements": found,
    }
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "observation.json", json.dumps(report, indent=2) + "\n")
    write_text(folder / "observation.md", table(arguments, report))
    print(table(arguments, report))


def in_a_process(measurement: str) -> dict:
    """Runs a measurement in a process of its own: a peak of memory never comes down again."""
    command = [sys.executable, __file__, *sys.argv[1:], "--measure", measurement]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def prepared(arguments: argparse.Namespace, tokens: int) -> tuple:
    """The model, its layers and one sequence."""
    width = arguments.heads * arguments.head_dim
    config = transformers.LlamaConfig(
        vocab_size=1000,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads,
        max_position_embeddings=tokens,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():  # wider than the usual initialisation, so that attention is not the same everywhere
        for layer in model.model.layers:
            for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                linear.weight.mul_(5)
    ids = torch.randint(3, 1000, (1, tokens))
    return model, attention_layers(model), prepare_batches([{"input_ids": ids}], model, NONE)


def clocked(work) -> dict:
    """Wall and processor seconds of a piece of work, and the memory that it took beyond what was there before."""
    before, wall, processor = peak_memory(), time.perf_counter(), time.process_time()
    work()
    return {
        "wall_s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(time.process_time() - processor, 1),
        "peak_mib": round(peak_memory() / 2**20),
        "added_mib": round((peak_memory() - before) / 2**20),
    }


def plain(arguments: argparse.Namespace) -> dict:
    """The forward pass that makes the maps, one layer at a time, and drops them."""
    model, layers, batches = prepared(arguments, arguments.tokens)
    with frozen_eval(model):
        return clocked(lambda: run_with_maps(model, layers, next(iter(batches)), lambda layer, maps: None))


def observation(arguments: argparse.Namespace) -> dict:
    """The whole observation: distances and salience."""
    model, layers, batches = prepared(arguments, arguments.tokens)
    config = CAHPConfig(conditioning="none", salience_share=1.0, max_queries=arguments.max_queries)
    return clocked(lambda: observe(model, layers, batches, config, NONE))


def agreement(arguments: argparse.Namespace) -> dict:
    """Distances at sampled queries against those at all queries, on a shorter sequence."""
    model, layers, batches = prepared(arguments, arguments.compared_tokens)
    found = {}
    with frozen_eval(model):
        for name, count in (("all", None), ("sampled", arguments.max_queries)):
            distances = HeadDistances(model, layers, count)
            distances.update(next(iter(batches)))
            found[name] = distances.finish().numpy()[np.triu_indices(len(layers) * arguments.heads, 1)]
    change = np.abs(found["all"] - found["sampled"])
    return {
        "mean_distance": round(float(found["all"].mean()), 4),
        "mean_change": round(float(change.mean()), 4),
        "largest_change": round(float(change.max()), 4),
        "correlation": round(float(np.corrcoef(found["all"], found["sampled"])[0, 1]), 4),
    }


MEASUREMENTS = {"plain": plain, "observation": observation, "agreement": agreement}


def table(arguments: argparse.Namespace, report: dict) -> str:
    """The measurements as Markdown."""
    found, machine = report["measurements"], report["machine"]
    count, tokens, queries = arguments.layers * arguments.heads, arguments.tokens, arguments.max_queries
    lines = [
        "# Comparing heads without classes: memory and time",
        "",
        f"{count:,} heads ({arguments.layers} layers of {arguments.heads}, {arguments.head_dim} channels each, random "
        f"weights), one sequence of {tokens:,} tokens, `max_queries={queries}`, one thread of {machine['cpu']}, "
        f"fp32, torch {machine['torch']}, transformers {machine['transformers']}. "
        "Made by `examples/benchmark_observation.py`. Where the machine had other work too, wall is above processor "
        "time.",
        "",
        "| | wall, s | processor, s | peak memory, MiB | beyond model and libraries, MiB |",
        "|---|---|---|---|---|",
    ]
    names = {
        "plain": "forward pass with maps, dropped layer by layer",
        "observation": "whole observation: distances and salience",
    }
    for name, text in names.items():
        row = found[name]
        lines.append(f"| {text} | {row['wall_s']} | {row['cpu_s']} | {row['peak_mib']:,} | {row['added_mib']:,} |")
    held = 4 * count * tokens / 2**20
    agreed = found["agreement"]
    lines += [
        "",
        f"Held until the pass ends: N x queries x S = {held * queries:,.0f} MiB. All queries would take N x S x S = "
        f"{held * tokens:,.0f} MiB (computed, not run), and {tokens / queries:.0f} times the time for the distances.",
        "",
        f"What sampling changes, on {arguments.compared_tokens} tokens at {queries} queries against all: distances "
        f"(mean {agreed['mean_distance']}) move by {agreed['mean_change']} on average and {agreed['largest_change']} "
        f"at most; their correlation over all pairs is {agreed['correlation']}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
