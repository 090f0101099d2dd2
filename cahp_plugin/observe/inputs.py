"""Random inputs for a model of text, images or speech, by the names of what it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch

from cahp_plugin.tasks import TASKS

Padding = Literal["left", "right"]
_TEXT = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


def random_inputs(
    names: Iterable[str],
    config: Any,
    *,
    batch_size: int,
    sequence_length: int,
    target_length: int = 1,
    padding: Padding | None = None,
    generator: torch.Generator,
) -> dict[str, torch.Tensor]:
    """Draws inputs of one shape.

    Texts end with the end-of-sequence token where the config names one: some models look for it. Models of texts and
    images are given one image more than texts, so that the two axes can't be mistaken for one another.

    Args:
        names: Inputs of the whole model, such as ``input_ids``, ``attention_mask``, ``token_type_ids``,
            ``position_ids``, ``decoder_input_ids``, ``pixel_values``, ``input_features``.
        config: The model's config.
        batch_size: Examples.
        sequence_length: Tokens of a text; images and speech have a length of their own.
        target_length: Tokens of ``decoder_input_ids``.
        padding: Side on which the examples behind the first are padded, each to another length; ``None`` for none.
        generator: Source of the numbers.

    Returns:
        Input name -> tensor: int64 of shape ``(batch_size, sequence_length)``, ``decoder_input_ids`` of shape
        ``(batch_size, target_length)``; float32 ``pixel_values`` ``(images, channels, height, width)`` and
        ``input_features`` ``(batch_size, mel_bins, frames)``.
    """
    names = list(names)
    text = {name for name in names if name in _TEXT}
    drawn: dict[str, torch.Tensor] = {}
    if text:
        drawn |= _texts(text_config(config), batch_size, sequence_length, padding, generator)
    makers: dict[str, Callable[[], torch.Tensor]] = {
        "decoder_input_ids": lambda: _tokens(text_config(config), (batch_size, target_length), generator),
        "pixel_values": lambda: torch.randn(
            batch_size + bool(text), *image_shape(config), generator=generator, dtype=torch.float32
        ),
        "input_features": lambda: torch.randn(
            batch_size, config.num_mel_bins, speech_frames(config), generator=generator, dtype=torch.float32
        ),
    }
    return {name: drawn[name] if name in drawn else makers[name]() for name in names}


def text_config(config: Any) -> Any:
    """The config of the part that reads texts."""
    return getattr(config, "text_config", None) or config


def image_shape(config: Any) -> tuple[int, int, int]:
    """Channels, height and width of the images that a model takes."""
    vision = getattr(config, "vision_config", None) or config
    size = vision.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return int(vision.num_channels), int(height), int(width)


def speech_frames(config: Any) -> int:
    """Frames of the spectrogram that a speech model takes; a convolution halves them to positions."""
    return 2 * int(config.max_source_positions)


def fixed_length(config: Any) -> int | None:
    """Tokens that the encoder sees where the config fixes them: an image's patches, the positions of speech.

    ``None`` for texts. A model of texts and images counts by its texts, whose length is free.
    """
    if getattr(config, "max_source_positions", None) and getattr(config, "num_mel_bins", None):
        return int(config.max_source_positions)
    if getattr(config, "text_config", None) is None and getattr(config, "image_size", None):
        _, height, width = image_shape(config)
        patch = config.patch_size
        down, across = (patch, patch) if isinstance(patch, int) else patch
        special = 2 if config.model_type == "deit" else 1  # the class token, and DeiT's for its teacher
        return (height // down) * (width // across) + special
    return None


def _texts(
    config: Any, batch_size: int, length: int, padding: Padding | None, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    shape = (batch_size, length)
    mask = torch.ones(shape, dtype=torch.long)
    if padding is not None:
        for row in range(1, batch_size):
            mask[row, max(1, length * row // batch_size) :] = 0
    last = mask.sum(-1) - 1
    tokens = _tokens(config, shape, generator)
    end = _special(config, "eos_token_id")
    if end is not None:
        tokens[torch.arange(batch_size), last] = end
    tokens = tokens.masked_fill(mask == 0, _special(config, "pad_token_id") or 0)
    if padding == "left":
        for row in range(batch_size):
            shift = length - 1 - int(last[row])
            tokens[row], mask[row] = tokens[row].roll(shift), mask[row].roll(shift)
    return {
        "input_ids": tokens,
        "attention_mask": mask,
        "token_type_ids": torch.zeros(shape, dtype=torch.long),
        "position_ids": (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1),  # as in generation
    }


def _tokens(config: Any, shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Token ids without those for padding and for the end of a text."""
    tokens = torch.randint(0, config.vocab_size, shape, generator=generator)
    special = {_special(config, "pad_token_id") or 0, _special(config, "eos_token_id")}
    other = next(token for token in range(config.vocab_size) if token not in special)
    for token in special - {None}:
        tokens[tokens == token] = other
    return tokens


def _special(config: Any, name: str) -> int | None:
    token = getattr(config, name, None)
    return token if isinstance(token, int) and 0 <= token < config.vocab_size else None


def model_inputs(model_class: Any) -> list[str]:
    """Names of the inputs that a call of a model needs: texts, images or speech, and what a decoder starts from."""
    accepted = inspect.signature(model_class.forward).parameters
    names = [name for name in ("input_ids", "pixel_values", "input_features") if name in accepted]
    if "input_ids" in names and "attention_mask" in accepted:
        names.append("attention_mask")
    # Classifiers make the decoder's tokens from the encoder's.
    heads = [task for task in TASKS.values() if not task.two_graphs and task.name != "feature-extraction"]
    classifies = any(model_class.__name__.endswith(task.suffixes) for task in heads)
    if "decoder_input_ids" in accepted and not classifies:
        names.append("decoder_input_ids")
    return names
