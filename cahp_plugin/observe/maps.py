"""Attention maps, handed on layer by layer while the model runs and dropped at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from cahp_plugin._compat import TRANSFORMERS_MAJOR, attention_maps_enabled
from cahp_plugin.errors import UnsupportedModelError
from cahp_plugin.units import AttentionLayer
from cahp_plugin.units.layers import join

MapConsumer = Callable[[AttentionLayer, Tensor], None]


def map_arguments(model: nn.Module, layers: Sequence[AttentionLayer]) -> dict[str, Any]:
    """What the forward call needs so that the layers compute their maps.

    The eager path of transformers 5, and of those models of 4.57 that record outputs by class, returns them always;
    asking there would make the model collect them, ahead of any hook, and hold N x S x S numbers.
    """
    records = any("attentions" in (getattr(part, "_can_record_outputs", None) or {}) for part in model.modules())
    always = TRANSFORMERS_MAJOR >= 5 or records
    asks = not always or any(layer.spec.maps_on_request for layer in layers)
    return {"output_attentions": True} if asks else {}


@contextlib.contextmanager
def attention_maps(model: nn.Module, layers: Sequence[AttentionLayer], consume: MapConsumer) -> Iterator[None]:
    """Calls ``consume(layer, maps)`` for each layer that has heads, in order, whenever the model runs.

    ``maps`` has the shape ``(batch, heads, queries, keys)`` and is not kept: memory holds one layer's maps at a time.
    Call the model with ``**map_arguments(model, layers)``.

    Raises:
        UnsupportedModelError: (from the model's forward call) a layer returned no map.
    """
    with contextlib.ExitStack() as stack:
        for layer in layers:
            if layer.heads:
                stack.enter_context(layer.core.register_forward_hook(_map_hook(layer, consume)))
        stack.enter_context(attention_maps_enabled(model))
        yield


def _map_hook(layer: AttentionLayer, consume: MapConsumer) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        place = layer.spec.map_index
        maps = output[place] if isinstance(output, tuple) and len(output) > place else None
        if not isinstance(maps, Tensor) or maps.dim() != 4 or maps.shape[1] != len(layer.heads):
            got = tuple(maps.shape) if isinstance(maps, Tensor) else None
            raise UnsupportedModelError(
                f"{join(layer.name, layer.spec.core)} ({type(module).__name__}) returned no attention map: expected "
                f"shape (batch, {len(layer.heads)}, queries, keys), got {got}. "
                'Load the model with `attn_implementation="eager"`.'
            )
        consume(layer, maps)
        return (*output[:place], None, *output[place + 1 :])

    return hook
