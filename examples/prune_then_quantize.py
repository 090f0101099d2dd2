"""Prunes, exports, quantizes to int8, and compares size, accuracy and latency of the four combinations. Offline.

The same as ``cahp deploy``, in Python, on a small encoder that is fine-tuned for a few seconds; few rounds, so that
it is quick. On your own model: ``cahp deploy MODEL --train train.jsonl --eval validation.jsonl -o out/``.
"""

import logging
import tempfile

from cahp_plugin import CAHPConfig
from cahp_plugin.cli.demo import finetuned_minilm
from cahp_plugin.data import graded_sentiment
from cahp_plugin.recover import RecoverySettings
from cahp_plugin.workflow import deploy_model


def main() -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    corpus = graded_sentiment(num_train=480, num_test=200)
    model, tokenizer = finetuned_minilm(corpus["train"], seed=0)
    with tempfile.TemporaryDirectory() as work:
        report = deploy_model(
            model,
            tokenizer,
            corpus["train"],
            corpus["test"],
            CAHPConfig(num_heads=0.5),
            output_dir=f"{work}/out",
            recovery=RecoverySettings(epochs=1, learning_rate=5e-5),
            sequence_lengths=(32, 128),
            rounds=10,
            warmup=3,
            memory=False,  # each would start a process of its own
            figures=False,
        )
        print(report)


if __name__ == "__main__":
    main()
