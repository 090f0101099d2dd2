"""What every way of choosing heads has: what it needs to see, a fit, and then a kept set of any size."""

from __future__ import annotations

import abc
import dataclasses
import enum
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import psutil
import torch
from torch import nn

from cahp_plugin._compat import package_versions
from cahp_plugin.config import CAHPConfig
from cahp_plugin.errors import ConfigError, DataError, SelectionError, UnsupportedModelError
from cahp_plugin.observe import PreparedBatches, observe, prepare_batches
from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.classes import classes_of
from cahp_plugin.observe.conditioning import Conditioning, conditioning_of
from cahp_plugin.observe.objective import Loss
from cahp_plugin.observe.observation import probe
from cahp_plugin.observe.tokens import check_token_queries
from cahp_plugin.processes import processes
from cahp_plugin.selectors.cahp.evidence import Evidence
from cahp_plugin.selectors.cahp.salience import normalize_salience
from cahp_plugin.selectors.cahp.separation import separation_matrix
from cahp_plugin.tasks import Task, known_task
from cahp_plugin.units import AttentionLayer, KeptSet, attention_layers
from cahp_plugin.units.counts import HeadUnits

Array = np.ndarray[Any, Any]
Data = Iterable[Mapping[str, Any]]
#: ``shrink(model, dense, kept, batches)``: removes what is not kept, in place, and repairs towards the dense model.
Shrink = Callable[[nn.Module, nn.Module, KeptSet, Sequence[Batch]], None]

#: Side of the signatures at most where the tokens are image patches or audio frames.
_LARGEST_UNPADDED = 32


class Needs(enum.Flag):
    """What a selector has to see."""

    NOTHING = 0
    DATA = enum.auto()  #: Batches, labelled or not.
    LABELS = enum.auto()  #: Labels: of shape ``(batch,)``; with CLASSES, of any kind.
    EVIDENCE = enum.auto()  #: What CAHP chooses by, measured in one walk for all who need it.
    CLASSES = enum.auto()  #: Evidence from classes.
    SHRINK = enum.auto()  #: A way to prune and repair a copy of the model.


def resolved(config: CAHPConfig, task: Task | None) -> CAHPConfig:
    """Settings in which what heads are compared by is no longer open: the task says it, and the paper without one."""
    if config.conditioning != "auto":
        return config
    return dataclasses.replace(config, conditioning="label" if task is None else task.conditioning)


