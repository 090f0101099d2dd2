"""The architectures that the library knows, one row each."""

from __future__ import annotations

from cahp_plugin._compat import TRANSFORMERS_MAJOR
from cahp_plugin.units.adapters import (
    HeadlessWithBias,
    HeadlessWithNorm,
    OwnBias,
    OwnWidth,
    SharedBias,
    SlicedBias,
)
from cahp_plugin.units.spec import AttentionSpec, register_architecture


def _bert_like(name: str, block: str) -> AttentionSpec:
    return AttentionSpec(
        name=name,
        block=(block,),
        query="self.query",
        key="self.key",
        value="self.value",
        output="output.dense",
        core="self",
        head_count=("num_attention_heads",),
        width=("all_head_size",),
        fixed=("distance_embedding",),  # relative_key
    )


def _vision(name: str, block: str, residual: str | None) -> tuple[AttentionSpec, AttentionSpec]:
    """Rows for transformers 4.57 and for 5."""
    before = AttentionSpec(
        name=name,
        block=(block,),
        query="attention.query",
        key="attention.key",
        value="attention.value",
        output="output.dense",
        core="attention",
        head_count=("num_attention_heads",),
        width=("all_head_size",),
        residual=residual,
    )
    return before, AttentionSpec(
        name=name,
        block=(block,),
        query="q_proj",
        key="k_proj",
        value="v_proj",
        output="o_proj",
        head_count=("num_attention_heads",),
        output_in_core=True,
        residual=residual,
    )


def _llama_like(name: str, block: str, residual: str | None = "input_layernorm") -> AttentionSpec:
    return AttentionSpec(
        name=name,
        block=(block,),
        query="q_proj",
        key="k_proj",
        value="v_proj",
        output="o_proj",
        group="num_key_value_groups",
        fixed=("q_norm", "k_norm"),
        causal=True,
        residual=residual,
        output_in_core=True,
    )


def _bart_like(name: str, block: str, residual: str = "", cross_residual: str = "") -> AttentionSpec:
    return AttentionSpec(
        name=name,
        block=(block,),
        query="q_proj",
        key="k_proj",
        value="v_proj",
        output="out_proj",
        head_count=("num_heads",),
        heads_in_config=False,  # encoder and decoder have a number each
        causal_paths=("decoder",),
        cross_paths=("encoder_attn",),
        residual=residual,
        cross_residual=cross_residual,
        output_in_core=True,
    )


TABLE = (
    _bert_like("bert", "BertAttention"),
    _bert_like("roberta", "RobertaAttention"),
    _bert_like("xlm-roberta", "XLMRobertaAttention"),
    _bert_like("camembert", "CamembertAttention"),
    _bert_like("electra", "ElectraAttention"),
    AttentionSpec(
        name="albert",
        block=("AlbertAttention",),
        query="query",
        key="key",
        value="value",
        output="dense",
        head_count=("num_attention_heads",),
        width=("all_head_size",),
        fixed=("distance_embedding",),
        reused=True,
        output_in_core=True,
        empty=HeadlessWithNorm,
    ),
    AttentionSpec(
        name="mpnet",
        block=("MPNetSelfAttention",),
        query="q",
        key="k",
        value="v",
        output="o",
        head_count=("num_attention_heads",),
        width=("all_head_size",),
        fixed=("relative_attention_bias",),
        shared_bias=True,
        maps_on_request=True,
        output_in_core=True,
        narrow=SlicedBias,
    ),
    AttentionSpec(
        name="deberta-v2",
        block=("DebertaV2Attention",),
        query="self.query_proj",
        key="self.key_proj",
        value="self.value_proj",
        output="output.dense",
        core="self",
        head_count=("num_attention_heads",),
        width=("all_head_size",),
        positions=("self.pos_key_proj", "self.pos_query_proj"),  # without `share_att_key`
        maps_on_request=True,
    ),
    AttentionSpec(
        name="distilbert",
        block=("MultiHeadSelfAttention", "DistilBertSelfAttention"),  # transformers 4.57, 5.x
        query="q_lin",
        key="k_lin",
        value="v_lin",
        output="out_lin",
        head_count=("n_heads",),
        width=("dim",),
        output_in_core=True,
    ),
    AttentionSpec(
        name="modernbert",
        block=("ModernBertAttention",),
        query="Wqkv",
        key="Wqkv",
        value="Wqkv",
        output="Wo",
        head_count=("num_heads",),
        width=("all_head_size",),
        residual="attn_norm",
        maps_on_request=True,
        output_in_core=True,
    ),
    *_vision("vit", "ViTAttention", "layernorm_before"),
    *_vision("deit", "DeiTAttention", "layernorm_before"),
    *_vision("dinov2", "Dinov2Attention", None),  # a learned scale stands behind the projection
    AttentionSpec(
        name="clip",
        block=("CLIPAttention",),
        query="q_proj",
        key="k_proj",
        value="v_proj",
        output="out_proj",
        head_count=("num_heads",),
        causal_paths=("text_model",),
        residual="layer_norm1",
        maps_on_request=True,
        output_in_core=True,
        narrow=OwnWidth if TRANSFORMERS_MAJOR < 5 else None,
    ),
    AttentionSpec(
        name="gpt2",
        block=("GPT2Attention",),
        query="c_attn",
        key="c_attn",
        value="c_attn",
        output="c_proj",
        head_count=("num_heads",),
        width=("split_size",),
        causal=True,
        residual="ln_1",
        output_in_core=True,
    ),
    _llama_like("llama", "LlamaAttention"),
    _llama_like("mistral", "MistralAttention"),
    _llama_like("qwen2", "Qwen2Attention"),
    _llama_like("qwen3", "Qwen3Attention"),
    _llama_like("gemma2", "Gemma2Attention", residual=None),  # a norm stands behind the projection
    _llama_like("gemma3", "Gemma3Attention", residual=None),
    _bart_like("bart", "BartAttention"),
    _bart_like("marian", "MarianAttention"),
    _bart_like("whisper", "WhisperAttention", "self_attn_layer_norm", "encoder_attn_layer_norm"),
    AttentionSpec(
        name="t5",
        block=("T5LayerSelfAttention",),
        query="SelfAttention.q",
        key="SelfAttention.k",
        value="SelfAttention.v",
        output="SelfAttention.o",
        core="SelfAttention",
        head_count=("n_heads",),
        width=("inner_dim",),
        fixed=("relative_attention_bias",),
        shared_bias=True,
        causal_paths=("decoder",),
        map_index=2,
        output_in_core=True,
        narrow=SharedBias,
        empty=HeadlessWithBias,
    ),
    AttentionSpec(
        name="t5",
        block=("T5LayerCrossAttention",),
        query="EncDecAttention.q",
        key="EncDecAttention.k",
        value="EncDecAttention.v",
        output="EncDecAttention.o",
        core="EncDecAttention",
        head_count=("n_heads",),
        width=("inner_dim",),
        shared_bias=True,
        cross=True,
        map_index=2,
        output_in_core=True,
        narrow=OwnBias,
        narrow_all=True,
    ),
)

for _spec in TABLE:
    register_architecture(_spec)
