"""Measures whether the repair is linear in the depth, and what it costs beside plain forward passes.

    python examples/benchmark_depth.py -o examples/results/depth
    python examples/benchmark_depth.py --model SMOLLM2 --texts mnli/train.jsonl -o examples/results/depth

Random BERT models of 6, 12 and 24 layers, a quarter of the heads and half the neurons gone: seconds of the repair, by
turns in one run, and how often each transformer layer is called, counted by hooks. With `--model`, a language model
without a quarter of its heads, drawn at random: seconds of the repair against those of a plain forward pass of the
dense model over the same sequences. Writes JSON and a page.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification
from transformers.utils import logging

from cahp_plugin import CAHPImportance, CAHPPruner, KeptSet, load_pruned, machine, recover_least_squares
from cahp_plugin._compat import package_versions
from cahp_plugin.files import write_text
from cahp_plugin.table import format_table
from cahp_plugin.tasks.processors import load_processor
from cahp_plugin.units import attention_layers

DEPTHS = (6, 12, 24)


def main() -> None:
    """Measures, and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a causal language model")
    parser.add_argument("--texts", help="jsonl file; all its texts, one after the other, are cut into sequences")
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a sequence (default: 256)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", required=True, help="path of the results without its ending")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    found: dict[str, Any] = {"threads": arguments.threads, "cpu": machine.cpu_name(), "versions": package_versions()}
    found["depth"] = depth(arguments.repeats)
    if arguments.model:
        found["language_model"] = language_model(arguments)
    write_text(Path(f"{arguments.output}.json"), json.dumps(found, indent=1) + "\n")
    write_text(Path(f"{arguments.output}.md"), page(found))
    print(page(found))


def depth(repeats: int) -> list[dict[str, Any]]:
    """The repair of models that differ in depth alone."""
    pairs = {layers: random_pair(layers) for layers in DEPTHS}
    data = [random_batch(seed) for seed in range(10)]
    calls = {layers: counted_calls(*pairs[layers], data) for layers in DEPTHS}
    seconds: dict[int, list[float]] = {layers: [] for layers in DEPTHS}
    for _ in range(repeats):
        for layers, (model, dense) in pairs.items():
            fresh = copy.deepcopy(model)
            start = time.perf_counter()
            recover_least_squares(fresh, dense, data, num_examples=160)
            seconds[layers].append(time.perf_counter() - start)
    return [
        {"layers": layers, "seconds": seconds[layers], "calls": calls[layers]}
        | {"ratios": [mine / base for mine, base in zip(seconds[layers], seconds[12], strict=True)]}
        for layers in DEPTHS
    ]


