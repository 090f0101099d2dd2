"""Complementary Attention Head Pruning as a selector, and ``select_heads``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from cahp_plugin.config import CAHPConfig
from cahp_plugin.errors import ConfigError, SelectionError
from cahp_plugin.observe.objective import Loss
from cahp_plugin.processes import processes
from cahp_plugin.selectors.base import Fitted, Needs, Selector, View
from cahp_plugin.selectors.cahp.evidence import Evidence
from cahp_plugin.selectors.cahp.representatives import select
from cahp_plugin.selectors.cahp.selection import HeadSelection
from cahp_plugin.units import KeptSet


class FittedEvidence(Fitted):
    """CAHP's steps 3 to 8, on evidence.

    Args:
        evidence: What was measured.
        changes: Settings that differ from the evidence's.
    """

    def __init__(self, evidence: Evidence, **changes: Any) -> None:
        self.evidence = dataclasses.replace(evidence, config=dataclasses.replace(evidence.config, **changes))

    def select(self, num_heads: int | float | None = None) -> HeadSelection:
        """Chooses heads, and says how; the knee gives their number where none is asked for."""
        config = self.evidence.config
        if num_heads is not None:
            units = self.evidence.units
            config = dataclasses.replace(config, num_heads=units.count(num_heads) * units.group_size)
        # Once, and not in each process: t-SNE on another processor may differ in the last bit.
        return processes().share(lambda: select(dataclasses.replace(self.evidence, config=config)))

    def keep(self, num_heads: int | float) -> KeptSet:
        """See the base class."""
        return self.select(num_heads).kept


class Complementary(Selector):
    """Complementary Attention Head Pruning (arXiv 2606.19150)."""

    name = "cahp"
    needs = Needs.DATA | Needs.EVIDENCE
    seeded = True

    def _fit(self, view: View, seed: int) -> FittedEvidence:
        return FittedEvidence(view.evidence, seed=seed)


class Medoid(Complementary):
    """CAHP, with each cluster's medoid in place of its most salient head."""

    name = "medoid"

    def _fit(self, view: View, seed: int) -> FittedEvidence:
        return FittedEvidence(view.evidence, seed=seed, representative="medoid")


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
    attention itself, which needs no classes. The default takes what the model's task says: labels for classes of
    examples and of tokens and for sets of labels; ``"none"`` for language models, encoder-decoders, regression,
    question answering and embeddings.

    Args:
        model: A model of a supported architecture, pruned before or not; for the paper's method a fine-tuned sequence
            or image classifier.
        dataloader: The training set: any iterable of dict batches, such as a ``torch.utils.data.DataLoader``, with
            ``input_ids`` and ``attention_mask`` (right or left padding), or ``pixel_values``, or ``input_features``,
            what else the model takes, and ``labels``: integers of shape ``(batch,)`` where classes of examples are
            compared, 0 or 1 of shape ``(batch, labels)`` for sets of labels, labels of tokens (-100 where there is
            none) for classes of tokens and language models, from which decoder inputs are made too. It
            is walked through twice: once to check it, once with the model. An iterator is read into memory.
        config: Settings; the paper's by default.
        loss: ``loss(output, inputs, labels)`` -> loss of each example, shape ``(batch,)``, that the salience is
            measured by. Without it, that of the model's task (:mod:`cahp_plugin.tasks`): cross-entropy of classes to
            the labels or, without labels, the predictions; of tokens for language models... An example's loss must
            not depend on the others of its batch.

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
    view = View(model, dataloader, config, loss=loss)
    if view.config.num_heads is not None:
        try:
            view.units.count(view.config.num_heads)  # the data are not read for what can't be had
        except SelectionError as error:
            raise ConfigError(str(error)) from error
    selector = Complementary()
    view.check(selector)
    return selector._fit(view, view.config.seed).select()
