"""The work that a model does, as multiply-accumulates: the limit of what pruning can save in time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cahp_plugin.errors import ConfigError
from cahp_plugin.observe.inputs import fixed_length, model_inputs, random_inputs
from cahp_plugin.prune.checkpoint import untrained_model
from cahp_plugin.units import attention_layers
from cahp_plugin.units.positions import max_positions
from cahp_plugin.units.state import call_options

CONVENTION = (
    "Theory: the ratio of multiply-accumulates, counted by torch.utils.flop_counter over all matrix products and "
    "convolutions of a forward pass without padding (projections, attention products, feed-forward, heads, patches). "
    "Causal and local attention count in full; keys and values that several heads share count once in their "
    "projections and once a head in the products. Embeddings, norms, softmax and activations are not counted; a "
    "quantized graph counts like its fp32 original."
)
ENCODER_DECODER_NOTE = (
    "Encoder-decoders: one call is the way to the first token, the encoder over the length given and the decoder over "
    "one token; each later token costs a decoder step more."
)


@dataclasses.dataclass(frozen=True)
class Work:
    """What a model does in a forward pass.

    Attributes:
        num_heads: Attention heads in it.
        macs: Sequence length in tokens -> multiply-accumulates for one example; of a model of texts and images, for
            one text and two images.
    """

    num_heads: int
    macs: dict[int, int]


def work_of(config: Any, sequence_lengths: Sequence[int], name: str) -> Work:
    """Counts the work of the model that a config describes, on a copy with random weights.

    Args:
        config: The config, with the map of heads of a pruned model.
        sequence_lengths: Tokens.
        name: Name of the model, for messages.

    Raises:
        ConfigError: The model has no positions for the longest sequence, or takes one length only.
        UnsupportedModelError: Its architecture is not supported.
    """
    model = untrained_model(config).requires_grad_(False)
    fixed = fixed_length(config)
    limit = None if fixed is not None else max_positions(model)
    if fixed is not None and set(sequence_lengths) != {fixed}:
        raise ConfigError(
            f"{name} takes images or speech of {fixed} tokens, no more and no less; `sequence_lengths` holds "
            f"{', '.join(map(str, sequence_lengths))}. Leave it out."
        )
    if limit is not None and max(sequence_lengths) > limit:
        raise ConfigError(f"{name} takes {limit} tokens at most; `sequence_lengths` holds {max(sequence_lengths)}.")
    return Work(
        sum(len(layer.heads) for layer in attention_layers(model)),
        {length: counted(model, length, 1).get_total_flops() // 2 for length in sequence_lengths},
    )


def counted(model: Any, sequence_length: int, target_length: int) -> FlopCounterMode:
    """Counts the work of a pass over one random example, two operations a multiply-accumulate, module by module.

    Args:
        model: The model, in eval mode and without trainable parameters: the counter takes hooks of their gradients.
        sequence_length: Tokens.
        target_length: Tokens of the decoder.
    """
    inputs = random_inputs(
        model_inputs(type(model)),
        model.config,
        batch_size=1,
        sequence_length=sequence_length,
        target_length=target_length,
        generator=torch.Generator().manual_seed(0),
    )
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    inputs = {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    # Attention as matrix products: the counter does not know every fused kernel, and takes those for nothing.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**inputs, **call_options(type(model)))
    return counter
