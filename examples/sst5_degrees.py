"""Measures CAHP at polynomial degrees 2 to 6 on SST-5: heads kept, test accuracy one-shot and recovered, seconds.

    python examples/sst5_degrees.py --model MODEL --data FOLDER_WITH_JSONL -o examples/results/sst5_degrees.jsonl

Beside each degree stand the same number of heads taken by salience, l2-normalised in each layer (Michel et al. 2019:
the plain ranking that CAHP has to beat), by what a refit can't make up for, and at random. Each is evaluated one-shot,
after the least-squares repair, and (CAHP and the ranking, one seed) after fine-tuning. Every run is a line of the
output; runs that are there already are not repeated. ``--table`` prints the README's table from the output alone.
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

import torch

from cahp_plugin import (
    CAHPImportance,
    CAHPPruner,
    HeadSelection,
    KeptSet,
    encode,
    evaluate,
    finetune,
    load_pruned,
    recover_least_squares,
)
from cahp_plugin._compat import package_versions
from cahp_plugin.data import load_examples
from cahp_plugin.selectors import View, make_selector
from cahp_plugin.selectors.cahp.representatives import select
from cahp_plugin.table import format_table

DEGREES = (2, 3, 4, 5, 6)
NAMES = {"cahp": "CAHP", "salience-layernorm": "ranking", "reconstruction": "reconstruction", "random": "random"}
FINETUNED = ("cahp", "salience-layernorm")
RECOVERIES = ("none", "least-squares", "finetune")


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="fine-tuned five-class checkpoint")
    parser.add_argument("--data", help="folder with train.jsonl and test.jsonl")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the selection")
    parser.add_argument("--finetune-seeds", type=int, nargs="*", default=[0], help="seeds that are fine-tuned too")
    parser.add_argument("--finetune-methods", nargs="+", default=FINETUNED, help="methods that are fine-tuned too")
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
    sets = (load_examples(f"{arguments.data}/{name}.jsonl") for name in ("train", "test"))
    train, test = (encode(data, dense, tokenizer) for data in sets)
    machine = {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    common = {"machine": machine, "versions": package_versions(), "epochs": arguments.epochs}

    def write(line: dict[str, Any]) -> None:
        with output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line | common) + "\n")

    if key({"method": "dense", "recover": "none"}) not in done:
        found = evaluate(dense, test)
        write(
            {"method": "dense", "recover": "none", "num_heads": 72, "parameters": dense.num_parameters()}
            | {"accuracy": found.score.value, "loss": found.loss}
        )
    start = time.perf_counter()
    view = View(
        dense,
        train.batches(),
        shuffled=lambda seed, _: train.batches(shuffle=True, seed=seed),
    )
    observed = view.evidence
    select(observed)
    seconds = time.perf_counter() - start
    jobs = [(seed, degree, how) for how in ("none", "least-squares") for seed in arguments.seeds for degree in DEGREES]
    jobs += [(seed, degree, "finetune") for seed in arguments.finetune_seeds for degree in DEGREES]
    for seed, degree, recover in jobs:
        config = dataclasses.replace(observed.config, polynomial_degree=degree, seed=seed)
        selection = select(dataclasses.replace(observed, config=config))
        calibration = train.batches(shuffle=True, seed=seed)
        for method in NAMES:
            line: dict[str, Any] = {"method": method, "degree": degree, "seed": seed, "recover": recover}
            if key(line) in done or (recover == "finetune" and method not in arguments.finetune_methods):
                continue
            chosen = choose(method, selection, view, seed)
            kept = {str(k): list(v) for k, v in chosen.heads.items()}
            twin = next(
                (x for x in read(output) if (x.get("kept"), x.get("seed"), x["recover"]) == (kept, seed, recover)),
                None,
            )
            if twin is not None:  # another degree chose the same heads: the run would be the same
                write(twin | line)
                continue
            model = copy.deepcopy(dense)
            example = {name: value for name, value in test.batch([0]).items() if name != "labels"}
            CAHPPruner(model, example, importance=CAHPImportance(chosen)).step()
            recovery = 0.0
            if recover == "finetune":
                recovery = finetune(model, train, epochs=arguments.epochs, seed=seed).seconds
            elif recover == "least-squares":
                recovery = recover_least_squares(model, dense, calibration).seconds
            found = evaluate(model, test)
            write(
                line
                | {
                    "num_heads": chosen.num_heads,
                    "kept": kept,
                    "parameters": model.num_parameters(),
                    "accuracy": found.score.value,
                    "loss": found.loss,
                    "seconds_select": round(seconds, 1),
                    "seconds_recover": round(recovery, 1),
                }
            )


def choose(method: str, selection: HeadSelection, view: View, seed: int) -> KeptSet:
    """The selection, or as many heads chosen in another way."""
    if method == "cahp":
        return selection.kept
    name = "obs" if method == "reconstruction" else method
    return make_selector(name).fit(view, seed=seed).keep(selection.num_heads)


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
                {"degree": "-", "heads kept": "72 (100 %)", "parameters": f"{line['parameters']:,}", "heads": "dense"}
                | {"one-shot": cell([line]), "least squares": "", "fine-tuned": ""}
            )
    for degree in DEGREES:
        at = [line for line in lines if line.get("degree") == degree]
        for method, name in NAMES.items():
            by = {how: [x for x in at if (x["method"], x["recover"]) == (method, how)] for how in RECOVERIES}
            if not by["none"]:
                continue
            heads = [x["num_heads"] for x in by["none"]]
            span = f"{min(heads)}" if min(heads) == max(heads) else f"{min(heads)} to {max(heads)}"
            first = method == "cahp"
            rows.append(
                {
                    "degree": str(degree) if first else "",
                    "heads kept": f"{span} ({100 * statistics.mean(heads) / 72:.0f} %)" if first else "",
                    "parameters": f"{statistics.mean(x['parameters'] for x in by['none']):,.0f}" if first else "",
                    "heads": name,
                    "one-shot": cell(by["none"]),
                    "least squares": cell(by["least-squares"]),
                    "fine-tuned": cell(by["finetune"]),
                }
            )
    seconds = {how: [x["seconds_recover"] for x in lines if x["recover"] == how] for how in RECOVERIES[1:]}
    spent = "; ".join(f"{how} {statistics.median(values):.0f} s" for how, values in seconds.items() if values)
    return f"{format_table(rows, markdown=True)}\n\nMedian seconds of a recovery: {spent}."


if __name__ == "__main__":
    main()
