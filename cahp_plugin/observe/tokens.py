"""Which tokens are the queries and the keys of a layer's attention maps, and which of them are real."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cahp_plugin.errors import UnsupportedModelError
from cahp_plugin.observe.batches import Batch
from cahp_plugin.tasks.decoder_inputs import takes_decoder_inputs
from cahp_plugin.units import AttentionLayer, PrunableLayer


@dataclasses.dataclass(frozen=True)
class Side:
    """The queries or the keys of a map.

    Attributes:
        stream: Which of a model's token sequences they are: ``"tokens"``, ``"decoder"`` or ``"vision"``.
        mask: Real ones, bool of shape ``(batch, length)``, on the CPU.
    """

    stream: str
    mask: Tensor


def group_of(layer: AttentionLayer) -> tuple[str, str]:
    """Heads of one group see the same queries and keys; heads of different groups can't be compared cell by cell."""
    return layer.pattern, "vision" if _in_vision_tower(layer) else "tokens"


def check_token_queries(model: nn.Module, layers: Sequence[AttentionLayer]) -> None:
    """Makes sure that the queries and keys of all layers are the tokens of the model's input.

    Raises:
        UnsupportedModelError: They are not.
    """
    main = getattr(model, "main_input_name", "input_ids")
    others = [layer.name for layer in layers if layer.heads and (layer.pattern == "cross" or _in_vision_tower(layer))]
    if main == "input_ids" and not takes_decoder_inputs(model) and not others:
        return
    where = f"the queries of {others[0]} are others" if others else f"{type(model).__name__} has tokens of its own"
    raise UnsupportedModelError(
        f"Classes of tokens are told apart by the rows of self-attention among the tokens of `input_ids`; {where}. "
        'Use `conditioning="none"`, which compares heads without classes.'
    )


def map_sides(layer: AttentionLayer, batch: Batch, queries: int, keys: int) -> tuple[Side, Side]:
    """Finds out which tokens a layer's maps are about.

    Self-attention looks from the encoder's tokens at themselves, causal attention of an encoder-decoder model from the
    decoder's at themselves, cross attention from the decoder's at the encoder's. Image patches and audio frames are
    all real.

    Args:
        layer: The layer.
        batch: The batch.
        queries: Rows of its maps.
        keys: Columns of its maps.

    Returns:
        The queries and the keys.

    Raises:
        UnsupportedModelError: A mask does not have the maps' width.
    """
    return query_side(layer, batch, queries), _side(layer, batch, keys, decodes=layer.pattern == "causal")


def query_side(layer: PrunableLayer, batch: Batch, queries: int) -> Side:
    """The queries alone; see :func:`map_sides`."""
    return _side(layer, batch, queries, decodes=layer.pattern in ("causal", "cross"))


def _in_vision_tower(layer: PrunableLayer) -> bool:
    """Image and text towers of one model (CLIP) are told apart by their names."""
    return any(part.startswith(("vision", "visual")) for part in layer.name.split("."))


def _side(layer: PrunableLayer, batch: Batch, length: int, *, decodes: bool) -> Side:
    vision, decodes = _in_vision_tower(layer), decodes and batch.decoder_mask is not None
    mask = batch.decoder_mask if decodes else batch.mask
    if vision or mask is None or mask.shape[1] == 0:
        return Side("vision" if vision else "tokens", torch.ones(len(batch), length, dtype=torch.bool))
    if mask.shape[1] != length:
        raise UnsupportedModelError(
            f"{layer.name} attends over {length} positions and the attention mask has {mask.shape[1]}: the model "
            "shortens or extends its input, so that padding can't be told from real tokens. Give examples of one "
            "length, one a batch, without `attention_mask`, or another model."
        )
    return Side("decoder" if decodes else "tokens", mask)


def spread_queries(mask: Tensor, max_queries: int | None) -> Tensor:
    """Chooses queries of one example, evenly spread over its real tokens: the middles of equal stretches.

    Args:
        mask: Real queries, bool of shape ``(queries,)``.
        max_queries: How many at most; ``None`` takes all.

    Returns:
        Indices, ascending.
    """
    real = mask.nonzero().flatten()
    if max_queries is None or max_queries >= len(real):
        return real
    steps = torch.arange(max_queries, dtype=torch.float64)
    return real[((steps + 0.5) * len(real) / max_queries).long()]
