"""Exports a pruned classifier to ONNX, loads it with onnxruntime and, where it is installed, with Optimum. Offline."""

import importlib.util
import logging
import tempfile
from pathlib import Path

from optimum.cahp import export_pruned

from cahp_plugin import CAHPConfig, CAHPImportance, CAHPPruner, encode, save_pruned, select_heads
from cahp_plugin.cli.demo import finetuned_minilm
from cahp_plugin.data import graded_sentiment
from cahp_plugin.export import open_session, run_session


def pruned_minilm(corpus, share: float) -> tuple:
    """MiniLM-L6, fine-tuned for a few seconds and pruned to a share of its heads, with its tokenizer."""
    model, tokenizer = finetuned_minilm(corpus["train"], seed=0)
    train = encode(corpus["train"], model, tokenizer)
    selection = select_heads(model, train.batches(), CAHPConfig(num_heads=share))
    example = {name: value for name, value in train.batch([0]).items() if name != "labels"}
    CAHPPruner(model, example, importance=CAHPImportance(selection)).step()
    return model, tokenizer


def main() -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    corpus = graded_sentiment(num_train=240, num_test=100)
    model, tokenizer = pruned_minilm(corpus, share=0.5)
    sentences = corpus["test"]["text"][:4]
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        save_pruned(model, folder / "pruned", tokenizer=tokenizer)
        report = export_pruned(folder / "pruned", folder / "onnx")  # raises where the graph differs from torch
        print(report)

        session = open_session(folder / "onnx" / report.files[0])
        inputs = tokenizer(sentences, padding=True, return_tensors="pt")
        print("onnxruntime:", run_session(session, inputs)["logits"].argmax(-1).tolist())

        if importlib.util.find_spec("optimum.onnxruntime") is None:
            print("Optimum's exporter does not run on this version of transformers; the graph is the same.")
            return
        from optimum.onnxruntime import ORTModelForSequenceClassification
        from transformers import pipeline

        loaded = ORTModelForSequenceClassification.from_pretrained(folder / "onnx")
        classify = pipeline("text-classification", model=loaded, tokenizer=tokenizer)
        print("Optimum:    ", [entry["label"] for entry in classify(sentences)])


if __name__ == "__main__":
    main()
