"""A tiny random model of every supported family, and inputs for it: structure, not behaviour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from tiny import ARCHITECTURES, tiny_model

_TEXT: dict[str, Any] = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
_BERT: dict[str, Any] = _TEXT | {"intermediate_size": 48, "max_position_embeddings": 40, "pad_token_id": 0}
_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 8,
    "patch_size": 4,
    "num_labels": 3,
}
_LLAMA: dict[str, Any] = _TEXT | {
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SPECIAL: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
_SPECIAL_LM: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_NEOX: dict[str, Any] = _SPECIAL_LM | _TEXT | {"intermediate_size": 48, "max_position_embeddings": 64}
_FALCON: dict[str, Any] = _SPECIAL_LM | _TEXT | {"ffn_hidden_size": 48, "max_position_embeddings": 64}
_BART: dict[str, Any] = _SPECIAL | {
    "vocab_size": 100,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 40,
}


def _clip() -> Any:
    text = _BERT | {"eos_token_id": 2, "bos_token_id": 1, "projection_dim": 16}
    vision = {name: value for name, value in _VISION.items() if name != "num_labels"}
    config = transformers.CLIPConfig(
        text_config=text | {"num_hidden_layers": 2}, vision_config=vision | {"num_hidden_layers": 2}, projection_dim=16
    )
    return transformers.CLIPModel, config


#: Name -> class and config.
_ROWS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "bert-relative-key": lambda: (
        transformers.BertForSequenceClassification,
        transformers.BertConfig(**_BERT, position_embedding_type="relative_key"),
    ),
    "mpnet": lambda: (transformers.MPNetForSequenceClassification, transformers.MPNetConfig(**_BERT)),
    "albert": lambda: (
        transformers.AlbertForSequenceClassification,
        transformers.AlbertConfig(**_BERT, embedding_size=16, num_hidden_groups=2),
    ),
    "deberta-v2-positions": lambda: (
        transformers.DebertaV2ForSequenceClassification,
        transformers.DebertaV2Config(
            **_BERT, relative_attention=True, position_buckets=8, share_att_key=False, pos_att_type=["p2c", "c2p"]
        ),
    ),
    "modernbert": lambda: (
        transformers.ModernBertForSequenceClassification,
        transformers.ModernBertConfig(
            **_BERT, global_attn_every_n_layers=2, local_attention=6, bos_token_id=1, eos_token_id=2, cls_token_id=1,
            sep_token_id=2, reference_compile=False,
        ),
    ),
    "vit": lambda: (transformers.ViTForImageClassification, transformers.ViTConfig(**_VISION)),
    "deit": lambda: (transformers.DeiTForImageClassification, transformers.DeiTConfig(**_VISION)),
    "dinov2": lambda: (transformers.Dinov2ForImageClassification, transformers.Dinov2Config(**_VISION)),
    "clip": _clip,
    "clip-text": lambda: (
        transformers.CLIPTextModelWithProjection,
        transformers.CLIPTextConfig(**_BERT | {"eos_token_id": 2, "bos_token_id": 1, "projection_dim": 16}),
    ),
    "gpt2": lambda: (
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=3, n_head=4, n_positions=64, **_SPECIAL),
    ),
    "llama": lambda: (transformers.LlamaForCausalLM, transformers.LlamaConfig(**_LLAMA)),
    "llama-mha": lambda: (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(**_LLAMA | {"num_key_value_heads": 4}, attention_bias=True),
    ),
    "mistral": lambda: (transformers.MistralForCausalLM, transformers.MistralConfig(**_LLAMA, sliding_window=5)),
    "qwen2": lambda: (transformers.Qwen2ForCausalLM, transformers.Qwen2Config(**_without(_LLAMA, "head_dim"))),
    "qwen3": lambda: (transformers.Qwen3ForCausalLM, transformers.Qwen3Config(**_LLAMA)),
    "gemma2": lambda: (
        transformers.Gemma2ForCausalLM,
        transformers.Gemma2Config(**_LLAMA, sliding_window=5, query_pre_attn_scalar=8),
    ),
    "gemma3": lambda: (
        transformers.Gemma3ForCausalLM,
        transformers.Gemma3TextConfig(**_LLAMA, sliding_window=5, query_pre_attn_scalar=8, sliding_window_pattern=2),
    ),
    "dinov2-gated": lambda: (
        transformers.Dinov2ForImageClassification, transformers.Dinov2Config(**_VISION, use_swiglu_ffn=True)
    ),
    "gpt-neox": lambda: (transformers.GPTNeoXForCausalLM, transformers.GPTNeoXConfig(**_NEOX)),
    "gpt-neox-sequential": lambda: (
        transformers.GPTNeoXForCausalLM, transformers.GPTNeoXConfig(**_NEOX, use_parallel_residual=False)
    ),
    "bloom": lambda: (
        transformers.BloomForCausalLM,
        transformers.BloomConfig(vocab_size=100, hidden_size=32, n_layer=3, n_head=4, **_SPECIAL_LM),
    ),
    "falcon": lambda: (
        transformers.FalconForCausalLM, transformers.FalconConfig(**_FALCON, multi_query=False, bias=True)
    ),
    "falcon-alibi": lambda: (
        transformers.FalconForCausalLM,
        transformers.FalconConfig(**_FALCON, multi_query=False, bias=True, alibi=True, parallel_attn=False),
    ),
    "falcon-groups": lambda: (
        transformers.FalconForCausalLM,
        transformers.FalconConfig(**_FALCON, new_decoder_architecture=True, num_kv_heads=2),
    ),
    "t5-gated": lambda: (
        transformers.T5ForConditionalGeneration,
        transformers.T5Config(
            vocab_size=100, d_model=32, d_kv=8, num_heads=4, d_ff=48, num_layers=2, pad_token_id=0, eos_token_id=2,
            decoder_start_token_id=0, feed_forward_proj="gated-gelu",
        ),
    ),
    "t5": lambda: (
        transformers.T5ForConditionalGeneration,
        transformers.T5Config(
            vocab_size=100, d_model=32, d_kv=8, num_heads=4, d_ff=48, num_layers=2, pad_token_id=0, eos_token_id=2,
            decoder_start_token_id=0,
        ),
    ),
    "bart": lambda: (transformers.BartForConditionalGeneration, transformers.BartConfig(**_BART)),
    "marian": lambda: (transformers.MarianMTModel, transformers.MarianConfig(**_BART)),
    "whisper": lambda: (
        transformers.WhisperForConditionalGeneration,
        transformers.WhisperConfig(
            **_without(_BART, "max_position_embeddings"), num_mel_bins=8, max_source_positions=12,
            max_target_positions=40,
        ),
    ),
}  # fmt: skip

FAMILIES = (*ARCHITECTURES, *_ROWS)
GENERATORS = (
    "gpt2", "llama", "llama-mha", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gpt-neox", "gpt-neox-sequential",
    "bloom", "falcon", "falcon-alibi", "falcon-groups", "t5", "t5-gated", "bart", "marian", "whisper",
)  # fmt: skip


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def zoo_model(name: str, *, attn_implementation: str = "eager", seed: int = 0) -> Any:
    """A tiny random model of one of ``FAMILIES``, in eval mode."""
    if name in ARCHITECTURES:
        return tiny_model(name, attn_implementation=attn_implementation, seed=seed)
    cls, config = _ROWS[name]()
    for part in (config, *(getattr(config, sub, None) for sub in ("text_config", "vision_config"))):
        if part is not None:
            part._attn_implementation = attn_implementation
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = cls(config)
        with torch.no_grad():  # larger than the usual initialisation, so that every head matters
            for key, parameter in model.named_parameters():
                if parameter.dim() == 2 and "embed" not in key and "wte" not in key:
                    parameter.normal_(0, 0.15)
                elif parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def zoo_inputs(name: str, *, batch: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """Inputs of a model of the zoo, padded where it knows padding."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(length: int, *, left: bool = False) -> dict[str, torch.Tensor]:
        ids = torch.randint(3, 100, (batch, length), generator=generator)
        mask = torch.ones_like(ids)
        ids[-1, slice(0, 2) if left else slice(-2, None)] = 0
        mask[-1, slice(0, 2) if left else slice(-2, None)] = 0
        return {"input_ids": ids, "attention_mask": mask}

    pixels = {"pixel_values": torch.randn(batch, 3, 8, 8, generator=generator)}
    decoder = {"decoder_input_ids": torch.randint(3, 100, (batch, 6), generator=generator)}
    if name in ("vit", "deit", "dinov2", "dinov2-gated"):
        return pixels
    if name == "clip":
        return {**tokens(9), **pixels}
    if name == "whisper":
        return {"input_features": torch.randn(batch, 8, 24, generator=generator), **decoder}
    if name in ("t5", "t5-gated", "bart", "marian"):
        return {**tokens(9), **decoder}
    return tokens(9, left=name in GENERATORS)


def outputs(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The model's main output, flat, at the real tokens."""
    with torch.no_grad():
        found = model(**inputs)
    for key in ("logits", "logits_per_text", "text_embeds", "last_hidden_state"):
        value = getattr(found, key, None)
        if value is not None:
            mask = inputs.get("attention_mask")
            if value.dim() == 3 and mask is not None and value.shape[1] == mask.shape[1]:
                value = value[mask.bool()]
            return value
    raise AssertionError(type(found))
