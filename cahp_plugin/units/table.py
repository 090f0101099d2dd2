"""The architectures that the library knows, one row each."""

from __future__ import annotations

from typing import Any

from cahp_plugin._compat import TRANSFORMERS_MAJOR
from cahp_plugin.units.adapters import (
    HeadlessWithBias,
    HeadlessWithNorm,
    HeadlessWithStream,
    OwnBias,
    OwnWidth,
    SharedBias,
    SlicedAlibi,
    SlicedBias,
)
from cahp_plugin.units.spec import AttentionSpec, FeedForwardSpec, register_architecture, supported_architectures

_QKV = "q_proj k_proj v_proj"


def _attention(name: str, block: str, inputs: str, output: str, **more: Any) -> AttentionSpec:
    """A row; ``inputs`` are the paths of query, key and value with spaces between them, or the one path of all.

    What holds numbers of heads and of channels is called one of a few names everywhere; no core has two of a kind.
    """
    query, key, value = inputs.split() if " " in inputs else [inputs] * 3
    counts: dict[str, Any] = {
        "head_count": ("num_attention_heads", "num_heads", "n_heads"), "width": ("all_head_size", "inner_dim", "dim")
    }  # fmt: skip
    return AttentionSpec(name, tuple(block.split()), query, key, value, output, **counts | more)


def _bert_like(name: str, block: str) -> AttentionSpec:
    inputs, relative_key = "self.query self.key self.value", ("distance_embedding",)
    return _attention(name, block, inputs, "output.dense", core="self", fixed=relative_key, plain=True)


def _vision(name: str, residual: str | None) -> tuple[AttentionSpec, AttentionSpec]:
    """Rows for transformers 4.57 and for 5."""
    block, inputs = f"{name}Attention", "attention.query attention.key attention.value"
    return (
        _attention(name.lower(), block, inputs, "output.dense", core="attention", residual=residual, plain=True),
        _attention(name.lower(), block, _QKV, "o_proj", residual=residual),
    )


def _llama_like(name: str, prefix: str, residual: str | None) -> AttentionSpec:
    common: dict[str, Any] = {"group": "num_key_value_groups", "fixed": ("q_norm", "k_norm"), "causal": True}
    return _attention(name, f"{prefix}Attention", _QKV, "o_proj", residual=residual, **common)


def _fused_by_head(name: str, block: str, **more: Any) -> AttentionSpec:
    common: dict[str, Any] = {"layout": "head", "causal": True, "residual": "input_layernorm"}
    return _attention(name, block, "query_key_value", "dense", **common, **more)


def _bart_like(name: str, residual: str = "", cross_residual: str = "") -> AttentionSpec:
    paths: dict[str, Any] = {"causal_paths": ("decoder",), "cross_paths": ("encoder_attn",)}
    paths |= {"residual": residual, "cross_residual": cross_residual}
    # Encoder and decoder have a number of heads each.
    return _attention(name, f"{name.capitalize()}Attention", _QKV, "out_proj", heads_in_config=False, **paths)


def _t5(block: str, core: str, **more: Any) -> AttentionSpec:
    inputs, common = f"{core}.q {core}.k {core}.v", {"shared_bias": True, "map_index": 2}
    return _attention("t5", block, inputs, f"{core}.o", core=core, **common, **more)


def _feed_forward(
    name: str, block: str, inputs: str, output: str, residual: str | None, **more: Any
) -> FeedForwardSpec:
    """A row; ``inputs`` are paths with spaces between them."""
    return FeedForwardSpec(name, (block,), tuple(inputs.split()), output, residual=residual, **more)


__all__ = ["register_architecture", "supported_architectures"]

#: Name of an architecture -> start of the names of its classes.
_BERTS = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert",
          "electra": "Electra"}  # fmt: skip
_LLAMAS = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
_GEMMAS = {"gemma2": "Gemma2", "gemma3": "Gemma3"}  # a norm stands behind the projections
_SIDES = ("Encoder", "Decoder")
#: Bloom: the stream behind the norm is what the layer adds to.
_AFTER_NORM = ("apply_residual_connection_post_layernorm",)
_FALCON_PARALLEL = ("parallel_attn", "new_decoder_architecture")

