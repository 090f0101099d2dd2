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
import time
from pathlib import Path
from typing import Any

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
from cahp_plugin.workflow.budget import calibration_of, choose_under, make_plan


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--train", required=True, help="calibration examples are drawn from it")
    parser.add_argument("--test", required=True)
    parser.add_argument("--macs", type=float, nargs="+", default=[0.7, 0.6, 0.5, 0.4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--refine", type=int, nargs="+", default=[0, 16], help="whole models; 0 is the plan alone")
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

    def add(run: dict[str, Any]) -> None:
        runs.append(run)
        with file.open("a") as lines:
            lines.write(json.dumps(run) + "\n")

    def measured(name: dict[str, Any], pruned: Any, more: dict[str, Any]) -> None:
        found = evaluate(pruned, test)
        with running(pruned) as ours, running(model) as theirs:
            divergence = mean_divergence(ours, theirs, test)
        score = {found.score.name: found.score.value, "loss": found.loss, "divergence": divergence}
        add(name | score | more)
        print(runs[-1], flush=True)

    dense = {"order": "", "seed": 0, "macs": 1.0, "refine": 0}
    if key(dense) not in done:
        machine = {"model": Path(given.model).name, "cpu": cpu_name(), "versions": package_versions()}
        measured(dense, model, {"num_examples": len(test)} | machine)
    recovery = RecoverySettings("least-squares")
    for order in given.orders:
        for seed in given.seeds:
            missing = [
                name
                for refine in given.refine
                for macs in given.macs
                if key(name := {"order": order, "seed": seed, "macs": macs, "refine": refine}) not in done
            ]
            if not missing:
                continue
            config, place = CAHPConfig(seed=seed), folder / "plans" / f"{order}-{seed}"
            if (place / "cahp_plan.json").exists():
                plan = Plan.load(place)
            else:
                batches, _ = calibration_of(model, train, recovery, seed)
                plan = make_plan(model, batches, PlanSettings(order=order), config, 16, None)
                plan.save(place)
            for name in missing:
                start = time.perf_counter()
                chosen = choose_under(
                    model, Budget(macs=name["macs"]), train, processor=processor, plan=plan,
                    planning=PlanSettings(order=order, refine=name["refine"]), recovery=recovery, config=config,
                    evaluate=None, dense=None, lengths=(),
                )  # fmt: skip
                refining, start = time.perf_counter() - start, time.perf_counter()
                pruned = copy.deepcopy(model)
                example = {key: value[:1] for key, value in chosen.fitted[0].inputs.items()}
                CAHPPruner(pruned, example, importance=CAHPImportance(chosen.kept)).step()
                chosen.repair(pruned, model)
                repair = time.perf_counter() - start
                seconds = {"plan": round(sum(plan.seconds.values()), 1), "refine": round(refining, 1),
                           "repair": round(repair, 1)}  # fmt: skip
                left = [layer.after for layer in chosen.outcome.layers]
                measured(name, pruned, {"layers": left, "seconds": seconds})
    (folder / "table.md").write_text(page(runs))
    print(page(runs))


def key(run: dict[str, Any]) -> tuple[Any, ...]:
    """What tells a run from the others."""
    return run["order"], run["seed"], run["macs"], run["refine"]


def page(runs: list[dict[str, Any]]) -> str:
    """The runs, seeds taken together, as Markdown."""
    dense = next(run for run in runs if not run["order"])
    metric = next(name for name in dense if name not in ("order", "seed", "macs", "refine", "loss"))
    rows = []
    for order, macs, refine in dict.fromkeys((run["order"], run["macs"], run["refine"]) for run in runs):
        own = [run for run in runs if (run["order"], run["macs"], run["refine"]) == (order, macs, refine)]
        parts = {name: [run[name] for run in own] for name in (metric, "divergence")}
        spread = {name: statistics.stdev(values) if len(values) > 1 else 0.0 for name, values in parts.items()}
        seconds = [run.get("seconds", {}) for run in own]
        rows.append(
            {
                "work of the layers": f"{100 * macs:.0f} %",
                "heads by": order or "dense",
                "sizes": "" if not order else f"refined by {refine}" if refine else "of the plan",
                f"{metric}, %": f"{100 * statistics.mean(parts[metric]):.2f} ± {100 * spread[metric]:.2f}",
                "of each draw": ", ".join(f"{100 * value:.1f}" for value in parts[metric]),
                "divergence, nat": f"{statistics.mean(parts['divergence']):.4f} ± {spread['divergence']:.4f}",
                "n": f"{len(own)}",
                **{
                    f"{name}, s": f"{statistics.median(one.get(name, 0) for one in seconds):.0f}"
                    for name in ("plan", "refine", "repair")
                },
            }
        )
    rows.sort(key=lambda row: (-float(row["work of the layers"].split()[0]), row["heads by"], row["sizes"]))
    versions = ", ".join(f"{name} {version}" for name, version in dense["versions"].items())
    return f"""# Budgets

{dense["model"]}, {dense["num_examples"]:,} test examples. Mean ± standard deviation over draws of the
calibration examples: 384 to fit on, 128 to measure on, 512 more for the refinement, none with its label; nothing is
trained. Divergence: Kullback-Leibler, from the dense model's outputs on the test examples. `of the plan` is the
algorithm of the prototype; `refined` chooses among whole repaired models. Seconds are medians on a shared machine.

{format_table(rows, markdown=True)}

{dense["cpu"]}, {versions}.
"""


if __name__ == "__main__":
    main()
