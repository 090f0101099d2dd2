"""Makes a model of your own prunable: two rows of the table, checked by the function that the library ships.

The model here is a small encoder whose attention and feed-forward name their parts in their own way. Nothing in the
library knows it: the rows say where the projections are and which attribute counts the heads.
"""

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from cahp_plugin.check import check_architecture
from cahp_plugin.units import AttentionSpec, FeedForwardSpec, register_architecture


class OwnConfig(PretrainedConfig):
    """Settings of the model."""

    model_type = "own-encoder"

    def __init__(self, vocab_size=50, hidden_size=32, num_attention_heads=4, num_hidden_layers=3, **kwargs):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_attention_heads, self.num_hidden_layers = num_attention_heads, num_hidden_layers
        super().__init__(**kwargs)


class OwnAttention(nn.Module):
    """Attention with names of its own; the number of heads is the attribute ``heads``."""

    def __init__(self, config):
        super().__init__()
        self.heads = config.num_attention_heads
        self.to_q, self.to_k, self.to_v, self.to_out = (
            nn.Linear(config.hidden_size, config.hidden_size) for _ in range(4)
        )

    def forward(self, hidden_states, mask):
        """Returns the output and the maps."""
        batch, tokens, _ = hidden_states.shape
        query, key, value = (
            projection(hidden_states).view(batch, tokens, self.heads, -1).transpose(1, 2)
            for projection in (self.to_q, self.to_k, self.to_v)
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        maps = scores.masked_fill(mask[:, None, None] == 0, -1e9).softmax(-1)
        return self.to_out((maps @ value).transpose(1, 2).flatten(2)), maps


class OwnMLP(nn.Module):
    """A feed-forward with names of its own."""

    def __init__(self, config):
        super().__init__()
        self.up = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.down = nn.Linear(2 * config.hidden_size, config.hidden_size)

    def forward(self, hidden_states):
        """Returns the output."""
        return self.down(self.up(hidden_states).relu())


class OwnClassifier(PreTrainedModel):
    """A post-norm encoder with a classifier on its first token."""

    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(OwnAttention(config) for _ in range(config.num_hidden_layers))
        self.mlps = nn.ModuleList(OwnMLP(config) for _ in range(config.num_hidden_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden_size) for _ in range(config.num_hidden_layers))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask, output_attentions=False):
        """Returns the logits."""
        hidden = self.embedding(input_ids)
        for attention, mlp, norm in zip(self.layers, self.mlps, self.norms, strict=True):
            hidden = norm(hidden + attention(hidden, attention_mask)[0])
            hidden = hidden + mlp(hidden)
        return SequenceClassifierOutput(logits=self.classifier(hidden[:, 0]))


def main() -> None:
    register_architecture(
        AttentionSpec(
            name="own-encoder",
            block=("OwnAttention",),
            query="to_q",
            key="to_k",
            value="to_v",
            output="to_out",
            head_count=("heads",),
            output_in_core=True,
        ),
        FeedForwardSpec(name="own-encoder", block=("OwnMLP",), inputs=("up",), output="down"),
    )
    # Transformers' own registration, so that a saved copy finds its class.
    AutoConfig.register("own-encoder", OwnConfig)
    AutoModelForSequenceClassification.register(OwnConfig, OwnClassifier)

    torch.manual_seed(0)
    found = check_architecture(OwnClassifier(OwnConfig(num_labels=3)))
    print(found)
    if not found.passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
