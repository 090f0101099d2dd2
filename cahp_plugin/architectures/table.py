"""The architectures that the library knows, one row each."""

from __future__ import annotations

from cahp_plugin.architectures.spec import AttentionSpec, register_architecture


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
    )


TABLE = (
    _bert_like("bert", "BertAttention"),
    _bert_like("roberta", "RobertaAttention"),
    _bert_like("xlm-roberta", "XLMRobertaAttention"),
    _bert_like("camembert", "CamembertAttention"),
    _bert_like("electra", "ElectraAttention"),
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
)

for _spec in TABLE:
    register_architecture(_spec)
