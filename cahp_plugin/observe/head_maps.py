"""What is kept of the attention maps while the model runs: moments of signatures, distances, entropies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cahp_plugin.errors import DataError, UnsupportedModelError
from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.classes import classes_of
from cahp_plugin.observe.conditioning import LABEL, Conditioning
from cahp_plugin.observe.js import MeanDistances
from cahp_plugin.observe.maps import MapConsumer, attention_maps, map_arguments
from cahp_plugin.observe.signatures import ClassMoments, batch_operator, resize_maps, resize_rows
from cahp_plugin.observe.sums import Accumulator, exact
from cahp_plugin.observe.tokens import check_token_queries, group_of, map_sides, spread_queries
from cahp_plugin.units import AttentionLayer
from cahp_plugin.units.state import call_options


def run_with_maps(
    model: nn.Module, layers: Sequence[AttentionLayer], batch: Batch, consume: MapConsumer, *, grouped: bool = True
) -> Any:
    """Runs a batch through the model, without gradients, and hands each layer's maps on.

    Query heads that share a key and value head are one unit: the mean of their maps is handed on, so that ``maps`` has
    the shape ``(batch, units, queries, keys)``; ``(batch, heads, queries, keys)`` where they are not ``grouped``.

    Raises:
        UnsupportedModelError: A layer gives no map.
    """
    device = next(model.parameters()).device

    def consume_units(layer: AttentionLayer, maps: Tensor) -> None:
        count = len(layer.units)
        single = not grouped or maps.shape[1] == count
        consume(layer, maps if single else maps.unflatten(1, (count, -1)).mean(dim=2))

    with torch.inference_mode(), attention_maps(model, layers, consume_units):
        return model(**batch.inputs_on(device), **call_options(type(model)), **map_arguments(model, layers))


def check_numbers(layer: AttentionLayer, values: Tensor) -> None:
    """Looks at what is made of a layer's maps at the real tokens.

    Raises:
        DataError: It is not all numbers.
    """
    if not bool(values.isfinite().all()):
        raise DataError(
            f"The attention maps of layer {layer.index} are not numbers (NaN or infinite). Check the model's weights, "
            "and its dtype: half precision overflows in some models."
        )


def _precise(maps: Tensor) -> torch.dtype:
    return torch.float64 if maps.dtype == torch.float64 else torch.float32


class Signatures(ClassMoments, Accumulator):
    """Moments of the resized attention maps of each class (paper, step 1).

    One layer's maps are held at a time; where classes are predicted, all layers' signatures of a batch wait for the
    logits. A layer that several depths of the model share is seen as the mean of its maps at them.

    Args:
        model: The model.
        layers: Its attention layers.
        size: Side B of the signatures, in cells.
        classes: Classes of the labels; ``None`` takes those that the same forward pass predicts.
        conditioning: What has a class.

    Raises:
        UnsupportedModelError: Tokens have classes, and a layer's queries are others.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[AttentionLayer],
        size: int,
        classes: Sequence[int] | None = None,
        conditioning: Conditioning = LABEL,
    ) -> None:
        super().__init__(model, layers)
        if conditioning.of == "tokens":
            check_token_queries(model, layers)
        self._size, self._classes, self._kind = size, classes, classes_of(conditioning)

    @torch.inference_mode()
    def update(self, batch: Batch) -> None:
        """See the base class.

        Raises:
            DataError: An attention map is not a number.
            UnsupportedModelError: A layer gives no map, or the output has no classes to predict.
        """
        kind, classes = self._kind, self._classes
        waiting: list[tuple[int, Tensor]] = []
        if classes is not None:
            members, groups = kind.members(kind.of_rows(batch.labels), classes), kind.groups(classes)

        def done(layer: AttentionLayer, resized: Tensor) -> None:
            if classes is None:
                waiting.append((layer.index, resized))
            else:
                self.add(layer.index, resized, members, groups)

        chosen = kind.choose(batch.labels, batch.mask, predicted=classes is None)
        resizer = _Resizer(batch, self._size, done, chosen)
        output = run_with_maps(self.model, self.layers, batch, resizer.consume)
        resizer.flush()
        if classes is None:
            labels = kind.of_rows(kind.predict(output, batch.mask))
            members, groups = kind.members(labels, kind.present(labels)), kind.groups(kind.present(labels))
            while waiting:
                self.add(*waiting.pop(0), members, groups)


class _Resizer:
    """Resizes maps, or the chosen queries' rows of them, and hands a layer's on when the next layer comes.

    They are averaged over the depths that share the layer.
    """

    def __init__(self, batch: Batch, size: int, done: MapConsumer, chosen: Tensor | None = None) -> None:
        self._batch, self._size, self._done, self._chosen = batch, size, done, chosen
        self._operators: dict[tuple[str, int, torch.dtype], Tensor] = {}
        self._layer: AttentionLayer | None = None
        self._sum: Tensor | None = None
        self._times = 0

    def consume(self, layer: AttentionLayer, maps: Tensor) -> None:
        dtype = _precise(maps)
        query, key = map_sides(layer, self._batch, maps.shape[2], maps.shape[3])
        operators = []
        for side in (query, key) if self._chosen is None else (key,):
            which = side.stream, side.mask.shape[1], dtype
            if which not in self._operators:
                self._operators[which] = batch_operator(side.mask, self._size, dtype).to(maps.device)
            operators.append(self._operators[which])
        if layer is not self._layer:
            self.flush()
        if self._chosen is None:
            resized = resize_maps(maps.to(dtype), *operators)
        else:
            resized = resize_rows(maps.to(dtype), self._chosen, *operators)
        check_numbers(layer, resized)
        self._sum = resized if self._sum is None else self._sum.add_(resized)
        self._layer, self._times = layer, self._times + 1

    def flush(self) -> None:
        """Hands on what is left."""
        if self._layer is not None and self._sum is not None:
            self._done(self._layer, self._sum if self._times == 1 else self._sum.div_(self._times))
        self._sum, self._times = None, 0


