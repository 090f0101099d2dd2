"""Times the selection against plain forward passes over the same batches, in one run.

    python examples/benchmark_selection.py --model MODEL --train train.jsonl [--examples 2048]

Prints: signature pass over a plain eager forward pass (interleaved batch by batch, median of the ratios); the whole
selection over one plain pass over the same examples; and the peak memory at a small and a large number of examples,
each in a process of its own.
"""

import argparse
import statistics
import subprocess
import sys
import time

import torch

from cahp_plugin import CAHPConfig, encode, load_pruned, select_heads
from cahp_plugin.data import load_examples
from cahp_plugin.machine import peak_memory
from cahp_plugin.observe import prepare_batches
from cahp_plugin.observe.head_maps import Signatures
from cahp_plugin.observe.sums import frozen_eval
from cahp_plugin.units import attention_layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--examples", type=int, default=8544)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        # The same sentences over and over: the longest one decides the peak, not how many there are.
        model, batches = prepared(arguments, arguments.memory_of, distinct=1000)
        select_heads(model, batches, CAHPConfig(signature_size=32))
        print(peak_memory() / 2**20)
        return
    model, batches = prepared(arguments, arguments.examples)
    ratios = signature_ratios(model, batches)
    print(f"signature pass / plain eager pass: median {statistics.median(ratios):.3f} over {len(ratios)} batches "
          f"(quartiles {' to '.join(f'{q:.3f}' for q in statistics.quantiles(ratios, n=4)[::2])})")  # fmt: skip
    start = time.perf_counter()
    plain_pass(model, batches)
    plain = time.perf_counter() - start
    start = time.perf_counter()
    select_heads(model, batches)
    whole = time.perf_counter() - start
    start = time.perf_counter()
    plain_pass(model, batches)
    plain = (plain + time.perf_counter() - start) / 2  # one before and one after: the machine may drift
    print(f"whole selection / plain pass over {arguments.examples} examples: {whole / plain:.2f} "
          f"({whole:.1f} s / {plain:.1f} s)")  # fmt: skip
    small, large = (memory(arguments, count) for count in (1000, 8000))
    print(f"peak memory: {small:.0f} MiB at 1,000 examples, {large:.0f} MiB at 8,000 ({large - small:+.0f} MiB)")


def prepared(arguments: argparse.Namespace, count: int, distinct: int | None = None) -> tuple:
    """The model, with eager attention, and `count` examples in batches, repeating the first `distinct` ones."""
    from datasets import concatenate_datasets
    from transformers import AutoTokenizer

    model = load_pruned(arguments.model, attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    examples = load_examples(arguments.train)
    examples = examples.select(range(min(distinct or count, len(examples))))
    examples = concatenate_datasets([examples] * -(-count // len(examples))).select(range(count))
    return model, encode(examples, model, tokenizer).batches(arguments.batch_size)


def plain_pass(model, batches) -> None:
    """One forward pass over the batches."""
    with torch.inference_mode():
        for batch in batches:
            model(**{name: value for name, value in batch.items() if name != "labels"})


def signature_ratios(model, batches) -> list[float]:
    """Seconds of the signature pass over those of a plain pass, batch by batch."""
    layers, checked = attention_layers(model), prepare_batches(batches, model)
    signatures, ratios = Signatures(model, layers, 32, checked.classes), []
    with frozen_eval(model):
        for batch in list(checked)[:100]:
            with torch.inference_mode():
                model(**batch.inputs)
                start = time.perf_counter()
                model(**batch.inputs)
                plain = time.perf_counter() - start
            start = time.perf_counter()
            signatures.update(batch)
            ratios.append((time.perf_counter() - start) / plain)
    return ratios


def memory(arguments: argparse.Namespace, count: int) -> float:
    """Peak memory of a selection in a process of its own, MiB."""
    command = [sys.executable, __file__, "--model", arguments.model, "--train", arguments.train]
    command += ["--batch-size", str(arguments.batch_size), "--memory-of", str(count)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
