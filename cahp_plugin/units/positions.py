"""How many tokens a model can take."""

from __future__ import annotations

from typing import Any

from torch import nn

#: Architectures that count positions from behind the padding index on, so that they have fewer than the config says.
_BEHIND_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")


def max_positions(model: nn.Module) -> int | None:
    """Longest sequence that the model has positions for, in tokens; ``None`` where nothing limits it.

    RoBERTa and its like count positions from the padding index on, so they have fewer than the config says.
    """
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "position_embeddings" and isinstance(module, nn.Embedding):
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - offset
    return config_positions(getattr(model, "config", None))


def config_positions(config: Any) -> int | None:
    """The same from the config alone; of a model of texts and images, that of the texts."""
    config = getattr(config, "text_config", None) or config
    for name in ("max_position_embeddings", "max_target_positions"):
        limit = getattr(config, name, None)
        if limit:
            offset = (config.pad_token_id or 0) + 1 if config.model_type in _BEHIND_PADDING else 0
            return int(limit) - offset
    return None
