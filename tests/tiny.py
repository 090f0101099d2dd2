"""Tiny random models and batches for tests: structure, not behaviour."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    CamembertConfig,
    CamembertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

_COMMON: dict[str, Any] = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
_BERT: dict[str, Any] = _COMMON | {"intermediate_size": 48, "max_position_embeddings": 40, "pad_token_id": 0}

_PARTICULAR: dict[str, dict[str, Any]] = {
    "electra": {"embedding_size": 16},
    "deberta-v2": {  # as DeBERTa-v3 is published
        "relative_attention": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
}

ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "camembert", "deberta-v2", "electra", "distilbert")


def has_sdpa(name: str) -> bool:
    """Whether transformers has fused attention for an architecture (ELECTRA: from 5 on; DeBERTa-v2: not yet)."""
    return bool(getattr(type(tiny_model(name)), "_supports_sdpa", False))


def tiny_model(
    name: str = "bert", *, num_labels: int = 3, attn_implementation: str = "eager", seed: int = 0, **changes
):
    """A random sequence classifier of one of ``ARCHITECTURES``: 3 layers of 4 heads of 8 channels."""
    if name == "distilbert":
        config = DistilBertConfig(
            vocab_size=100, dim=32, n_layers=3, n_heads=4, hidden_dim=48, max_position_embeddings=40, **changes
        )
        cls = DistilBertForSequenceClassification
    else:
        config_cls, cls = {
            "bert": (BertConfig, BertForSequenceClassification),
            "roberta": (RobertaConfig, RobertaForSequenceClassification),
            "xlm-roberta": (XLMRobertaConfig, XLMRobertaForSequenceClassification),
            "camembert": (CamembertConfig, CamembertForSequenceClassification),
            "deberta-v2": (DebertaV2Config, DebertaV2ForSequenceClassification),
            "electra": (ElectraConfig, ElectraForSequenceClassification),
        }[name]
        config = config_cls(**_BERT | _PARTICULAR.get(name, {}) | changes)
    config.num_labels = num_labels
    config._attn_implementation = attn_implementation
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = cls(config)
        with torch.no_grad():  # larger than the usual initialisation: maps that differ between heads and examples
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(0, 0.25)
                elif parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def tiny_batches(
    num_examples: int = 30,
    batch_size: int = 8,
    *,
    num_labels: int = 3,
    padding: str = "right",
    seed: int = 0,
    lengths: tuple[int, int] = (3, 14),
) -> list[dict[str, torch.Tensor]]:
    """Random token ids (2 to 99) with every class present, padded with 0 on one side."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for index in range(num_examples):
        length = int(torch.randint(*lengths, (), generator=generator))
        examples.append((torch.randint(2, 100, (length,), generator=generator), index % num_labels))
    batches = []
    for start in range(0, num_examples, batch_size):
        part = examples[start : start + batch_size]
        width = max(len(ids) for ids, _ in part)
        input_ids = torch.zeros(len(part), width, dtype=torch.long)
        mask = torch.zeros(len(part), width, dtype=torch.long)
        for row, (ids, _) in enumerate(part):
            window = slice(0, len(ids)) if padding == "right" else slice(width - len(ids), width)
            input_ids[row, window] = ids
            mask[row, window] = 1
        labels = torch.tensor([label for _, label in part])
        batches.append({"input_ids": input_ids, "attention_mask": mask, "labels": labels})
    return batches


def model_inputs(*, padding: str = "right", seed: int = 0) -> dict[str, torch.Tensor]:
    """One batch of four examples without labels."""
    batch = tiny_batches(4, 4, padding=padding, seed=seed)[0]
    return {name: value for name, value in batch.items() if name != "labels"}