def random_pair(layers: int) -> tuple[Any, Any]:
    """A random model without a quarter of its heads and half of its neurons, and the dense one."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=1000, hidden_size=256, num_hidden_layers=layers, num_attention_heads=8,
                        intermediate_size=1024)  # fmt: skip
    dense = BertForSequenceClassification(config).eval()
    kept = KeptSet({index: range(6) for index in range(layers)}, {index: range(512) for index in range(layers)})
    model = copy.deepcopy(dense)
    CAHPPruner(model, random_batch(0), importance=CAHPImportance(kept)).step()
    return model, dense


def random_batch(seed: int) -> dict[str, torch.Tensor]:
    """16 sentences of 64 tokens."""
    ids = torch.randint(5, 1000, (16, 64), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def counted_calls(model: Any, dense: Any, data: Any) -> dict[str, list[int]]:
    """Calls of each transformer layer in one repair, of the pruned and of the dense model."""
    found: dict[str, list[int]] = {}
    for name, one in (("pruned", copy.deepcopy(model)), ("dense", copy.deepcopy(dense))):
        stack = one.bert.encoder.layer
        counts = found[name] = [0] * len(stack)
        for place, layer in enumerate(stack):
            layer.register_forward_pre_hook(lambda *_, c=counts, p=place: c.__setitem__(p, c[p] + 1))
        model, dense = (one, dense) if name == "pruned" else (model, one)
    recover_least_squares(model, dense, data, num_examples=160)
    return found


def language_model(arguments: argparse.Namespace) -> dict[str, Any]:
    """The repair of a real language model against plain forward passes, by turns."""
    dense, tokenizer = load_pruned(arguments.model, dtype=torch.float32), load_processor(arguments.model)
    rows = (json.loads(line) for line in Path(arguments.texts).read_text(encoding="utf-8").splitlines())
    words = " ".join(text for row in rows for text in row.values() if isinstance(text, str) and " " in text)
    ids = tokenizer(words[: 12 * arguments.sequences * arguments.tokens], return_tensors="pt")["input_ids"][0]
    ids = ids[: arguments.sequences * arguments.tokens].view(arguments.sequences, arguments.tokens)
    data = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids.split(4)]
    units = [(layer.index, unit) for layer in attention_layers(dense) for unit in layer.units]
    gone = set(random.Random(0).sample(units, round(len(units) / 4)))
    kept = {layer.index: sum((unit for unit in layer.units if (layer.index, unit) not in gone), ())
            for layer in attention_layers(dense)}  # fmt: skip
    model = copy.deepcopy(dense)
    CAHPPruner(
        model, {name: value[:1, :16] for name, value in data[0].items()}, importance=CAHPImportance(kept)
    ).step()
    forward, repair, reports = [], [], []
    for _ in range(max(3, arguments.repeats // 2)):
        start = time.perf_counter()
        with torch.inference_mode():
            for batch in data:
                dense(**batch, use_cache=False)
        forward.append(time.perf_counter() - start)
        fresh = copy.deepcopy(model)
        start = time.perf_counter()
        reports.append(recover_least_squares(fresh, dense, data, num_examples=len(ids)))
        repair.append(time.perf_counter() - start)
    return {
        "class": type(dense).__name__,
        "layers": len(attention_layers(dense)),
        "units_gone": f"{len(gone)} of {len(units)}",
        "load_average": os.getloadavg()[0],
        "sequences": f"{arguments.sequences} of {arguments.tokens} tokens",
        "forward_seconds": forward,
        "repair_seconds": repair,
        "ratios": [mine / base for mine, base in zip(repair, forward, strict=True)],
        "divergence": reports[-1].divergence,
    }


def page(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    rows = []
    for row in found["depth"]:
        pruned, dense = row["calls"]["pruned"], row["calls"]["dense"]
        rows.append(
            {
                "layers": str(row["layers"]),
                "seconds": spread(row["seconds"]),
                "of 12 layers": spread(row["ratios"]),
                "calls of a pruned layer": f"{min(pruned)} to {max(pruned)}",
                "calls of a dense layer": f"{min(dense)} to {max(dense)}",
            }
        )
    lines = [
        "# The repair against the depth",
        "",
        "Random BERT models (hidden size 256, 8 heads, 1,024 neurons) without a quarter of the heads and half of the "
        "neurons; 160 sentences of 64 tokens in 10 batches, two of them held out. Median (least to most) of "
        f"{len(found['depth'][0]['seconds'])} turns.",
        "",
        format_table(rows, markdown=True),
        "",
        "Calls are those of one repair over all batches: 8 to fit (once in the pass, once for each of the two "
        "projections; the last layer's pass ends with its fit) and, before and after, 2 to compare.",
        "",
    ]
    language = found.get("language_model")
    if language:
        lines += [
            f"{language['class']} of {language['layers']} layers, {language['units_gone']} groups of query heads "
            f"gone, {language['sequences']}: a plain forward pass of the dense model takes "
            f"{spread(language['forward_seconds'])} s, the repair {spread(language['repair_seconds'])} s, "
            f"{spread(language['ratios'])} times as long. Divergence of the outputs on held-out sequences "
            f"{language['divergence'][0]:.3f} -> {language['divergence'][1]:.3f}.",
            "",
        ]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return "\n".join([*lines, f"{found['threads']} threads, {found['cpu']}; {versions}."]) + "\n"


def spread(values: list[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
