"""Whether a model is as fast as was asked, and what that costs: asked and measured, fp32 and int8, on this machine.

Each model is chosen by a time table and a measurement of whole graphs, like ``cahp prune --speedup`` and ``cahp deploy
--speedup`` do it; then both graphs are exported again and timed in a run of its own. One plan serves all. The runs are
lines of ``speeds.jsonl``: one that is there is not repeated, so the same command goes on after a stop.

    python examples/benchmark_speed.py MODEL --train train.jsonl --test test.jsonl -o examples/results/budget-speed
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from cahp_plugin import Budget, CAHPConfig, prune_model
from cahp_plugin._compat import package_versions
from cahp_plugin.config import PlanSettings, RecoverySettings
from cahp_plugin.cost.times import How, Speed, speed_of
from cahp_plugin.data import load_examples
from cahp_plugin.export import export_pruned
from cahp_plugin.machine import cpu_flags, cpu_name, saturates_int8
from cahp_plugin.table import format_table
from cahp_plugin.tasks import Options, encode_sets, task_of
from cahp_plugin.workflow import load_model
from cahp_plugin.workflow.budget import calibration_of, make_plan

_INT8 = {"quantize": "dynamic", "preset": "avx2" if saturates_int8() else "avx512_vnni"}
#: What is asked for, and how the graphs are made that are to reach it.
RUNS: list[tuple[dict[str, float], dict[str, str]]] = [
    ({"speedup": 1.5}, {}),
    ({"speedup": 2.0}, {}),
    ({"speedup": 1.5}, _INT8),
    ({"speedup": 2.0}, _INT8),
    ({"macs": 0.5}, _INT8),
    ({"macs": 0.5}, _INT8 | {"optimize": "O2"}),
]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--train", required=True, help="calibration examples are drawn from it; no labels are used")
    parser.add_argument("--test", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--refine", type=int, default=16, help="whole models tried; 0 is the plan alone")
    parser.add_argument("--output", "-o", required=True)
    return parser.parse_args()


def main() -> None:
    """Runs what is missing and writes the table."""
    given = arguments()
    folder = Path(given.output)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "speeds.jsonl"
    runs = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    model, processor = load_model(given.model)
    rows = {"train": load_examples(given.train), "test": load_examples(given.test)}
    train, test = encode_sets(rows, model, processor, task_of(model), Options()).values()
    config, recovery, plan = CAHPConfig(seed=given.seed), RecoverySettings("least-squares"), None
    for asked, graphs in RUNS:
        if any((run["asked"], run["graphs"]) == (asked, graphs) for run in runs):
            continue
        if plan is None:
            batches, _ = calibration_of(model, train, recovery, given.seed)
            plan = make_plan(model, batches, PlanSettings(), config, 16, folder / "plans" / "obs.jsonl")
        start = time.perf_counter()
        pruned = load_model(given.model)[0]
        report = prune_model(
            pruned, processor, rows["train"].remove_columns("label"), config=config, budget=Budget(**asked), plan=plan,
            planning=PlanSettings(refine=given.refine), graphs=graphs, figures=False,
        )  # fmt: skip
        chosen, seconds = report.plan, time.perf_counter() - start
        assert chosen is not None
        with tempfile.TemporaryDirectory() as name:
            made = {
                "dense-fp32": (model, {}), "dense": (model, graphs), "pruned": (pruned, graphs),
            }  # fmt: skip
            found = {
                key: export_pruned(source, Path(name) / key, tokenizer=processor, evaluation=test, **how)
                for key, (source, how) in made.items()
            }
            how = How("onnxruntime", "int8" if graphs else "fp32", (128,), 1, 1)
            like, mixed = (speed_of(Path(name) / key, Path(name) / "pruned", how) for key in ("dense", "dense-fp32"))
        scores = {key: (export.quantized or export.fp32).score for key, export in found.items()}  # type: ignore[union-attr]
        run = {
            "asked": asked,
            "graphs": graphs,
            "chosen": None
            if chosen.speed is None
            else shown(chosen.speed) | {"corrections": chosen.speed.corrections},
            "like": shown(like),
            "to_fp32": shown(mixed),
            "macs": chosen.macs.layers,
            "metric": scores["pruned"].name,
            "scores": {key: score.value for key, score in scores.items()},
            "mib": {key: export.mib for key, export in found.items()},
            "num_examples": len(test),
            "refine": given.refine,
            "seconds": round(seconds, 1),
            "model": Path(given.model).name,
            "cpu": f"{cpu_name()} ({', '.join(cpu_flags())})",
            "versions": package_versions("onnxruntime"),
        }
        runs.append(run)
        with file.open("a") as lines:
            lines.write(json.dumps(run) + "\n")
        print(run, flush=True)
    (folder / "table.md").write_text(page(runs))
    print(page(runs))


def shown(speed: Speed) -> dict[str, float]:
    """A speed as plain values."""
    return {"ratio": speed.ratio, "low": speed.low, "high": speed.high, "dense_ms": speed.dense_ms,
            "pruned_ms": speed.pruned_ms}  # fmt: skip


def page(runs: list[dict[str, Any]]) -> str:
    """The runs as Markdown."""

    def times(speed: dict[str, float] | None) -> str:
        return "" if speed is None else f"{speed['ratio']:.2f} [{speed['low']:.2f}, {speed['high']:.2f}]"

    rows = []
    for run in runs:
        (kind, value), graphs = next(iter(run["asked"].items())), run["graphs"]
        scores = {key: 100 * score for key, score in run["scores"].items()}
        rows.append(
            {
                "asked": f"{value:g} times as fast" if kind == "speedup" else f"{100 * value:.0f} % of the work",
                "graphs": ", ".join(["int8" if graphs.get("quantize") else "fp32", *list(graphs.values())[1:]]),
                "when chosen": times(run["chosen"]),
                "corrections": "" if run["chosen"] is None else str(run["chosen"]["corrections"]),
                "measured anew": times(run["like"]),
                "to dense fp32": times(run["to_fp32"]),
                "ms": f"{run['to_fp32']['dense_ms']:.2f} -> {run['to_fp32']['pruned_ms']:.2f}",
                "work left": f"{100 * run['macs']:.0f} %",
                "MiB": f"{run['mib']['pruned']:.1f}",
                f"{run['metric']}, %": f"{scores['pruned']:.1f}",
                "dense fp32, as here": f"{scores['dense-fp32']:.1f}, {scores['dense']:.1f}",
            }
        )
    first = runs[0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    return f"""# Speeds asked for and measured

{first["model"]}, {first["num_examples"]:,} test examples; 128 tokens, batch size 1, one thread, onnxruntime.
Ratios are medians over rounds in which both graphs run, with 95 % bootstrap intervals: against the dense graph of the
same kind (int8 against int8), and against the dense fp32 graph. The sizes are refined by {first["refine"]} whole
models; nothing is trained, no labels are used.

{format_table(rows, markdown=True)}

{first["cpu"]}, {versions}.
"""


if __name__ == "__main__":
    main()
