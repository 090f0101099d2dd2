"""``select_heads``: the method from a fine-tuned model and its training data to the heads to keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from cahp_plugin.architectures import attention_layers
from cahp_plugin.config import CAHPConfig
from cahp_plugin.errors import ConfigError, UnsupportedModelError
from cahp_plugin.method.representatives import select_from_separation
from cahp_plugin.method.salience import normalize_salience
from cahp_plugin.method.selection import HeadSelection
from cahp_plugin.method.separation import separation_matrix
from cahp_plugin.observe import PreparedBatches, observe, prepare_batches
from cahp_plugin.observe.observation import classifier_logits, frozen_eval


def select_heads(
    model: nn.Module, dataloader: Iterable[Mapping[str, Any]], config: CAHPConfig | None = None
) -> HeadSelection:
    """Selects the attention heads to keep by Complementary Attention Head Pruning (arXiv 2606.19150).

    Signatures of all heads are measured over the data, compared between classes, laid out in a plane, clustered for
    every number of clusters; the knee of the silhouette curve gives the number, and each cluster keeps its most
    salient head. The model is unchanged.

    Args:
        model: A fine-tuned sequence classifier of a supported architecture, pruned before or not.
        dataloader: The training set: any iterable of dict batches with ``input_ids``, ``attention_mask`` (right or
            left padding) and integer ``labels``, such as a ``torch.utils.data.DataLoader``. It is walked through
            twice: once to check it, once with the model. An iterator is read into memory.
        config: Settings; the paper's by default.

    Returns:
        The selection; ``print`` it, or hand it to :class:`cahp_plugin.CAHPImportance`.

    Raises:
        DataError: The data can't be used (empty, one class, labels out of range, not a number...).
        UnsupportedModelError: The architecture is unknown, or the model has no classification head.
        ConfigError: A setting contradicts the model.

    Example:
        >>> selection = select_heads(model, dataloader, CAHPConfig(polynomial_degree=6, seed=0))  # doctest: +SKIP
        >>> selection.kept[0]  # doctest: +SKIP
        (1, 4, 7)
    """
    config = CAHPConfig() if config is None else config
    layers = attention_layers(model)
    heads = [(layer.index, head) for layer in layers for head in layer.heads]
    if not heads:
        raise UnsupportedModelError("The model has no attention head left to select from.")
    _check_head_count(config, len(heads), [len(layer.heads) for layer in layers])
    batches = prepare_batches(dataloader, model)
    _check_classifier(model, batches)
    size = config.signature_size
    if size is None:
        size = max(2, round(float(np.percentile(batches.lengths, config.signature_percentile))))
        config = dataclasses.replace(config, signature_size=size)
    seen = observe(model, layers, batches, size=size, salience_share=config.salience_share)
    separation = separation_matrix(seen.mean, seen.variance, variance_floor=config.variance_floor)
    return select_from_separation(
        separation, heads, normalize_salience(seen.salience), config, num_examples=batches.num_examples
    )


def _check_head_count(config: CAHPConfig, present: int, per_layer: list[int]) -> None:
    """Finds out before the data is walked through what the selection would refuse after it."""
    if isinstance(config.num_heads, int) and config.num_heads > present:
        raise ConfigError(f"`num_heads` asks for {config.num_heads} heads; the model has {present}.")
    if config.num_heads is None:
        return
    wanted = config.num_heads if isinstance(config.num_heads, int) else config.num_heads * present
    least = sum(min(config.min_heads_per_layer, count) for count in per_layer)
    if round(wanted) < least:
        raise ConfigError(
            f"`num_heads={config.num_heads}` leaves {round(wanted)} heads, but `min_heads_per_layer="
            f"{config.min_heads_per_layer}` needs {least}. Lower `min_heads_per_layer`; 0 allows layers without heads."
        )


def _check_classifier(model: nn.Module, batches: PreparedBatches) -> None:
    """Runs a single example, so that a model without a classification head is told before the long walk."""
    example = next(iter(batches)).rows(torch.tensor([0]))
    with torch.inference_mode(), frozen_eval(model):
        classifier_logits(model(**example.inputs_on(next(model.parameters()).device)), 1)
