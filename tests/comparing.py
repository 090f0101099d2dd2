"""A small comparison, and runs made up for what is computed from them."""

from types import SimpleNamespace

import numpy as np
from datasets import Dataset
from tiny import tiny_model
from words import tiny_tokenizer, word_examples

from cahp_plugin.compare.packing import pack
from cahp_plugin.compare.runs import Run, measured
from cahp_plugin.tasks.metrics import METRICS, Score
from cahp_plugin.workflow import compare_methods


def compare(folder, **changes):
    train, test = (Dataset.from_list(word_examples(count)) for count in (60, 30))
    settings = {"heads": [6, 0.25], "seeds": [0, 1], "methods": ["cahp", "random"], "recoveries": ["none"]} | changes
    model = settings.pop("model", None) or tiny_model()
    return compare_methods(model, tiny_tokenizer(), train, test, output_dir=folder, **settings)


def made_up(method, seed, hits):
    score = Score.of_accuracy(float(np.mean(hits)))
    return Run(method, 6, seed, "none", score, 1.0, len(hits), {}, 0, {}, correct=pack(hits))


def run_by(metric, method, seed, rows, *, num_heads=6, recover="none", loss=None, validation=None):
    """A run by any metric, or its name, of what each example adds to it."""
    metric = METRICS.get(metric, metric) if isinstance(metric, str) else metric
    found = SimpleNamespace(scores=(metric.score(rows),), rows=rows, loss=loss, num_examples=len(rows))
    kept = {"0": list(range(num_heads // 2)), "1": list(range(num_heads - num_heads // 2))}
    seconds = {"choose": 1.0, "recover": 2.0}
    return Run(method, num_heads, seed, recover, kept=kept, parameters=1, seconds=seconds, validation=validation,
               **measured(found))  # fmt: skip
