"""What is kept of the attention maps while the model runs: class moments of signatures, or distances between heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cahp_plugin.errors import DataError, UnsupportedModelError
from cahp_plugin.observe.js import MeanDistances
from cahp_plugin.observe.signatures import ClassMoments, batch_operator, resize_maps
from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.maps import MapConsumer, attention_maps, map_arguments
from cahp_plugin.observe.objective import forward_arguments
from cahp_plugin.observe.tokens import group_of, map_sides, spread_queries
from cahp_plugin.units import AttentionLayer


def run_with_maps(model: nn.Module, layers: Sequence[AttentionLayer], batch: Batch, consume: MapConsumer) -> Any:
    """Runs a batch through the model, without gradients, and hands each layer's maps on.

    Query heads that share a key and value head are one unit: the mean of their maps is handed on, so that ``maps`` has
    the shape ``(batch, units, queries, keys)``.

    Raises:
        UnsupportedModelError: A layer gives no map.
    """
    device = next(model.parameters()).device
    counts = [len(layer.units) for layer in layers if layer.heads]

    def consume_units(position: int, maps: Tensor) -> None:
        count = counts[position]
        consume(position, maps if maps.shape[1] == count else maps.unflatten(1, (count, -1)).mean(dim=2))

    with torch.inference_mode(), attention_maps(model, layers, consume_units):
        return model(**batch.inputs_on(device), **forward_arguments(model), **map_arguments(model, layers))


@torch.inference_mode()
def add_signatures(
    model: nn.Module,
    layers: Sequence[AttentionLayer],
    batch: Batch,
    classes: Sequence[int],
    moments: ClassMoments,
    *,
    size: int,
) -> None:
    """Runs a batch through the model and adds its resized attention maps to its labels' moments (paper, step 1).

    One layer's maps are held at a time. A layer that several depths of the model share is seen as the mean of its maps
    at them.

    Args:
        model: The model, in eval mode.
        layers: Its attention layers.
        batch: The batch, with labels.
        classes: Labels of the classes, in the order of ``moments``.
        moments: Updated.
        size: Side B of the signatures, in cells.

    Raises:
        DataError: An attention map is not a number.
        UnsupportedModelError: A layer gives no map.
    """
    one_hot = batch.labels[None] == torch.tensor(classes)[:, None]
    signatures = _Signatures(layers, batch, size, lambda layer, resized: _add(moments, layer, resized, one_hot))
    run_with_maps(model, layers, batch, signatures.consume)
    signatures.flush()


@torch.inference_mode()
def add_predicted_signatures(
    model: nn.Module,
    layers: Sequence[AttentionLayer],
    batch: Batch,
    classes: list[int],
    moments: ClassMoments,
    *,
    size: int,
    predict: Callable[[Any], Tensor],
) -> None:
    """Like :func:`add_signatures`, for the classes that the same forward pass predicts.

    All layers' resized maps of the batch wait for the logits: N x batch x B x B numbers.

    Args:
        model: The model, in eval mode.
        layers: Its attention layers.
        batch: The batch.
        classes: Labels seen so far, in the order of ``moments``; new ones are appended.
        moments: Updated.
        size: Side B of the signatures, in cells.
        predict: Takes the predicted labels, shape ``(batch,)``, out of the model's output.
    """
    waiting: list[tuple[int, Tensor]] = []
    signatures = _Signatures(layers, batch, size, lambda layer, resized: waiting.append((layer, resized)))
    labels = predict(run_with_maps(model, layers, batch, signatures.consume)).cpu()
    signatures.flush()
    classes.extend(label for label in labels.unique().tolist() if label not in classes)
    moments.grow(len(classes))
    one_hot = labels[None] == torch.tensor(classes)[:, None]
    while waiting:
        layer, resized = waiting.pop(0)
        _add(moments, layer, resized, one_hot)


def _add(moments: ClassMoments, layer: int, resized: Tensor, one_hot: Tensor) -> None:
    moments.update(layer, resized, one_hot.to(resized.device, resized.dtype))
    if not moments.is_finite(layer):
        raise not_numbers(layer)


def not_numbers(position: int) -> DataError:
    """The error for maps that are not numbers."""
    return DataError(
        f"The attention maps of layer {position} are not numbers (NaN or infinite). Check the model's weights, and "
        "its dtype: half precision overflows in some models."
    )


def _precise(maps: Tensor) -> torch.dtype:
    return torch.float64 if maps.dtype == torch.float64 else torch.float32


class _Signatures:
    """Resizes maps and hands a layer's on when the next layer comes, averaged over the depths that share it."""

    def __init__(
        self, layers: Sequence[AttentionLayer], batch: Batch, size: int, done: Callable[[int, Tensor], None]
    ) -> None:
        self._layers = [layer for layer in layers if layer.heads]
        self._batch, self._size, self._done = batch, size, done
        self._operators: dict[tuple[str, int, torch.dtype], Tensor] = {}
        self._position = -1
        self._sum: Tensor | None = None
        self._times = 0

    def consume(self, position: int, maps: Tensor) -> None:
        dtype = _precise(maps)
        query, key = map_sides(self._layers[position], self._batch, maps.shape[2], maps.shape[3])
        operators = []
        for side in (query, key):
            which = side.stream, side.mask.shape[1], dtype
            if which not in self._operators:
                self._operators[which] = batch_operator(side.mask, self._size, dtype).to(maps.device)
            operators.append(self._operators[which])
        if position != self._position:
            self.flush()
        resized = resize_maps(maps.to(dtype), *operators)
        self._sum = resized if self._sum is None else self._sum.add_(resized)
        self._position, self._times = position, self._times + 1

    def flush(self) -> None:
        """Hands on what is left."""
        if self._sum is not None:
            self._done(self._position, self._sum if self._times == 1 else self._sum.div_(self._times))
        self._sum, self._times = None, 0


