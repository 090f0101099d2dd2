"""``select_heads``: the method from a fine-tuned model and its training data to the heads to keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn

from cahp_plugin.config import CAHPConfig
from cahp_plugin.errors import ConfigError, DataError, SelectionError, UnsupportedModelError
from cahp_plugin.selectors.cahp.representatives import select_from_distances, select_from_separation, wanted_rows
from cahp_plugin.selectors.cahp.salience import normalize_salience
from cahp_plugin.selectors.cahp.selection import HeadSelection
from cahp_plugin.selectors.cahp.separation import separation_matrix
from cahp_plugin.observe import observe, prepare_batches
from cahp_plugin.observe.objective import Loss
from cahp_plugin.observe.observation import probe
from cahp_plugin.units import attention_layers

#: Side of the signatures at most where the tokens are image patches or audio frames.
_LARGEST_UNPADDED = 32


def select_heads(
    model: nn.Module,
    dataloader: Iterable[Mapping[str, Any]],
    config: CAHPConfig | None = None,
    *,
    loss: Loss | None = None,
) -> HeadSelection:
    """Selects the attention heads to keep by Complementary Attention Head Pruning (arXiv 2606.19150).

    All heads are observed over the data and compared, laid out in a plane, clustered for every number of clusters;
    the knee of the silhouette curve gives the number, and each cluster keeps its most salient head. The model is
    unchanged.

    Heads are compared by how they tell classes apart (the paper: signatures of labelled classes;
    ``conditioning="prediction"``: of the classes that the model predicts), or, with ``conditioning="none"``, by their
    attention itself, which needs no classes: language models, encoder-decoders, anything with a loss.

    Args:
        model: A model of a supported architecture, pruned before or not; for the paper's method a fine-tuned sequence
            or image classifier.
        dataloader: The training set: any iterable of dict batches, such as a ``torch.utils.data.DataLoader``, with
            ``input_ids`` and ``attention_mask`` (right or left padding), or ``pixel_values``, or ``input_features``,
            what else the model takes, and ``labels``: integers of shape ``(batch,)`` where classes are compared,
            labels of tokens (-100 where there is none) for language models, from which decoder inputs are made too. It
            is walked through twice: once to check it, once with the model. An iterator is read into memory.
        config: Settings; the paper's by default.
        loss: ``loss(output, inputs, labels)`` -> loss of each example, shape ``(batch,)``, that the salience is
            measured by. Without it: cross-entropy of classes to the labels or, without labels, the predictions; of
            tokens for language models. An example's loss must not depend on the others of its batch.

    Returns:
        The selection; ``print`` it, or hand it to :class:`cahp_plugin.CAHPImportance`.

    Raises:
        DataError: The data can't be used (empty, one class, labels out of range, not a number...).
        UnsupportedModelError: The architecture is unknown, or the model gives no logits that the settings can use.
        ConfigError: A setting contradicts the model.

    Example:
        >>> selection = select_heads(model, dataloader, CAHPConfig(polynomial_degree=6, seed=0))  # doctest: +SKIP
        >>> selection.kept.heads[0]  # doctest: +SKIP
        (1, 4, 7)
    """
    config = CAHPConfig() if config is None else config
    layers = attention_layers(model)
    units = [(layer.index, unit) for layer in layers for unit in layer.units]
    if not units:
        raise UnsupportedModelError("The model has no attention head left to select from.")
    sizes = {len(unit) for _, unit in units}
    if len(sizes) > 1:
        raise UnsupportedModelError(
            f"Key and value heads are shared by {' and '.join(map(str, sorted(sizes)))} query heads in different "
            "layers; one number for all is supported."
        )
    heads, group_size = [(layer, unit[0]) for layer, unit in units], sizes.pop()
    try:
        wanted_rows(config, heads, group_size)  # the data are not read for what can't be had
    except SelectionError as error:
        raise ConfigError(str(error)) from error
    batches = prepare_batches(dataloader, model, config.conditioning)
    first = next(iter(batches)).rows(torch.tensor([0]))
    width = probe(model, layers, first, config.conditioning, loss)
    if config.conditioning != "none" and config.signature_size is None:
        if batches.lengths:
            size = max(2, round(float(np.percentile(batches.lengths, config.signature_percentile))))
        else:
            size = max(2, min(width, _LARGEST_UNPADDED))
        config = dataclasses.replace(config, signature_size=size)
    _check_memory(len(units), len(batches.classes), config)
    seen = observe(
        model,
        layers,
        batches,
        size=config.signature_size or 2,
        salience_share=config.salience_share,
        conditioning=config.conditioning,
        max_queries=config.max_queries,
        loss=loss,
    )
    salience = normalize_salience(seen.salience)
    if seen.distances is not None:
        return select_from_distances(
            seen.distances, heads, salience, config, num_examples=batches.num_examples, group_size=group_size
        )
    assert seen.mean is not None and seen.variance is not None  # there are classes
    _check_memory(len(units), len(seen.classes), config)
    separation = separation_matrix(seen.mean, seen.variance, variance_floor=config.variance_floor)
    return select_from_separation(
        separation, heads, salience, config, num_examples=batches.num_examples, group_size=group_size
    )


def _check_memory(count: int, classes: int, config: CAHPConfig) -> None:
    """X grows with the square of the number of classes: a thousand need terabytes."""
    size = config.signature_size or 0
    needed = 4 * count * size * size * classes * (classes - 1) // 2
    available = psutil.virtual_memory().total
    if needed > available:
        raise DataError(
            f"Comparing {classes} classes pair by pair at {size} x {size} cells takes {needed / 2**30:,.0f} GiB for "
            f"{count} heads; this machine has {available / 2**30:,.0f} GiB. Use examples of fewer classes, a smaller "
            '`signature_size`, or `conditioning="none"`, which compares heads without classes.'
        )
