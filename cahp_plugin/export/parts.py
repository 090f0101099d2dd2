"""The graphs that a task is exported as: one, or one for the encoder and one for the decoder."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import torch

from cahp_plugin.errors import ExportError
from cahp_plugin.tasks import Task
from cahp_plugin.tasks.base import BATCH, TARGETS, TOKENS
from cahp_plugin.units.state import call_options

MODEL, ENCODER, DECODER = "model", "encoder_model", "decoder_model"

#: Input of the decoder's graph -> what it is in the whole model, or the output of the encoder's graph.
DECODER_FEEDS = {
    "input_ids": "decoder_input_ids",
    "encoder_hidden_states": "last_hidden_state",
    "encoder_attention_mask": "attention_mask",
}

_TEXT = {0: "text_batch_size", 1: "sequence_length"}
_SOURCE = {0: "batch_size", 1: "encoder_sequence_length"}

#: Architectures whose graphs take positions, as in Optimum: padding on the left moves a text's first token.
_WITH_POSITIONS = ("falcon", "gpt_neox", "gpt2", "llama", "mistral", "qwen2", "qwen3")


@dataclasses.dataclass(frozen=True)
class Part:
    """One graph.

    Attributes:
        name: Its file's name without ending, as Optimum's ``ORTModel`` classes look for it.
        inputs: Input name -> dynamic axes, in order.
        outputs: Output name -> dynamic axes, in order.
        module: What computes the outputs, called with the inputs by name.
    """

    name: str
    inputs: dict[str, dict[int, str]]
    outputs: dict[str, dict[int, str]]
    module: Any

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Runs the module: name -> tensor in, name -> tensor out."""
        result = self.module(**inputs, **call_options(type(self.module)))
        return {name: result[name] for name in self.outputs}


class DecoderStep(torch.nn.Module):
    """The decoder and head of an encoder-decoder, as a function of what its encoder gave.

    Args:
        model: The whole model.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
    ) -> Any:
        """Computes the logits.

        Args:
            input_ids: Tokens of the decoder, of shape ``(batch_size, decoder_sequence_length)``.
            encoder_hidden_states: Of shape ``(batch_size, encoder_sequence_length, hidden_size)``.
            encoder_attention_mask: Of shape ``(batch_size, encoder_sequence_length)``.
        """
        # Without a mask at all transformers looks for packed texts, by an operator that ONNX does not have.
        own_mask = torch.ones_like(input_ids) if encoder_attention_mask is None else None
        return self.model(
            decoder_input_ids=input_ids,
            decoder_attention_mask=own_mask,
            encoder_outputs=(encoder_hidden_states,),
            attention_mask=encoder_attention_mask,
            use_cache=False,
        )


def feed(name: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The inputs of one graph, under its own names.

    Args:
        name: Name of the graph.
        inputs: Inputs of the whole model, and behind the encoder its outputs.
    """
    if name != DECODER:
        return inputs
    return {own: inputs[given] for own, given in DECODER_FEEDS.items() if given in inputs}


def parts_of(model: Any, task: Task) -> tuple[Part, ...]:
    """Splits a model into the graphs of its task.

    Raises:
        ExportError: It takes other inputs than text, images or speech.
    """
    if task.two_graphs:
        speech = task.main_input == "input_features"
        source = {"input_features": BATCH} if speech else dict.fromkeys(_text_inputs(model), _SOURCE)
        hidden = BATCH if speech else _SOURCE
        target = {"input_ids": TARGETS, "encoder_hidden_states": hidden}
        if not speech:
            target = {"encoder_attention_mask": _SOURCE, **target}
        encoder = Part(ENCODER, source, {"last_hidden_state": hidden}, model.get_encoder())
        return encoder, Part(DECODER, target, task.outputs, DecoderStep(model))
    names = _text_inputs(model)
    accepted = _accepted(model)
    text = _TEXT if "pixel_values" in accepted and names else TOKENS
    inputs = dict.fromkeys(names, text)
    if "pixel_values" in accepted:
        inputs["pixel_values"] = {0: "image_batch_size" if names else "batch_size"}
    if not inputs:
        raise ExportError(
            f"{type(model).__name__} takes neither `input_ids` nor `pixel_values`; only models of text, images and "
            "speech (encoder-decoders) can be exported."
        )
    decodes = task.name in ("text-generation", "feature-extraction")
    if decodes and model.config.model_type in _WITH_POSITIONS:
        inputs["position_ids"] = text
    return (Part(MODEL, inputs, _outputs(model, task, images=not names), model),)


def _text_inputs(model: Any) -> list[str]:
    """Token types are an input where the model has more than one of them, as in Optimum."""
    types = ["token_type_ids"] if (getattr(model.config, "type_vocab_size", None) or 0) >= 2 else []
    accepted = _accepted(model)
    names = ["input_ids", "attention_mask", *types] if "input_ids" in accepted else []
    return [name for name in names if name in accepted]


def _outputs(model: Any, task: Task, *, images: bool) -> dict[str, dict[int, str]]:
    if task.name != "feature-extraction":
        return task.outputs
    projected = {"image_embeds" if images else "text_embeds": BATCH}
    hidden = {"last_hidden_state": BATCH if images else TOKENS}  # the patches of an image are of a fixed number
    return projected | hidden if type(model).__name__.endswith("WithProjection") else hidden


def _accepted(module: Any) -> Mapping[str, Any]:
    return inspect.signature(module.forward).parameters