class View:
    """What a selector may look at. What is measured for one is there for all.

    Args:
        model: The model; unchanged by every selector.
        dataloader: The training set, as :func:`cahp_plugin.select_heads` takes it.
        config: Settings of CAHP and of the observation; the paper's by default.
        loss: The caller's loss, as :func:`cahp_plugin.select_heads` takes it.
        shuffled: From a seed, and whether examples about as long share a batch, to the training set in an order drawn
            by the seed; the data loader as it is without it.
        shrink: Prunes a copy of the model and repairs it, such as ``cahp_plugin.recover.prune_and_repair``.

    Attributes:
        layers: The model's attention layers.
        units: What there is to choose among.
        kind: What has a class by the model's task: ``"examples"``, ``"tokens"`` or ``"labels"``.

    Raises:
        UnsupportedModelError: The model has no heads that can be chosen among.
    """

    def __init__(
        self,
        model: Any,
        dataloader: Data | None = None,
        config: CAHPConfig | None = None,
        *,
        loss: Loss | None = None,
        shuffled: Callable[[int, bool], Data] | None = None,
        shrink: Shrink | None = None,
    ) -> None:
        self.model = model
        task = known_task(model)
        self.config = resolved(CAHPConfig() if config is None else config, task)
        self.shrink = shrink
        self.kind = "examples" if task is None else task.classes_of
        self.layers: tuple[AttentionLayer, ...] = attention_layers(model)
        self.units = HeadUnits.of(self.layers, self.config.min_heads_per_layer)
        self.conditioning = conditioning_of(self.config.conditioning, self.kind)
        self._loss, self._shuffled = loss, shuffled
        self._prepared: dict[Conditioning, PreparedBatches] = {}
        self._data = dataloader

    def check(self, selector: Selector) -> None:
        """Makes sure that a selector can see what it needs; the model is not run.

        Raises:
            ConfigError: The settings rule it out, or data or the way to shrink are missing.
            DataError: The data can't be used.
            UnsupportedModelError: The model's weights let no gradient through.
        """
        needs, name = selector.needs, selector.name
        if processes().size > 1:
            given = {"selector": name, "settings": self.config.to_dict(), "versions": package_versions()}
            processes().check_same(given)
        if needs and self._data is None:
            raise ConfigError(f"The selector {name!r} looks at data: give a `dataloader`.")
        if Needs.CLASSES in needs and not self.conditioning.classes:
            raise ConfigError(
                f"{name} replaces the class separation, and conditioning {self.conditioning.name!r} has none. Choose "
                "with conditioning 'label', or without it."
            )
        if Needs.LABELS in needs and Needs.CLASSES not in needs and self.kind != "examples":
            raise ConfigError(
                f"The selector {name!r} takes one class for each example, and here the labels are "
                f"{'classes of tokens' if self.kind == 'tokens' else 'sets of labels'}. Choose by one of those that "
                "look at the heads themselves, such as 'cahp' or 'salience'."
            )
        if Needs.SHRINK in needs and self.shrink is None:
            raise ConfigError(
                f"The selector {name!r} prunes and repairs on its way: give `shrink`, such as "
                "cahp_plugin.recover.prune_and_repair."
            )
        if needs and any(value.is_inference() for value in self.model.parameters()):
            raise UnsupportedModelError(
                f"The selector {name!r} runs the model, and its weights were made under `torch.inference_mode`, which "
                "lets no gradient through. Load the model outside of it."
            )
        if needs & (Needs.LABELS | Needs.EVIDENCE) or (needs and not self._prepared):
            self.prepared(self.conditioning_of(needs))  # what was checked for more is not walked through again

    def conditioning_of(self, needs: Needs) -> Conditioning:
        """What is asked of the data: labels where they are needed, or what the settings compare heads by."""
        if Needs.LABELS in needs:
            return conditioning_of("label", self.kind)
        return self.conditioning if Needs.EVIDENCE in needs else conditioning_of("none", self.kind)

    @property
    def dataloader(self) -> Data:
        """The training set, to be walked through as often as needed: an iterator is read into memory."""
        assert self._data is not None  # `check` has seen to it
        if iter(self._data) is self._data:
            self._data = list(self._data)
        return self._data

    def prepared(self, conditioning: Conditioning) -> PreparedBatches:
        """The training set, checked.

        Raises:
            DataError: It can't be used.
            UnsupportedModelError: Tokens have classes, and a layer's queries are others.
        """
        if conditioning not in self._prepared:
            if conditioning.classes and conditioning.of == "tokens":
                check_token_queries(self.model, self.layers)
            self._prepared[conditioning] = prepare_batches(self.dataloader, self.model, conditioning)
            processes().check_same({"data": self._prepared[conditioning].digest})
        return self._prepared[conditioning]

    def shuffled(self, seed: int, *, by_length: bool = False) -> Data:
        """The training set in an order drawn by a seed; ``by_length`` puts examples about as long in one batch."""
        return self.dataloader if self._shuffled is None else self._shuffled(seed, by_length)

    @functools.cached_property
    def evidence(self) -> Evidence:
        """What CAHP chooses by: one walk over the training set.

        Raises:
            DataError: The data can't be used (empty, one class, labels out of range, not a number...).
            UnsupportedModelError: The model gives no logits that the settings can use, or no maps.
        """
        config, units, how = self.config, self.units, self.conditioning
        batches = self.prepared(how)
        first = next(iter(batches)).rows(torch.tensor([0]))
        width = probe(self.model, self.layers, first, how, self._loss)
        if how.classes and config.signature_size is None:
            size = min(width, _LARGEST_UNPADDED)
            if batches.lengths:
                size = round(float(np.percentile(batches.lengths, config.signature_percentile)))
            config = dataclasses.replace(config, signature_size=max(2, size))
        _check_memory(len(units.firsts), len(batches.classes), how, config)
        seen = observe(self.model, self.layers, batches, config, how, self._loss)
        separation = None
        if seen.mean is not None and seen.variance is not None:
            _check_memory(len(units.firsts), len(seen.classes), how, config)
            floor, pairs = config.variance_floor, seen.pairs
            separation = separation_matrix(seen.mean, seen.variance, variance_floor=floor, pairs=pairs)
        salience = normalize_salience(seen.salience)
        return Evidence(units, salience, config, separation, seen.distances, batches.num_examples)


