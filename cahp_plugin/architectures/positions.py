"""How many tokens a model can take."""

from __future__ import annotations

from torch import nn


def max_positions(model: nn.Module) -> int | None:
    """Longest sequence that the model has positions for, in tokens; ``None`` where nothing limits it.

    RoBERTa and its like count positions from the padding index on, so they have fewer than the config says.
    """
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "position_embeddings" and isinstance(module, nn.Embedding):
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - offset
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return int(limit) if limit else None