def mean_distances(layers: Sequence[AttentionLayer]) -> MeanDistances:
    """Starts the mean distances of a model's heads."""
    return MeanDistances([group_of(layer) for layer in layers for _ in layer.units])


@torch.inference_mode()
def add_distances(
    model: nn.Module,
    layers: Sequence[AttentionLayer],
    batch: Batch,
    distances: MeanDistances,
    *,
    max_queries: int | None,
) -> None:
    """Runs a batch through the model and adds the distances between its heads' maps.

    Padded queries and keys are left out. The chosen queries of all layers are held until the pass ends:
    N x queries x S numbers an example.

    Args:
        model: The model, in eval mode.
        layers: Its attention layers.
        batch: The batch.
        distances: Updated.
        max_queries: Queries of each example; ``None`` takes all.

    Raises:
        DataError: An attention map is not a number.
        UnsupportedModelError: A layer gives no map, or layers of one kind differ in their tokens.
    """
    present = [layer for layer in layers if layer.heads]
    groups: dict[Any, list[int]] = {}
    for position, layer in enumerate(present):
        groups.setdefault(group_of(layer), []).append(position)
    first_rows: dict[int, int] = {}
    sizes: dict[Any, int] = {}
    for group, positions in groups.items():
        count = 0
        for position in positions:
            first_rows[position] = count
            count += len(present[position].units)
        sizes[group] = count
    held: dict[tuple[Any, int], Tensor] = {}
    chosen: dict[Any, list[tuple[Tensor, Tensor]]] = {}

    def consume(position: int, maps: Tensor) -> None:
        layer, group = present[position], group_of(present[position])
        if group not in chosen:
            query, key = map_sides(layer, batch, maps.shape[2], maps.shape[3])
            chosen[group] = [
                (
                    spread_queries(query.mask[i], max_queries).to(maps.device),
                    key.mask[i].nonzero()[:, 0].to(maps.device),
                )
                for i in range(len(batch))
            ]
            shapes[group] = maps.shape[2:]
        if shapes[group] != maps.shape[2:]:
            raise UnsupportedModelError(
                f"{layer.name} has maps of {tuple(maps.shape[2:])} tokens, an earlier layer of its kind "
                f"{tuple(shapes[group])}: their heads can't be compared at the same queries."
            )
        low = first_rows[position]
        for example, (queries, keys) in enumerate(chosen[group]):
            if (group, example) not in held:
                shape = len(queries), sizes[group], len(keys)
                held[group, example] = torch.zeros(shape, dtype=_precise(maps), device=maps.device)
            rows = maps[example].index_select(1, queries).index_select(2, keys).transpose(0, 1)
            if not bool(rows.isfinite().all()):
                raise not_numbers(position)
            # A layer that several depths share is seen as the sum of its maps; rows are scaled to 1 later.
            held[group, example][:, low : low + maps.shape[1]] += rows

    shapes: dict[Any, torch.Size] = {}
    run_with_maps(model, layers, batch, consume)
    for (group, example), rows in list(held.items()):
        del held[group, example]
        if not distances.update(group, rows):
            raise DataError(
                f"Attention of the {group[0]} layers in example {example} of a batch has rows that are zero at all "
                "real tokens: they are no distributions. Check the attention mask."
            )
