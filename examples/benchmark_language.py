"""What half the key and value groups of a language model cost, before and after the repair, from the command line.

    python examples/benchmark_language.py SMOLLM2 --texts mnli/train.jsonl -o examples/results/language

The premises are shuffled and joined to 300 texts, cut to 100 tokens each: half to choose and repair by, half to
evaluate on. Then `cahp prune` runs as a user would run it, and its report is kept, with what was run on what machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cahp_plugin.data import load_examples
from cahp_plugin.files import write_text
from cahp_plugin.machine import cpu_name
from cahp_plugin.prune.stage import Stage, stage_rows
from cahp_plugin.table import format_table
from cahp_plugin.tasks.processors import load_processor

TOKENS, TEXTS = 100, 150


def main() -> None:
    """Makes the texts, prunes, and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a causal language model")
    parser.add_argument("--texts", required=True, help="a data set, as `cahp prune` takes it")
    parser.add_argument("--column", default="premise", help="its column of sentences")
    parser.add_argument("-o", "--output", required=True, help="path of the results without its ending")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        texts = made(list(load_examples(arguments.texts)[arguments.column]), load_processor(arguments.model))
        paths = [Path(scratch, f"{name}.jsonl") for name in ("train", "eval")]
        for path, part in zip(paths, (texts[:TEXTS], texts[TEXTS:]), strict=True):
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in part), encoding="utf-8")
        options = ["--max-length", "128", "--max-queries", "32", "--num-heads", "0.5", "--recover", "least-squares",
                   "--calibration-examples", "171", "--batch-size", "16"]  # fmt: skip
        command = ["prune", arguments.model, "--train", str(paths[0]), "--eval", str(paths[1]), *options]
        run = [sys.executable, "-m", "cahp_plugin", *command, "-o", f"{scratch}/small", "--quiet", "--json"]
        report = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    kept = {name: report[name] for name in ("task", "num_heads", "stages", "seconds", "config", "versions")}
    kept |= {"options": options, "machine": f"{cpu_name()}, {os.cpu_count()} cores"}
    write_text(Path(f"{arguments.output}.json"), json.dumps(kept, indent=1) + "\n")
    write_text(Path(f"{arguments.output}.md"), page(kept))
    print(page(kept))


def made(sentences: list[str], tokenizer: Any) -> list[str]:
    """Texts of about as many tokens, of sentences in a drawn order."""
    random.Random(0).shuffle(sentences)
    texts: list[str] = []
    while len(texts) < 2 * TEXTS:
        ids: list[int] = []
        while len(ids) < TOKENS:
            ids += tokenizer(f" {sentences.pop()}" if ids else sentences.pop())["input_ids"]
        texts.append(tokenizer.decode(ids[:TOKENS]))
    return texts


def page(kept: dict[str, Any]) -> str:
    """The stages as a table."""
    rows = stage_rows([Stage.from_dict(stage) for stage in kept["stages"]])
    seconds = sum(kept["seconds"].values())
    return (
        f"{format_table(rows, markdown=True)}\n\nPerplexity on {TEXTS} texts of {TOKENS} tokens, 95 % interval; "
        f"heads chosen and repaired on {TEXTS} others in {seconds:.0f} s. `cahp prune MODEL --train TRAIN --eval EVAL "
        f"{' '.join(kept['options'])} -o small`. {kept['machine']}\n"
    )


if __name__ == "__main__":
    main()
