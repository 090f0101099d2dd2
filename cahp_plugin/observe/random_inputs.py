"""Random inputs of the kind that a model takes, for tracing it and for comparing two forms of it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from cahp_plugin.architectures.positions import max_positions
from cahp_plugin.errors import UnsupportedModelError


def random_inputs(model: Any, *, batch_size: int = 2, length: int = 9, seed: int = 0) -> dict[str, Tensor]:
    """Draws inputs for a text, image or speech model, padded where it knows padding, on the model's device.

    Args:
        model: A transformers model.
        batch_size: Examples.
        length: Tokens of an example, where it has tokens; the last example has two less, padded on the right (on the
            left for a model that is decoder only).
        seed: Seed.

    Returns:
        Arguments of the model's forward call by name.

    Raises:
        UnsupportedModelError: The model takes none of ``input_ids``, ``pixel_values`` and ``input_features``.
    """
    generator = torch.Generator().manual_seed(seed)
    accepted = inspect.signature(model.forward).parameters
    config = model.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    found: dict[str, Tensor] = {}
    if "input_ids" in accepted:
        width = min(length, max_positions(model) or length)
        found |= _tokens(text, batch_size, width, generator, left=not config.is_encoder_decoder and _decodes(model))
    if "pixel_values" in accepted:
        vision = getattr(config, "vision_config", config)
        size = vision.image_size if isinstance(vision.image_size, (tuple, list)) else (vision.image_size,) * 2
        found["pixel_values"] = torch.randn(batch_size, vision.num_channels, *size, generator=generator)
    if "input_features" in accepted:
        frames = 2 * config.max_source_positions
        found["input_features"] = torch.randn(batch_size, config.num_mel_bins, frames, generator=generator)
    if not found:
        raise UnsupportedModelError(
            f"{type(model).__name__} takes none of input_ids, pixel_values and input_features; pass inputs of your own."
        )
    if config.is_encoder_decoder and "decoder_input_ids" in accepted:
        found["decoder_input_ids"] = torch.randint(3, text.vocab_size, (batch_size, length - 2), generator=generator)
    dtype = next(model.parameters()).dtype
    return {
        name: value.to(model.device, dtype if value.is_floating_point() else value.dtype)
        for name, value in found.items()
    }


def _decodes(model: Any) -> bool:
    return bool(model.can_generate())


def _tokens(config: Any, batch_size: int, length: int, generator: torch.Generator, *, left: bool) -> dict[str, Tensor]:
    ids = torch.randint(3, config.vocab_size, (batch_size, length), generator=generator)
    mask = torch.ones_like(ids)
    if batch_size > 1 and length > 3:
        padding = slice(0, 2) if left else slice(-2, None)
        mask[-1, padding] = 0
        ids[-1, padding] = getattr(config, "pad_token_id", None) or 0
    return {"input_ids": ids, "attention_mask": mask}
