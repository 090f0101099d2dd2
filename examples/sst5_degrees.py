"""Measures CAHP at polynomial degrees 2 to 6 on SST-5: heads kept, test accuracy one-shot and recovered, seconds.

    python examples/sst5_degrees.py --model MODEL --data FOLDER_WITH_JSONL -o examples/results/sst5_degrees.jsonl

Beside each degree stands the plain ranking that CAHP has to beat: the same number of heads, taken by salience,
l2-normalised in each layer (Michel et al. 2019), with the same recovery. Every run is a line of the output; runs that
are there already are not repeated. ``--table`` prints the table of the README from the output alone.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cahp_plugin import CAHPConfig, CAHPImportance, CAHPPruner, HeadSelection, finetune, load_pruned, select_heads
from cahp_plugin._compat import package_versions
from cahp_plugin.data import encode, find_columns, load_examples, make_dataloader
from cahp_plugin.method.representatives import select_from_separation
from cahp_plugin.recover import evaluate_classifier
from cahp_plugin.report import format_table

DEGREES = (2, 3, 4, 5, 6)


def ranked_by_salience(selection: HeadSelection) -> dict[int, tuple[int, ...]]:
    """As many heads as the selection keeps, by salience over its layer's l2 norm; one head a layer at least."""
    score = selection.salience / np.linalg.norm(selection.salience, axis=1, keepdims=True)
    best = {layer: int(np.argmax(row)) for layer, row in enumerate(score)}
    kept = {(layer, head) for layer, head in best.items()}
    order = sorted(np.ndindex(*score.shape), key=lambda place: -score[place])
    for place in order:
        if len(kept) == selection.num_heads:
            break
        kept.add(place)
    return {layer: tuple(sorted(h for at, h in kept if at == layer)) for layer in best}


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="fine-tuned five-class checkpoint")
    parser.add_argument("--data", help="folder with train.jsonl and test.jsonl")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the selection, one-shot")
    parser.add_argument("--recover-seeds", type=int, nargs="+", default=[0], help="seeds that are fine-tuned too")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("-o", "--output", default="examples/results/sst5_degrees.jsonl")
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    arguments = parser.parse_args()
    output = Path(arguments.output)
    if not arguments.table:
        run(arguments, output)
    print(table(output))


def run(arguments: argparse.Namespace, output: Path) -> None:
    """Appends the missing runs to the output."""
    from transformers import AutoTokenizer

    done = {key(line) for line in read(output)}
    dense = load_pruned(arguments.model)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    train, test = (load_examples(f"{arguments.data}/{name}.jsonl") for name in ("train", "test"))
    columns = find_columns(train)
    train, test = (encode(data, columns, tokenizer, dense) for data in (train, test))
    test_batches = make_dataloader(test, tokenizer, batch_size=32)
    machine = {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    common = {"machine": machine, "versions": package_versions(), "epochs": arguments.epochs}

    def write(line: dict[str, Any]) -> None:
        with output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line | common) + "\n")

    if key({"method": "dense", "recover": "none"}) not in done:
        found = evaluate_classifier(dense, test_batches)
        write(
            {"method": "dense", "recover": "none", "num_heads": 72, "parameters": dense.num_parameters()}
            | {"accuracy": found.accuracy, "loss": found.loss}
        )
    start = time.perf_counter()
    observed = select_heads(dense, make_dataloader(train, tokenizer, batch_size=32), CAHPConfig())
    seconds = time.perf_counter() - start
    jobs = [(seed, degree, "none") for seed in arguments.seeds for degree in DEGREES]
    jobs += [(seed, degree, "finetune") for seed in arguments.recover_seeds for degree in DEGREES]
    for seed, degree, recover in jobs:
        config = dataclasses.replace(observed.config, polynomial_degree=degree, seed=seed)
        selection = select_from_separation(
            observed.separation, observed.heads, observed.salience, config, num_examples=observed.num_examples
        )
        for method, kept in (("cahp", selection.kept), ("salience-layernorm", ranked_by_salience(selection))):
            line: dict[str, Any] = {"method": method, "degree": degree, "seed": seed, "recover": recover}
            if key(line) in done:
                continue
            model = copy.deepcopy(dense)
            example = {name: value[:1] for name, value in next(iter(test_batches)).items() if name != "labels"}
            CAHPPruner(model, example, importance=CAHPImportance(kept)).step()
            recovery = 0.0
            if recover == "finetune":
                recovery = finetune(model, train, tokenizer, epochs=arguments.epochs, seed=seed).seconds
            found = evaluate_classifier(model, test_batches)
            write(
                line
                | {
                    "num_heads": sum(map(len, kept.values())),
                    "kept": {str(k): list(v) for k, v in kept.items()},
                    "parameters": model.num_parameters(),
                    "accuracy": found.accuracy,
                    "loss": found.loss,
                    "seconds_select": round(seconds, 1),
                    "seconds_recover": round(recovery, 1),
                }
            )


def key(line: dict[str, Any]) -> tuple[Any, ...]:
    """What tells one run from another."""
    return line["method"], line.get("degree"), line.get("seed"), line["recover"]


def read(output: Path) -> list[dict[str, Any]]:
    """Lines of the output; none where it is not there yet."""
    return [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []


def table(output: Path) -> str:
    """The table of the README: means over seeds, and the spread where there are several."""
    lines = read(output)
    rows = []

    def cell(found: list[dict[str, Any]]) -> str:
        values = [100 * line["accuracy"] for line in found]
        if not values:
            return "-"
        spread = f" ± {statistics.stdev(values):.1f} (n={len(values)})" if len(values) > 1 else " (n=1)"
        return f"{statistics.mean(values):.1f}{spread}"

    for line in lines:
        if line["method"] == "dense":
            rows.append(
                {
                    "degree": "dense",
                    "heads kept": "72 (100 %)",
                    "parameters": f"{line['parameters']:,}",
                    "cahp one-shot": cell([line]),
                    "ranking one-shot": "",
                    "cahp recovered": "",
                    "ranking recovered": "",
                    "seconds to recover": "",
                }
            )
    for degree in DEGREES:
        at = [line for line in lines if line.get("degree") == degree]
        if not at:
            continue
        pick = {
            (m, r): [x for x in at if (x["method"], x["recover"]) == (m, r)]
            for m in ("cahp", "salience-layernorm")
            for r in ("none", "finetune")
        }
        heads = [x["num_heads"] for x in pick["cahp", "none"]]
        parameters = statistics.mean(x["parameters"] for x in pick["cahp", "none"])
        recovery = [x["seconds_recover"] for x in pick["cahp", "finetune"]]
        span = f"{min(heads)}" if min(heads) == max(heads) else f"{min(heads)} to {max(heads)}"
        rows.append(
            {
                "degree": str(degree),
                "heads kept": f"{span} ({100 * statistics.mean(heads) / 72:.0f} %)",
                "parameters": f"{parameters:,.0f}",
                "cahp one-shot": cell(pick["cahp", "none"]),
                "ranking one-shot": cell(pick["salience-layernorm", "none"]),
                "cahp recovered": cell(pick["cahp", "finetune"]),
                "ranking recovered": cell(pick["salience-layernorm", "finetune"]),
                "seconds to recover": f"{statistics.mean(recovery):.0f}" if recovery else "-",
            }
        )
    return format_table(rows, markdown=True)


if __name__ == "__main__":
    main()