# fmt: off
ATTENTION = (
    *(_bert_like(name, f"{prefix}Attention") for name, prefix in _BERTS.items()),
    _attention("albert", "AlbertAttention", "query key value", "dense", fixed=("distance_embedding",), reused=True,
               plain=True, empty=HeadlessWithNorm),
    _attention("mpnet", "MPNetSelfAttention", "q k v", "o", fixed=("relative_attention_bias",), shared_bias=True,
               maps_on_request=True, narrow=SlicedBias),
    _attention("deberta-v2", "DebertaV2Attention", "self.query_proj self.key_proj self.value_proj", "output.dense",
               core="self", positions=("self.pos_key_proj", "self.pos_query_proj"),  # without `share_att_key`
               maps_on_request=True),
    _attention("distilbert", "MultiHeadSelfAttention DistilBertSelfAttention",  # transformers 4.57, 5.x
               "q_lin k_lin v_lin", "out_lin", plain=True),
    _attention("modernbert", "ModernBertAttention", "Wqkv", "Wo", residual="attn_norm", maps_on_request=True),
    *_vision("ViT", "layernorm_before"),
    *_vision("DeiT", "layernorm_before"),
    *_vision("Dinov2", None),  # a learned scale stands behind the projection
    _attention("clip", "CLIPAttention", _QKV, "out_proj", causal_paths=("text_model",), residual="layer_norm1",
               maps_on_request=True, narrow=OwnWidth if TRANSFORMERS_MAJOR < 5 else None),
    _attention("gpt2", "GPT2Attention", "c_attn", "c_proj", width=("split_size",), causal=True, residual="ln_1",
               plain=True),
    *(_llama_like(name, prefix, "input_layernorm") for name, prefix in _LLAMAS.items()),
    *(_llama_like(name, prefix, None) for name, prefix in _GEMMAS.items()),
    _bart_like("bart"),
    _bart_like("marian"),
    _bart_like("whisper", "self_attn_layer_norm", "encoder_attn_layer_norm"),
    _fused_by_head("gpt-neox", "GPTNeoXAttention", parallel=("use_parallel_residual",)),
    _fused_by_head("bloom", "BloomAttention", parallel=_AFTER_NORM, narrow=SlicedAlibi, empty=HeadlessWithStream),
    _fused_by_head("falcon", "FalconAttention FalconFlashAttention2", groups="num_kv_heads", parallel=_FALCON_PARALLEL,
                   maps_on_request=True, narrow=SlicedAlibi),
    _t5("T5LayerSelfAttention", "SelfAttention", fixed=("relative_attention_bias",), causal_paths=("decoder",),
        narrow=SharedBias, empty=HeadlessWithBias),
    _t5("T5LayerCrossAttention", "EncDecAttention", cross=True, narrow=OwnBias, narrow_all=True),
)
# fmt: on

_WIDE = ("dense_h_to_4h", "dense_4h_to_h")
_DENSE = ("intermediate.dense", "output.dense")
_DENSE_BERTS = _BERTS | {"mpnet": "MPNet", "deberta-v2": "DebertaV2"}
_GATED = ("gate_proj up_proj", "down_proj")

FEED_FORWARD = (
    *(_feed_forward(name, f"{prefix}Layer", *_DENSE, ".intermediate") for name, prefix in _DENSE_BERTS.items()),
    _feed_forward("albert", "AlbertLayer", "ffn", "ffn_output", ".ffn", reused=True),
    _feed_forward("distilbert", "FFN", "lin1", "lin2", ""),
    _feed_forward("modernbert", "ModernBertMLP", "Wi", "Wo", "mlp_norm", parts=2),
    # transformers 4.57, 5.x
    *(_feed_forward(name.lower(), f"{name}Layer", *_DENSE, ".layernorm_after") for name in ("ViT", "DeiT")),
    *(_feed_forward(name.lower(), f"{name}MLP", "fc1", "fc2", "layernorm_after") for name in ("ViT", "DeiT")),
    # A learned scale stands behind the projection. The gated one: transformers 4.57, 5.x
    _feed_forward("dinov2", "Dinov2MLP", "fc1", "fc2", None),
    _feed_forward("dinov2", "Dinov2SwiGLUFFN", "weights_in", "weights_out", None, parts=2),
    _feed_forward("dinov2", "Dinov2SwiGLUFFN", *_GATED, None),
    _feed_forward("clip", "CLIPMLP", "fc1", "fc2", "layer_norm2"),
    _feed_forward("gpt2", "GPT2MLP", "c_fc", "c_proj", "ln_2"),
    *(
        _feed_forward(name, f"{prefix}MLP", *_GATED, residual, width=("intermediate_size",))
        for prefixes, residual in ((_LLAMAS, "post_attention_layernorm"), (_GEMMAS, None))
        for name, prefix in prefixes.items()
    ),
    *(_feed_forward("bart", f"Bart{side}Layer", "fc1", "fc2", ".fc1") for side in _SIDES),
    *(_feed_forward("marian", f"Marian{side}Layer", "fc1", "fc2", ".fc1") for side in _SIDES),
    *(_feed_forward("whisper", f"Whisper{side}Layer", "fc1", "fc2", ".final_layer_norm") for side in _SIDES),
    _feed_forward("t5", "T5LayerFF", "DenseReluDense.wi", "DenseReluDense.wo", ""),
    _feed_forward("t5", "T5LayerFF", "DenseReluDense.wi_0 DenseReluDense.wi_1", "DenseReluDense.wo", ""),
    _feed_forward("gpt-neox", "GPTNeoXMLP", *_WIDE, "post_attention_layernorm", parallel=("use_parallel_residual",)),
    _feed_forward("bloom", "BloomMLP", *_WIDE, "post_attention_layernorm", parallel=_AFTER_NORM),
    _feed_forward("falcon", "FalconMLP", *_WIDE, "post_attention_layernorm", parallel=_FALCON_PARALLEL),
)

register_architecture(*ATTENTION, *FEED_FORWARD)
