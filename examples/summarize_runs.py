"""Writes `summary.md` and `accuracy.png` beside the `runs.jsonl` of each folder that `cahp compare` filled.

python examples/summarize_runs.py examples/results/sst5 [more folders]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cahp_plugin.compare import Comparison
from cahp_plugin.compare.figure import plot_accuracy
from cahp_plugin.compare.runs import RUNS_NAME, SETUP_NAME, read_runs
from cahp_plugin.compare.structure import places_table
from cahp_plugin.files import write_text
from cahp_plugin.report import style


def main() -> None:
    """Writes the summaries and prints where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    for folder in parser.parse_args().folders:
        comparison = Comparison(folder, tuple(read_runs(folder / RUNS_NAME)))
        plot_accuracy(comparison).savefig(folder / "accuracy.png", dpi=style.DPI)
        write_text(folder / "summary.md", summary(comparison))
        print(folder / "summary.md")


def summary(comparison: Comparison) -> str:
    """Tables of a folder's runs, as a page of Markdown."""
    folder = comparison.output
    setup = json.loads((folder / SETUP_NAME).read_text(encoding="utf-8"))
    dense = next(run for run in comparison.runs if run.method == "dense")
    recovery = setup["recovery"]
    versions = ", ".join(f"{name} {version}" for name, version in setup["versions"].items())
    return f"""# {folder.name}

{len(comparison.runs) - 1} runs on a model of {dense.num_heads} heads (fingerprint `{setup["model"]}`), evaluated on
{dense.num_examples:,} examples. Accuracy in %: mean ± standard deviation over the seeds that were run (n); a method
without a seed has none before recovery. Against cahp: difference of the means, with a 95 % bootstrap interval over
the test examples; it does not hold the spread over seeds. Seconds (choosing and recovering) are from a shared, busy
machine: orders of magnitude.

![Accuracy against the number of heads](accuracy.png)

{comparison.table(markdown=True)}

## Where the kept heads are

Kept in each layer: mean over seeds. Thirds: % of the kept heads in that third of the layers. Overlap of seeds: mean
pairwise Jaccard, %.

{places_table(comparison.structure(), markdown=True)}

Recovery: {recovery["num_examples"]} examples for the closed form; {recovery["epochs"]:g} epochs, learning rate
{recovery["learning_rate"]:g}, batch {recovery["batch_size"]}, `{json.dumps(recovery["training_arguments"])}` for
fine-tuning, where it was run. {versions}.
"""


if __name__ == "__main__":
    main()
