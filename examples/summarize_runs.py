"""Writes `summary.md` and a picture beside the `runs.jsonl` of each folder that `cahp compare` filled.

    python examples/summarize_runs.py examples/results/sst5 [more folders] --page examples/results/evidence.md

`--page` also renews the tables in a page: for the folder `sst5` what is between `<!-- sst5 -->` and `<!-- end -->`,
its knee in noise between `<!-- sst5-knee -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path

from cahp_plugin.compare.knee import KneeTable
from cahp_plugin.compare.rows import Row, row_of
from cahp_plugin.compare.runs import SETUP_NAME, Run
from cahp_plugin.compare.structure import places_table
from cahp_plugin.compare.summary import Comparison
from cahp_plugin.files import write_text
from cahp_plugin.report import save_scores
from cahp_plugin.report.compared import methods_of
from cahp_plugin.table import format_table


def main() -> None:
    """Writes the summaries and prints where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--page", type=Path, help="page of Markdown with a place for each folder's table")
    arguments = parser.parse_args()
    page = arguments.page.read_text(encoding="utf-8") if arguments.page else ""
    for folder in arguments.folders:
        comparison = Comparison.read(folder)
        save_scores(comparison, folder)
        write_text(folder / "summary.md", summary(comparison))
        print(folder / "summary.md")
        for name, table in tables(comparison).items():
            page = renewed(page, name, table)
    if arguments.page:
        write_text(arguments.page, page)


def summary(comparison: Comparison) -> str:
    """Tables of a folder's runs, as a page of Markdown."""
    folder = comparison.output
    setup = json.loads((folder / SETUP_NAME).read_text(encoding="utf-8"))
    dense = next(run for run in comparison.runs if run.method == "dense")
    recovery, score = setup["recovery"], dense.score
    fitted = recovery["calibration_examples"] * 3 // 4
    rate = f"{recovery.get('learning_rate') or 2e-5:g}"
    picture = "accuracy.png" if score.name == "accuracy" else "scores.png"
    versions = ", ".join(f"{name} {version}" for name, version in setup["versions"].items())
    if comparison.planned:
        losses = "\n".join(f"- {sentence}" for sentence in lost(comparison))
        missed = "\n".join(f"- {name} at {100 * share:g} %: {why}." for name, share, why in comparison.missed)
        return f"""# {folder.name}

{len(comparison.runs) - 1} models, each pruned to a share of the multiply-accumulates of the transformer layers (at
{setup["budget"]["sequence_length"]} tokens) by a planner, from {recovery["calibration_examples"]} calibration examples
that a seed draws, of a model of fingerprint `{setup["model"]}`; evaluated on {dense.num_examples:,} examples.
{score.legend}: mean ± standard deviation over the draws. Divergence: mean of that from the dense model's outputs over
examples and draws, nat; less is better. Differences from joint, with 95 % bootstrap intervals over the test examples.
`own` is each planner's own repair, held against joint with the least-squares one. Seconds are from a shared machine.

Where joint loses, or can't be told from another:

{losses}
{missed}

![{score.heading} against the work left]({picture})
![Divergence against the work left](divergence.png)

{comparison.table(markdown=True)}

Training, where it was run: {recovery["epochs"]:g} epochs, batch {recovery["batch_size"]}, learning rate
{f"{rate} for fine-tuning, 1e-4 for distillation" if recovery["learning_rate"] is None else rate}. {versions}.
"""
    return f"""# {folder.name}

{len(comparison.runs) - 1} runs on a model of {dense.num_heads} heads (fingerprint `{setup["model"]}`), evaluated on
{dense.num_examples:,} examples. {score.legend}: mean ± standard deviation over the seeds that were run (n); a method
without a seed has none before recovery. Against cahp: difference of the means, with a 95 % bootstrap interval over
the test examples; it does not hold the spread over seeds. Seconds (choosing and recovering) are from a shared, busy
machine: orders of magnitude.

![{score.heading} against the number of heads]({picture})

{comparison.table(markdown=True)}

## Where the kept heads are

Kept in each layer: mean over seeds. Thirds: % of the kept heads in that third of the layers. Overlap of seeds: mean
pairwise Jaccard, %.

{places_table(comparison.structure(), markdown=True)}
{knee_part(comparison.knee)}
Recovery: {fitted} examples for the closed form; {recovery["epochs"]:g} epochs, learning rate
{rate}, batch {recovery["batch_size"]}, `{json.dumps(recovery["training_arguments"])}` for
fine-tuning, where it was run. {versions}.
"""


