"""What budgets cost: accuracy and divergence on test data, by draw of the calibration examples.

For every seed one plan is made on 384 + 128 unlabelled examples; for every budget the model is pruned and repaired by
the sizes that the plan gives (a prototype's algorithm), and by those that the refinement finds. Nothing is trained.
The runs are lines of ``draws.jsonl``: a run that is there is not repeated, so the same command goes on after a stop.

    python examples/benchmark_budget.py MODEL --train train.jsonl --test test.jsonl -o examples/results/budget-sst5
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from cahp_plugin import Budget, CAHPConfig, CAHPImportance, CAHPPruner, evaluate
from cahp_plugin._compat import package_versions
from cahp_plugin.config import PlanSettings, RecoverySettings
from cahp_plugin.data import load_examples
from cahp_plugin.machine import cpu_name
from cahp_plugin.plan.plan import Plan
from cahp_plugin.table import format_table
from cahp_plugin.tasks import Options, encode_sets, task_of
from cahp_plugin.tasks.evaluation import mean_divergence, running
from cahp_plugin.workflow import load_model
from cahp_plugin.workflow.budget import calibration_of, check_plan, choose_under, make_plan


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--train", required=True, help="calibration examples are drawn from it")
    parser.add_argument("--test", required=True)
    parser.add_argument("--macs", type=float, nargs="+", default=[0.7, 0.6, 0.5, 0.4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--refine", type=int, nargs="+", default=[0, 16], help="whole models; 0 is the plan alone")
    parser.add_argument("--examples", type=int, default=512, help="to calibrate with: 3/4 to fit, 1/4 to measure on")
    parser.add_argument("--orders", nargs="+", default=["obs"], help="selectors that order the heads")
    parser.add_argument("--output", "-o", required=True)
    return parser.parse_args()


def main() -> None:
    """Runs what is missing and writes the table."""
    given = arguments()
    folder = Path(given.output)
    folder.mkdir(parents=True, exist_ok=True)
    model, processor = load_model(given.model)
    sets = {"training": load_examples(given.train), "test": load_examples(given.test)}
    train, test = encode_sets(sets, model, processor, task_of(model), Options()).values()
    file = folder / "draws.jsonl"
    runs = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {key(run) for run in runs}
    dense_outputs: dict[bytes, Any] = {}

    def add(run: dict[str, Any]) -> None:
        runs.append(run)
        with file.open("a") as lines:
            lines.write(json.dumps(run) + "\n")

    def measured(name: dict[str, Any], pruned: Any, more: dict[str, Any]) -> None:
        with running(pruned) as plain, running(model) as theirs:
            ours = remembering(plain, {})
            found = evaluate(ours, test)
            divergence = mean_divergence(ours, remembering(theirs, dense_outputs), test)
        score = {found.score.name: found.score.value, "loss": found.loss, "divergence": divergence}
        add(name | score | more)
        print(runs[-1], flush=True)

    size = {} if given.examples == 512 else {"examples": given.examples}
    dense = {"order": "", "seed": 0, "macs": 1.0, "refine": 0}
    if key(dense) not in done:
        machine = {"model": Path(given.model).name, "cpu": cpu_name(), "versions": package_versions()}
        measured(dense, model, {"num_examples": len(test)} | machine)
    recovery = RecoverySettings("least-squares", calibration_examples=given.examples)
    for order in given.orders:
        for seed in given.seeds:
            missing = [
                name
                for refine in given.refine
                for macs in given.macs
                if key(name := {"order": order, "seed": seed, "macs": macs, "refine": refine} | size) not in done
            ]
            if not missing:
                continue
            place = folder / "plans" / "-".join(map(str, [order, seed, *size.values()]))
            config, memory = CAHPConfig(seed=seed), dict[str, float]()
            calibration = calibration_of(model, train, recovery, seed, PlanSettings().refine_examples)
            if (place / "cahp_plan.json").exists():
                plan = Plan.load(place)
                check_plan(plan, model, calibration[0])
            else:
                with growth(memory, "plan"):
                    progress = place.with_suffix(".jsonl")
                    plan = make_plan(model, calibration[0], PlanSettings(order=order), config, 16, progress)
                plan.save(place)
            for name in missing:
                start = time.perf_counter()
                chosen = choose_under(
                    model, Budget(macs=name["macs"]), *calibration, processor=processor, plan=plan,
                    planning=PlanSettings(order=order, refine=name["refine"]), config=config,
                    evaluate=None, dense=None, lengths=(),
                )  # fmt: skip
                refining, start = time.perf_counter() - start, time.perf_counter()
                pruned = copy.deepcopy(model)
                example = {key: value[:1] for key, value in chosen.fitted[0].inputs.items()}
                CAHPPruner(pruned, example, importance=CAHPImportance(chosen.kept)).step()
                with growth(memory, "repair"):
                    chosen.repair(pruned, model)
                repair = time.perf_counter() - start
                seconds = {"plan": round(sum(plan.seconds.values()), 1), "refine": round(refining, 1),
                           "repair": round(repair, 1)}  # fmt: skip
                left = [layer.after for layer in chosen.outcome.layers]
                measured(name, pruned, {"layers": left, "seconds": seconds, "memory_mib": dict(memory)})
    (folder / "table.md").write_text(page(runs))
    print(page(runs))


@contextmanager
def growth(found: dict[str, float], name: str) -> Iterator[None]:
    """Notes by how many MiB the process grew at most meanwhile, looked at every 20 ms, but for files that it maps."""
    process, stop = psutil.Process(), threading.Event()

    def own() -> int:
        info = process.memory_info()
        return int(info.rss - getattr(info, "shared", 0))

    before = most = own()

    def watch() -> None:
        nonlocal most
        while not stop.wait(0.02):
            most = max(most, own())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
    found[name] = round((most - before) / 2**20)


def remembering(runner: Callable[[Any], Any], known: dict[bytes, Any]) -> Callable[[Any], Any]:
    """A runner that runs each batch once."""

    def run(batch: dict[str, Any]) -> Any:
        given = b"".join(value.numpy().tobytes() for value in batch.values())
        if given not in known:
            known[given] = runner(batch)
        return known[given]

    return run


def key(run: dict[str, Any]) -> tuple[Any, ...]:
    """What tells a run from the others."""
    return run["order"], run["seed"], run["macs"], run["refine"], run.get("examples", 512)


def page(runs: list[dict[str, Any]]) -> str:
    """The runs, seeds taken together, as Markdown."""
    dense = next(run for run in runs if not run["order"])
    metric = next(name for name in dense if name not in ("order", "seed", "macs", "refine", "loss"))
    rows = []
    for setting in dict.fromkeys((order, *rest) for order, _, *rest in map(key, runs)):
        own = [run for run in runs if (key(run)[0], *key(run)[2:]) == setting]
        order, macs, refine, examples = setting
        parts = {name: [run[name] for run in own] for name in (metric, "divergence")}
        spread = {name: statistics.stdev(values) if len(values) > 1 else 0.0 for name, values in parts.items()}
        seconds = [run.get("seconds", {}) for run in own]
        memory = [run["memory_mib"] for run in own if "plan" in run.get("memory_mib", {})]
        rows.append(
            {
                "work of the layers": f"{100 * macs:.0f} %",
                "heads by": order or "dense",
                "examples": f"{examples:,}" if order else "",
                "sizes": "" if not order else f"refined by {refine}" if refine else "of the plan",
                f"{metric}, %": f"{100 * statistics.mean(parts[metric]):.2f} ± {100 * spread[metric]:.2f}",
                "of each draw": ", ".join(f"{100 * value:.1f}" for value in parts[metric]),
                "divergence, nat": f"{statistics.mean(parts['divergence']):.4f} ± {spread['divergence']:.4f}",
                "n": f"{len(own)}",
                **{
                    f"{name}, s": f"{statistics.median(one.get(name, 0) for one in seconds):.0f}"
                    for name in ("plan", "refine", "repair")
                },
                "memory, MiB": f"{max(max(one.values()) for one in memory):,.0f}" if memory else "",
            }
        )
    rows.sort(key=lambda row: (-float(row["work of the layers"].split()[0]), row["heads by"], row["sizes"]))
    versions = ", ".join(f"{name} {version}" for name, version in dense["versions"].items())
    return f"""# Budgets

{dense["model"]}, {dense["num_examples"]:,} test examples. Mean ± standard deviation over draws of the
calibration examples: 3/4 to fit on, 1/4 to measure on, 512 more for the refinement, none with its label; nothing is
trained. Divergence: Kullback-Leibler, from the dense model's outputs on the test examples. `of the plan` is the
algorithm of the prototype; `refined` chooses among whole repaired models. Seconds are medians on a shared machine.
Memory: what plan or repair took at the most, beyond the process with the dense model in it, temporary files aside.

{format_table(rows, markdown=True)}

{dense["cpu"]}, {versions}.
"""


if __name__ == "__main__":
    main()