class HeadDistances(MeanDistances, Accumulator):
    """Mean distances between the attention maps of a model's heads.

    Padded queries and keys are left out. The chosen queries of all layers are held until the pass ends:
    N x queries x S numbers an example.

    Args:
        model: The model.
        layers: Its attention layers.
        max_queries: Queries of each example; ``None`` takes all.
    """

    def __init__(self, model: nn.Module, layers: Sequence[AttentionLayer], max_queries: int | None = None) -> None:
        Accumulator.__init__(self, model, layers)
        self.groups, self._max_queries = [group_of(layer) for layer in layers for _ in layer.units], max_queries

    @torch.inference_mode()
    def update(self, batch: Batch) -> None:
        """See the base class.

        Raises:
            DataError: An attention map is not a number.
            UnsupportedModelError: A layer gives no map, or layers of one kind differ in their tokens.
        """
        held: dict[tuple[Any, int], dict[int, Tensor]] = {}
        chosen: dict[Any, list[tuple[Tensor, Tensor]]] = {}
        shapes: dict[Any, torch.Size] = {}

        def consume(layer: AttentionLayer, maps: Tensor) -> None:
            group = group_of(layer)
            if group not in chosen:
                query, key = map_sides(layer, batch, maps.shape[2], maps.shape[3])
                chosen[group] = [
                    (
                        spread_queries(query.mask[i], self._max_queries).to(maps.device),
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
            for example, (queries, keys) in enumerate(chosen[group]):
                rows = maps[example].index_select(1, queries).index_select(2, keys).transpose(0, 1)
                check_numbers(layer, rows)
                own = held.setdefault((group, example), {})
                # A layer that several depths share is seen as the sum of its maps; rows are scaled to 1 later.
                own[layer.index] = own.get(layer.index, 0) + rows.to(_precise(rows))

        run_with_maps(self.model, self.layers, batch, consume)
        for group, example in list(held):
            own = held.pop((group, example))
            if not self.add(group, torch.cat([own[layer] for layer in sorted(own)], dim=1)):
                raise DataError(
                    f"Attention of the {group[0]} layers in example {example} of a batch has rows that are zero at "
                    "all real tokens: they are no distributions. Check the attention mask."
                )


class Entropies(Accumulator):
    """Mean entropy of each unit's attention rows over the largest that they could have; of its heads, the mean.

    For an example whose row of a real query has n real keys, the row's entropy is ``-sum_j a_j ln a_j``, divided by
    ``ln n``; for ``n = 1`` it is 0. Means are taken over an example's queries, then over examples (and over the depths
    of a model whose depths share a layer). No map is kept.

    Args:
        model: The model.
        layers: Its attention layers.
    """

    @torch.inference_mode()
    def update(self, batch: Batch) -> None:
        """See the base class.

        Raises:
            DataError: An attention map is not a number.
        """

        def consume(layer: AttentionLayer, maps: Tensor) -> None:
            query, key = map_sides(layer, batch, maps.shape[2], maps.shape[3])
            entropies = row_entropies(maps, query.mask.to(maps.device), key.mask.to(maps.device))
            check_numbers(layer, entropies)
            units = entropies.unflatten(1, (len(layer.units), -1)).mean(dim=2)
            self.plus((layer.index, "sum"), exact(units).sum(dim=0))
            self.plus((layer.index, "examples"), len(units))

        run_with_maps(self.model, self.layers, batch, consume, grouped=False)

    def finish(self) -> list[float]:
        """Each unit's mean, a share in [0, 1], in the order of the layers."""
        means = [self.state[layer.index, "sum"] / self.state[layer.index, "examples"] for layer in self.layers]
        return [value for own in means for value in own.tolist()]


def row_entropies(maps: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Each example's mean row entropy over ``ln n``; the arithmetic of :class:`Entropies`.

    Args:
        maps: Attention maps, shape ``(batch, heads, queries, keys)``.
        queries: Real queries, bool of shape ``(batch, queries)``, at least one a row.
        keys: Real keys, bool of shape ``(batch, keys)``, at least one a row.

    Returns:
        Shape ``(batch, heads)``.
    """
    maps = maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps
    rows = -torch.special.xlogy(maps, maps).masked_fill(~keys[:, None, None, :], 0).sum(dim=-1)
    means = rows.masked_fill(~queries[:, None, :], 0).sum(dim=-1) / queries.sum(dim=1).to(maps.dtype)[:, None]
    counts = keys.sum(dim=1).to(maps.dtype)
    # A row over a single key has no entropy, and ln 1 = 0 may not divide it.
    return means / counts.log().clamp_min(torch.finfo(means.dtype).eps)[:, None] * (counts > 1)[:, None]
