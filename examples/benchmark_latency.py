"""Latency against the share of heads removed, in one interleaved run, beside what the multiply-accumulates allow.

    python examples/benchmark_latency.py --model MODEL -o examples/results/latency

Removes the last 25, 50 and 75 % of each layer's heads (which heads does not matter for time), exports all to ONNX,
fp32 and int8, and measures them in onnxruntime at batch size 1.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from cahp_plugin import CAHPImportance, CAHPPruner, load_pruned, save_pruned
from cahp_plugin.export import export_pruned
from cahp_plugin.latency import LatencyReport, measure_latency
from cahp_plugin.report import save_latency
from cahp_plugin.table import format_table
from cahp_plugin.units import attention_layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--output", "-o", default="examples/results/latency")
    parser.add_argument("--overwrite", action="store_true", help="replace the output folder if it is not empty")
    parser.add_argument("--table", action="store_true", help="only print the README's table of what is there")
    parser.add_argument("--preset", default="avx2", help="processors that the int8 graphs are for (see cahp export)")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sequence-length", type=int, nargs="+", default=[32, 128, 512])
    arguments = parser.parse_args()
    if arguments.table:
        print(summary(LatencyReport.from_dict(json.loads((Path(arguments.output) / "latency.json").read_text()))))
        return
    with tempfile.TemporaryDirectory() as work:
        targets = []
        for removed in (0, 25, 50, 75):
            model = load_pruned(arguments.model)
            if removed:
                remove(model, removed / 100)
            name = f"{removed} % removed" if removed else "dense"
            checkpoint = save_pruned(model, Path(work) / "checkpoints" / name)
            for quantize, suffix in ((None, ""), ("dynamic", " int8")):
                target = Path(work) / (name + suffix)
                export_pruned(checkpoint, target, quantize=quantize, preset=arguments.preset if quantize else None)
                targets.append(target)
        report = measure_latency(
            targets,
            sequence_lengths=arguments.sequence_length,
            rounds=arguments.rounds,
            threads=arguments.threads,
        )
    save_latency(report, arguments.output, overwrite=arguments.overwrite)
    print(report)


def summary(report: LatencyReport) -> str:
    """Ratio to the dense fp32 graph by target and length, and what the multiply-accumulates allow."""
    rows: dict[str, dict[str, str]] = {}
    for entry in report.measurements:
        row = rows.setdefault(entry.target, {"graph": entry.target, "MiB": f"{entry.mib:.1f}"})
        text = f"{entry.p50_ms:.1f} ms, {entry.ratio:.2f}x"
        if entry.precision == "fp32" and entry.theory < 1:
            text += f" (theory {entry.theory:.2f}x)"
        row[f"length {entry.sequence_length}"] = text
    return format_table(list(rows.values()), markdown=True)


def remove(model, share: float) -> None:
    """Removes the last `share` of each layer's heads."""
    kept = {}
    for layer in attention_layers(model):
        count = len(layer.heads)
        kept[layer.index] = layer.heads[: count - round(share * count)]
    tokens = torch.ones(1, 8, dtype=torch.long)
    example = {"input_ids": tokens, "attention_mask": tokens}
    CAHPPruner(model, example, importance=CAHPImportance(kept)).step()


if __name__ == "__main__":
    main()
