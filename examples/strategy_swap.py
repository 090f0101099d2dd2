"""Swaps CAHP in for another importance in Torch-Pruning's own pruner, and shows what CAHPPruner adds. Offline.

A random BERT is enough to show that the pruned model computes exactly what the masked original computes.
"""

import torch
import torch_pruning as tp
from transformers import BertConfig, BertForSequenceClassification

from cahp_plugin import CAHPImportance, CAHPPruner
from cahp_plugin.observe import only_kept
from cahp_plugin.units import attention_layers


def new_model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(hidden_size=96, num_hidden_layers=4, num_attention_heads=8, intermediate_size=192)
    return BertForSequenceClassification(config).eval()


def main() -> None:
    inputs = {"input_ids": torch.randint(0, 1000, (2, 16)), "attention_mask": torch.ones(2, 16, dtype=torch.long)}
    kept = {0: (1, 2, 5), 1: (0, 7), 2: (3,)}  # layer 3 keeps all its heads; usually this comes from select_heads

    # 1. The stock pruner, with CAHP as its importance.
    model = new_model()
    with torch.no_grad(), only_kept(model, kept):
        expected = model(**inputs).logits
    importance = CAHPImportance(kept)
    pruner = tp.pruner.BasePruner(
        model,
        inputs,
        importance=importance,
        global_pruning=True,
        pruning_ratio=0.5,
        head_pruning_ratio=1e-3,
        prune_num_heads=True,
        prune_head_dims=False,
        num_heads=importance.stock_num_heads(model),
        in_channel_groups={},
        out_channel_groups={},
    )
    pruner.step()
    importance.update_model(model)
    with torch.no_grad():
        difference = (model(**inputs).logits - expected).abs().max()
    print(
        f"stock pruner:  {[len(layer.heads) for layer in attention_layers(model)]} heads, differs by {difference:.1e}"
    )

    # 2. CAHPPruner: fewer arguments, and layers may lose all their heads.
    model, kept = new_model(), kept | {3: ()}
    with torch.no_grad(), only_kept(model, kept):
        expected = model(**inputs).logits
    CAHPPruner(model, inputs, importance=CAHPImportance(kept)).step()
    with torch.no_grad():
        difference = (model(**inputs).logits - expected).abs().max()
    print(
        f"CAHPPruner:    {[len(layer.heads) for layer in attention_layers(model)]} heads, differs by {difference:.1e}"
    )


if __name__ == "__main__":
    main()