def _check_memory(count: int, classes: int, how: Conditioning, config: CAHPConfig) -> None:
    """X (float32) grows with the square of the number of classes, where a thousand need terabytes.

    Its moments, the mean and variance of each group (float64), are more where few pairs are compared.
    """
    kind, size = classes_of(how), config.signature_size or 0
    some, groups = kind.pairs(classes), len(kind.groups(range(classes)))
    pairs = groups * (groups - 1) // 2 if some is None else len(some)
    needed = count * kind.cells(size) * (4 * pairs + 16 * groups)
    available = psutil.virtual_memory().total
    if needed > available:
        raise DataError(
            f"Comparing {classes} {'classes pair by pair' if some is None else 'labels'} at "
            f"{kind.cells(size) // size} x {size} cells takes {needed / 2**30:,.0f} GiB for {count} heads; this "
            f"machine has {available / 2**30:,.0f} GiB. Use examples of fewer classes, a smaller "
            '`signature_size`, or `conditioning="none"`, which compares heads without classes.'
        )


class Selector(abc.ABC):
    """One way of choosing heads. Its settings are fields of a dataclass.

    Attributes:
        name: Its name, in messages and where it is registered.
        needs: What it has to see.
        seeded: Whether it draws anything: else all seeds choose the same.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs] = Needs.NOTHING
    seeded: ClassVar[bool] = False

    def fit(self, view: View, *, seed: int | None = None) -> Fitted:
        """Looks at a model and its data.

        Args:
            view: What it may look at.
            seed: Seed of whatever is drawn; ``None`` takes that of the view's settings.

        Raises:
            ConfigError: What it needs is missing, before the model is run.
            DataError: The data can't be used.
            UnsupportedModelError: The model can't be used.
        """
        view.check(self)
        return self._fit(view, view.config.seed if seed is None else seed)

    @abc.abstractmethod
    def _fit(self, view: View, seed: int) -> Fitted: ...


class Fitted(abc.ABC):
    """A selector that has seen what it needs.

    Attributes:
        spared: Seconds that the last :meth:`keep` would have taken more if it had been the first.
    """

    spared: float = 0.0

    @abc.abstractmethod
    def keep(self, num_heads: int | float) -> KeptSet:
        """Chooses heads.

        Args:
            num_heads: How many to keep: a count, or a share in (0, 1). Where query heads share a key and value head,
                whole groups.

        Returns:
            The kept set; every layer is named.

        Raises:
            SelectionError: The number can't be had.
        """


class Ranked(Fitted):
    """Heads in an order: fewer of them are always some of more.

    Args:
        units: What there is to choose among.
        scores: Score of each unit, ``(N,)``: the best of all stay, behind the best of each layer that its minimum
            takes.

    Attributes:
        scores: As given.

    Raises:
        SelectionError: There is not one finite number for each unit.
    """

    def __init__(self, units: HeadUnits, scores: Sequence[float] | Array) -> None:
        self.units, self.scores = units, np.asarray(scores, dtype=np.float64)
        if self.scores.shape != (len(units.firsts),) or not np.isfinite(self.scores).all():
            raise SelectionError(
                f"Expected {len(units.firsts)} finite scores, one for each head or group; got {self.scores}."
            )
        self._order = units.by_score(self.scores)

    def ranking(self) -> list[tuple[int, tuple[int, ...]]]:
        """Layer and heads of each unit, the last to go first."""
        size = self.units.group_size
        return [
            (layer, tuple(range(head, head + size))) for layer, head in (self.units.firsts[i] for i in self._order)
        ]

    def keep(self, num_heads: int | float) -> KeptSet:
        """See the base class."""
        return self.units.kept(self._order[: self.units.count(num_heads)])
