"""A model's graphs, as examples are put through them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from cahp_plugin.export.parts import DECODER, ENCODER, MODEL, feed
from cahp_plugin.export.session import graph_files, open_sessions, run_session
from cahp_plugin.prune.checkpoint import load_config


def open_graphs(folder: Path) -> GraphRunner:
    """The exported model in a folder.

    Raises:
        ExportError: onnxruntime refuses it.
    """
    return GraphRunner(open_sessions(graph_files(folder)), load_config(folder))


class GraphRunner:
    """Runs the graphs of one model.

    Args:
        sessions: Name of a part -> the opened graph.
        config: The model's config: what a decoder starts from, and what ends a text.
    """

    def __init__(self, sessions: Mapping[str, Any], config: Any) -> None:
        self._sessions, self._config = sessions, config

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        """The outputs of a batch, by name."""
        if MODEL in self._sessions:
            mask = inputs.get("attention_mask")
            if mask is not None:
                inputs = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0), **inputs}
            return SimpleNamespace(**run_session(self._sessions[MODEL], inputs))
        return self._decoded(inputs, self._encoded(inputs))

    def _encoded(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        return run_session(self._sessions[ENCODER], inputs)

    def _decoded(self, inputs: Mapping[str, Any], encoded: Mapping[str, Tensor]) -> Any:
        return SimpleNamespace(**run_session(self._sessions[DECODER], feed(DECODER, {**inputs, **encoded})))

    def generate(self, inputs: Mapping[str, Any], most: int) -> Tensor:
        """Texts that are made greedily from an encoder-decoder, without a cache, ``(batch, tokens)``.

        The settings of ``generation_config.json`` besides the first and the last token are not looked at.
        """
        encoded = self._encoded(inputs)
        count = len(next(iter(encoded.values())))
        ends = self._config.eos_token_id
        end = torch.tensor([ends] if isinstance(ends, int) else list(ends or []))
        ids = torch.full((count, 1), int(self._config.decoder_start_token_id))
        done = torch.zeros(count, dtype=torch.bool)
        for _ in range(most):
            logits = self._decoded({**inputs, "decoder_input_ids": ids}, encoded).logits
            token = logits[:, -1].argmax(dim=-1).masked_fill(done, self._config.pad_token_id or 0)
            ids = torch.cat([ids, token[:, None]], dim=1)
            done |= torch.isin(token, end)
            if bool(done.all()):
                break
        return ids
