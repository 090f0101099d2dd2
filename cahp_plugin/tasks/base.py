"""What a task is: how rows become batches, what the loss is, which number is reported, how outputs are compared."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from cahp_plugin.data.columns import TEXT_COLUMNS, Columns
from cahp_plugin.errors import ConfigError, DataError, UnsupportedModelError
from cahp_plugin.tasks.metrics import Metric, metric_named
from cahp_plugin.tasks.processors import load_processor

if TYPE_CHECKING:
    from cahp_plugin.tasks.examples import Examples

BATCH = {0: "batch_size"}
TOKENS = {0: "batch_size", 1: "sequence_length"}
TARGETS = {0: "batch_size", 1: "decoder_sequence_length"}


@dataclasses.dataclass(frozen=True)
class Options:
    """How rows are read.

    Attributes:
        text_columns: Columns of the input; found by their usual names without it.
        label_column: Column of what is to be predicted; found without it.
        max_length: Tokens of an example at most; the model's limit without it.
        labelled: Whether what is to be predicted has to be there.
    """

    text_columns: Sequence[str] | None = None
    label_column: str | None = None
    max_length: int | None = None
    labelled: bool = True


class Task(abc.ABC):
    """One task. A subclass a file, and an instance of it in the table of ``tasks/registry.py``.

    Attributes:
        name: Its name, for ``--task`` and in reports; where it can be exported, Optimum's.
        about: What is done, in a few words.
        auto: The ``Auto`` class of transformers that loads its models.
        processor: The one that loads what makes their inputs.
        suffixes: Endings of the class names of the models that do it.
        main_input: Name of the models' first input.
        text_columns: Usual names of the input columns, tried in this order.
        label_columns: Usual names of the column that is to be predicted.
        labelled: Whether there has to be such a column.
        conditioning: What heads are compared by where the settings leave it open.
        classes_of: What has a class, where the data have any.
        metrics: Names of the numbers that are reported; the first is the task's.
        more_metrics: Names of others that can be asked for.
        compared: What the divergence of two models' outputs is taken over.
        outputs: Output of the exported graph -> its dynamic axes.
        optimum: Optimum's name of the task.
        two_graphs: Whether encoder and decoder are a graph each; the outputs are the decoder's.
        own_loss: Whether the model itself makes the loss from ``labels``.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    auto: ClassVar[str]
    processor: ClassVar[str] = "AutoTokenizer"
    suffixes: ClassVar[tuple[str, ...]]
    main_input: ClassVar[str] = "input_ids"
    text_columns: ClassVar[tuple[tuple[str, ...], ...]] = TEXT_COLUMNS
    label_columns: ClassVar[tuple[str, ...]] = ()
    labelled: ClassVar[bool] = True
    conditioning: ClassVar[Literal["label", "prediction", "none"]] = "none"
    classes_of: ClassVar[Literal["examples", "tokens", "labels"]] = "examples"
    metrics: ClassVar[tuple[str, ...]]
    more_metrics: ClassVar[tuple[str, ...]] = ()
    compared: ClassVar[str]
    outputs: ClassVar[dict[str, dict[int, str]]]
    optimum: ClassVar[str]
    two_graphs: ClassVar[bool] = False
    own_loss: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        cls.optimum = cls.__dict__.get("optimum", getattr(cls, "name", ""))

    # How a model is recognised.

    def fits(self, class_name: str, config: Any) -> bool:
        """Whether models of a class and config do this task; tasks before it in the table were asked first."""
        return class_name.endswith(self.suffixes)

    def of(self, model: Any) -> Task:
        """The task as a model does it."""
        return self

    def settle(self, model: Any) -> None:
        """Checks that a model can do the task, and notes it in the config where that leaves it open.

        Raises:
            UnsupportedModelError: It has no such head.
        """
        if not any(cls.__name__.endswith(self.suffixes) for cls in type(model).__mro__):
            raise UnsupportedModelError(
                f"{type(model).__name__} has no head for {self.name}. Load the checkpoint with `{self.auto}` and "
                "train its head first, or leave `task` out: the model's class tells it."
            )

    # How it is fed.

    def load_processor(self, name: str) -> Any:
        """Loads what makes a model's inputs: the tokenizer, or the processor of images or speech.

        Raises:
            CheckpointError: There is none.
        """
        return load_processor(name, self.processor)

    def encode(self, data: Any, model: Any, processor: Any, options: Options) -> Examples:
        """Makes examples of rows.

        Args:
            data: A ``datasets.Dataset``.
            model: The model: its positions bound the length, its classes the labels.
            processor: From :meth:`load_processor`.
            options: How rows are read.

        Raises:
            DataError: A row can't be used; the message names it.
        """
        raise self.unfed()

    def unfed(self) -> UnsupportedModelError:
        """The error of a task whose models no command feeds."""
        return UnsupportedModelError(
            f"Models for {self.name} can be exported; no command feeds them. Select with `select_heads` and prune "
            "with `CAHPPruner` in Python."
        )

    def columns(self, data: Any, options: Options) -> Columns:
        """The columns of a data set that the task reads, by the names that are given or by their usual ones.

        A decoder reads what is to be predicted: there it has to be a column even if ``options`` do without labels.

        Raises:
            DataError: One is missing, or there are too few or too many; the message lists the columns there are.
        """
        names = list(data.column_names)
        there = f"the columns are {', '.join(names) or 'none'}"
        text = options.text_columns or next((usual for usual in self.text_columns if set(usual) <= set(names)), ())
        if not text:
            what = self.text_columns[0][0] if self.text_columns[0][0] in ("image", "audio") else "text"
            told = f"No {what} column with a usual name was found; {there}."
            raise DataError(f"{told} Name it with `text_columns`.")
        allowed = sorted({len(usual) for usual in self.text_columns})
        if len(text) not in allowed:
            counts = " or ".join(map(str, allowed))
            raise DataError(f"The number of input columns must be {counts}, got {len(text)}: {list(text)}.")
        label = options.label_column or next((usual for usual in self.label_columns if usual in names), "")
        if self.labelled and (options.labelled or self.two_graphs) and not label:
            told = f"No label column with a usual name was found; {there}."
            raise DataError(f"{told} Name it with `label_column`.")
        missing = [name for name in (*text, label) if name and name not in names]
        if missing:
            raise DataError(f"Missing column {', '.join(missing)}; {there}.")
        return Columns(tuple(text), label)

    def needs_targets(self, examples: Examples) -> bool:
        """Whether the labels are outputs of the dense model, which are to be made before it is pruned."""
        return False

    def target(self, output: Any, inputs: Mapping[str, Any]) -> Tensor:
        """What the dense model's output is as a label, ``(batch, ...)``."""
        raise NotImplementedError

    def save_beside(self, folder: Path) -> None:  # noqa: B027 - most tasks read nothing else
        """Writes what the task reads beside a model into a folder."""

    # What its outputs are worth.

    @abc.abstractmethod
    def losses(self, output: Any, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """Loss of each example, ``(batch,)``; without labels that of the model's own predictions where it can."""

    def salience_losses(self, output: Any, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """What the heads' salience is the gradient of; the loss, for nearly all tasks."""
        return self.losses(output, inputs, labels)

    def weights(self, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """What each example's loss counts in the mean over a data set, ``(batch,)``: its tokens, or 1."""
        return torch.ones(len(inputs[self.main_input]))

    def outcomes(self, output: Any, features: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any]) -> list[Any]:
        """What the model predicts for each example of a batch, on the CPU; plain values."""
        return [None] * len(features)

    def predictions(self, examples: Examples, outcomes: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Predictions and references of all rows, as the metrics take them, from the outcomes of the examples."""
        found: list[Any] = [None] * len(examples.references)
        for row, outcome in zip(examples.rows, outcomes, strict=True):
            found[row] = outcome
        return found, list(examples.references)

    @abc.abstractmethod
    def divergence(self, ours: Any, theirs: Any, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """How far one model's outputs are from another's, for each example, ``(batch,)``; see ``compared``."""

    def metrics_of(self, examples: Examples) -> tuple[str, ...]:
        """The numbers that these examples allow."""
        return self.metrics

    def chosen_metrics(self, examples: Examples, asked: str | None) -> list[Metric]:
        """The metrics to report: the one asked for, then the task's.

        Raises:
            ConfigError: The task does not have it.
        """
        names = list(self.metrics_of(examples))
        if asked is not None:
            known = (*names, *self.more_metrics)
            if ":" not in asked and asked not in known:
                raise ConfigError(
                    f"`metric` is {asked!r}; {self.name} has {', '.join(known)}, or one of your own: module:function."
                )
            names = [asked, *(name for name in names if name != asked)]
        return [metric_named(name) for name in names]


def real_tokens(inputs: Mapping[str, Any]) -> Tensor:
    """Real tokens of a batch, bool of shape ``(batch, tokens)``."""
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def first_tokens(inputs: Mapping[str, Any]) -> Tensor:
    """Place of the first real token of each text, ``(batch,)``: above 0 where the padding is on the left."""
    return real_tokens(inputs).int().argmax(dim=1)