def lost(comparison: Comparison) -> list[str]:
    """Where the reference is not ahead of another planner for certain, losses first."""
    found = []
    for row in comparison.rows():
        for what, difference, interval, sign in (
            ("", row.difference, row.interval, -1 if row.higher_is_better else 1),
            ("divergence", row.farther and row.farther[0], row.farther and row.farther[1:], 1),
        ):
            if difference is None or interval is None or min(sign * end for end in interval) > 0:
                continue
            behind = max(sign * end for end in interval) < 0
            told = f"{difference:+.4f}" if what else row.score.bare(difference, "+")
            place = f"{what or row.score.title}, {row.at}, {row.recover}: {row.method} {told}"
            found.append((not behind, place + ("" if behind else " (can't be told apart)")))
    return [place for _, place in sorted(found, key=lambda entry: entry[0])] or ["nowhere"]


def knee_part(knee: KneeTable | None) -> str:
    """The knee's table under its heading, empty without one."""
    if knee is None:
        return ""
    return f"""
## The knee, and the knee in noise

Heads kept in % of {knee.num_heads} by polynomial degree, mean (least to most) over {len(knee.seeds)} seeds; noise:
Gaussian of the same shape in place of the class separation.

{knee.table(markdown=True)}
"""


def tables(comparison: Comparison) -> dict[str, str]:
    """What a page may show of a folder, by the name of the place for it."""
    name = comparison.output.name
    knee = {} if comparison.knee is None else {f"{name}-knee": comparison.knee.table(markdown=True)}
    return {name: overview(comparison), **knee}


def recoveries(comparison: Comparison) -> str:
    """The recoveries of one planner against the dense model, and distillation against each, as a table of Markdown.

    Differences on the draws that both were run on, with 95 % bootstrap intervals over the test examples; bold where
    the interval is on one side of 0.
    """
    groups: dict[tuple[str, float, str], list[Run]] = {}
    for run in comparison.runs:
        groups.setdefault((run.recover, run.size, run.method), []).append(run)
    dense = groups.pop(next(key for key in groups if key[2] == "dense"))
    cells = []
    for key in sorted(groups, key=lambda key: (-key[1], key[0])):
        best = ("least-squares+distill", *key[1:])
        distilled = {run.seed: run for run in groups.get(best, ())}
        common = [run for run in groups[key] if run.seed in distilled]
        row = row_of(key, groups[key], dense, True)
        told = row.cells()
        line = {name: told[name] for name in ("work", "recovery", row.score.title, "divergence")}
        line |= {"less dense": _differences(row)[0], "distilled less it": "", "its divergence less this": ""}
        if common and key != best:
            row = row_of(best, [distilled[run.seed] for run in common], common, True)
            line["distilled less it"], line["its divergence less this"] = _differences(row)
        cells.append(line)
    return format_table(cells, markdown=True)


def _differences(row: Row) -> list[str]:
    told, far = row.cells(), row.farther
    shown = ((told[f"against {row.reference}"], row.side),
             (told[f"divergence less {row.reference}'s"], far and (far[1] > 0 or far[2] < 0)))  # fmt: skip
    return [f"**{text}**" if sure else text for text, sure in shown]


def overview(comparison: Comparison) -> str:
    """Ways of choosing heads, or planners, against sizes and recoveries, as a table of Markdown.

    Mean ± standard deviation over seeds (their number, where it is not that of most); in brackets the difference from
    the reference, bold where its interval is on one side of 0. Of planners, behind it, the divergence from the dense
    model with its difference.
    """
    rows = [row for row in comparison.rows() if row.method != "dense"]
    if comparison.planned and len(methods_of(rows)) == 1:
        return recoveries(comparison)
    usual = statistics.mode(row.num_seeds for row in rows)
    places = sorted({(row.size, row.recover) for row in rows}, key=lambda at: (-at[0], at[1] != "none", at[1]))
    known = {(row.method, row.size, row.recover): row for row in rows}
    cells = []
    for method in methods_of(rows):
        line = {"planner" if comparison.planned else "heads chosen by": method}
        for count, recover in places:
            size = f"{count:g} %" if comparison.planned else f"{count:g}"
            name = f"{size}, {'one-shot' if recover == 'none' else recover}"
            line[name] = _cell(known.get((method, count, recover)), usual)
        cells.append(line)
    return format_table(cells, markdown=True)


def _cell(row: Row | None, usual: int) -> str:
    if row is None:
        return "-"
    bare = row.score.bare
    text = bare() + ("" if row.deviation is None else f" ± {bare(row.deviation)}")
    if row.num_seeds != usual:
        text += f" (n={row.num_seeds})"
    if row.difference is not None:
        difference = bare(row.difference, "+")
        text += f" (**{difference}**)" if row.side else f" ({difference})"
    if row.divergence is not None:
        text += f"; {row.divergence:.4f}"
    if row.farther is not None:
        change, low, high = row.farther
        text += f" (**{change:+.4f}**)" if low > 0 or high < 0 else f" ({change:+.4f})"
    return text


def renewed(page: str, name: str, table: str) -> str:
    """A page with another table between ``<!-- name -->`` and ``<!-- end -->``, where it has such a place."""
    return re.sub(
        rf"(?s)(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", lambda found: f"{found[1]}{table}\n{found[2]}", page
    )


if __name__ == "__main__":
    main()
