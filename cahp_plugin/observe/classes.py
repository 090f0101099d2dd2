"""What has a class: examples, tokens, or the examples once for each of several labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from cahp_plugin.errors import DataError, UnsupportedModelError
from cahp_plugin.observe.conditioning import Conditioning, classifier_logits, described
from cahp_plugin.tasks.decoder_inputs import IGNORED

logger = logging.get_logger(__name__)


class ExampleClasses:
    """Each example has one class (paper): the signature is its map, and each pair of classes is compared.

    Moments are kept of groups of rows; a row is what has a label, and here each class is a group.

    Attributes:
        rows: What is counted, for messages.
    """

    rows = "examples"

    def fault(self, labels: Any, shape: torch.Size) -> str | None:
        """Says what labels should be, if they are something else.

        Args:
            labels: A batch's.
            shape: Shape of the model's main input.
        """
        right = labels.dim() == 1 and not labels.is_floating_point() and labels.dtype != torch.bool
        return None if right else "whole numbers of shape (batch,)"

    def count(self, labels: Tensor, mask: Tensor, num_labels: int, position: int) -> Tensor:
        """Counts the rows of each group in a batch.

        Args:
            labels: Labels of the batch.
            mask: Its real tokens, shape ``(batch, tokens)``.
            num_labels: Labels that the model has.
            position: Number of the batch, for messages.

        Returns:
            Int64, one number for each possible group.

        Raises:
            DataError: A label is none of the model's.
        """
        wrong = labels[(labels < 0) | (labels >= num_labels)]
        if len(wrong):
            low, high = int(wrong.min()), int(wrong.max())
            raise DataError(
                f"Batch {position} has the label {low if low < 0 else high}; the model has {num_labels} classes, "
                f"so labels go from 0 to {num_labels - 1}. Map the labels or load the model with the right "
                "`num_labels`."
            )
        return torch.bincount(labels, minlength=num_labels)

    def labelled(self, counts: Tensor) -> tuple[int, ...]:
        """The labelled classes that are compared, ascending.

        Args:
            counts: Rows of each group in all batches.

        Raises:
            DataError: There are not enough of them to be compared.
        """
        present = counts.nonzero().flatten().tolist()
        if len(present) < 2:
            raise DataError(
                f"All {int(counts.sum())} examples have the label {present[0]}. The method compares classes: it needs "
                'examples of at least two; or compare the heads themselves with `conditioning="none"`.'
            )
        scarce = [label for label in present if counts[label] < 2]
        if scarce:
            raise DataError(
                f"Class {', '.join(map(str, scarce))} has a single example. A variance takes at least two of each "
                "class: add examples or leave the class out."
            )
        return tuple(present)

    def usable(self, counts: Mapping[int, int], *, predicted: bool) -> tuple[int, ...]:
        """The classes that have a variance, ascending; of the others, a warning.

        Args:
            counts: Group -> its rows; groups without any may be left out.
            predicted: Whether the model predicts the classes; else they are labelled.

        Raises:
            DataError: There are fewer than two.
        """
        usable = tuple(label for label, count in counts.items() if count >= 2)
        if len(usable) < 2:
            told = ", ".join(f"{label} ({count})" for label, count in counts.items()) or "none"
            source = "The model predicts" if predicted else "The labels have"
            fix = 'check that the model is fine-tuned, or use `conditioning="label"` or' if predicted else "or use"
            raise DataError(
                f"{source} the classes ({self.rows}) {told}; at least two of two {self.rows} are needed to compare "
                f'classes. Give more varied examples, {fix} `conditioning="none"`.'
            )
        if len(usable) < len(counts):
            left_out = [label for label in counts if label not in usable]
            source, row = "Predicted for" if predicted else "Labels of", self.rows[:-1]
            logger.warning(f"{source} a single {row}, so without a variance, and left out: classes {left_out}.")
        return usable

    def predict(self, output: Any, mask: Tensor) -> Tensor:
        """The labels that a model's output stands for, on the CPU.

        Args:
            output: The model's output.
            mask: Real tokens, shape ``(batch, tokens)``.

        Raises:
            UnsupportedModelError: It has no logits of the right shape.
        """
        return classifier_logits(output, len(mask)).argmax(dim=1).cpu()

    def choose(self, batch_labels: Any, mask: Tensor, *, predicted: bool) -> Tensor | None:
        """Which queries' rows are looked at, bool of shape ``(batch, tokens)``; ``None`` where whole maps are."""
        return None

    def of_rows(self, labels: Tensor) -> Tensor:
        """Labels of the rows, in their order; the first axis counts rows."""
        return labels

    def dealt(self, labels: Tensor, rows: Tensor) -> Tensor:
        """Labels like those given, but with these of the rows."""
        return rows

    def present(self, labels: Tensor) -> list[int]:
        """Classes in the labels of some rows."""
        return labels.unique().tolist()

    def groups(self, classes: Sequence[int]) -> list[int]:
        """Groups of the classes."""
        return list(classes)

    def members(self, labels: Tensor, classes: Sequence[int]) -> Tensor:
        """Which rows are in which of the classes' groups: bool of shape ``(groups, rows)``."""
        return labels[None] == torch.tensor(classes)[:, None]

    def pairs(self, count: int) -> list[tuple[int, int]] | None:
        """Positions of the groups that are compared, for so many classes; ``None`` for every pair."""
        return None

    def cells(self, size: int) -> int:
        """Cells of a signature of side ``size``."""
        return size * size


class TokenClasses(ExampleClasses):
    """Each labelled token has a class: the signature is its row of the map, and each pair of classes is compared.

    Labels have the shape ``(batch, tokens)``, -100 where there is none. Predicted classes are of all real tokens.
    """

    rows = "tokens"

    def fault(self, labels: Any, shape: torch.Size) -> str | None:
        """See the base class."""
        right = labels.shape == shape and not labels.is_floating_point() and labels.dtype != torch.bool
        return None if right else f"whole numbers of shape (batch, tokens), {tuple(shape)}, -100 where there is none"

    def count(self, labels: Tensor, mask: Tensor, num_labels: int, position: int) -> Tensor:
        """See the base class."""
        if bool((labels[~mask] != IGNORED).any()):
            raise DataError(f"Batch {position} has labels at padded tokens (attention mask 0): label these -100.")
        return super().count(self.of_rows(labels), mask, num_labels, position)

    def labelled(self, counts: Tensor) -> tuple[int, ...]:
        """See the base class. Classes of a single token are left out."""
        return self.usable({label: count for label, count in enumerate(counts.tolist()) if count}, predicted=False)

    def predict(self, output: Any, mask: Tensor) -> Tensor:
        """See the base class."""
        logits = getattr(output, "logits", None)
        if not isinstance(logits, Tensor) or logits.shape[:-1] != mask.shape or logits.shape[-1] < 2:
            raise UnsupportedModelError(
                f"The model gives {described(logits)}; classes of tokens need logits of shape {(*mask.shape,)} and "
                'classes. Load it with `AutoModelForTokenClassification`, or use `conditioning="none"`.'
            )
        return logits.argmax(dim=-1).cpu().masked_fill(~mask, IGNORED)

    def choose(self, batch_labels: Any, mask: Tensor, *, predicted: bool) -> Tensor | None:
        """See the base class."""
        return mask if predicted else batch_labels != IGNORED

    def of_rows(self, labels: Tensor) -> Tensor:
        """See the base class."""
        return labels[labels != IGNORED]

    def dealt(self, labels: Tensor, rows: Tensor) -> Tensor:
        """See the base class."""
        return labels.masked_scatter(labels != IGNORED, rows)

    def cells(self, size: int) -> int:
        """See the base class."""
        return size


class LabelSets(ExampleClasses):
    """Each example has a set of labels: of each label, the examples with it are compared to those without it.

    Labels are 0 or 1, of shape ``(batch, L)``. Label l has the groups 2 l, without it, and 2 l + 1, with it. What
    other kinds call classes are the labels here.
    """

    def fault(self, labels: Any, shape: torch.Size) -> str | None:
        """See the base class."""
        return None if labels.dim() == 2 and len(labels) == shape[0] else "0 or 1 of shape (batch, labels)"

    def count(self, labels: Tensor, mask: Tensor, num_labels: int, position: int) -> Tensor:
        """See the base class."""
        if labels.shape[1] != num_labels:
            raise DataError(
                f"Batch {position}: `labels` must be 0 or 1 of shape (batch, labels) for the model's {num_labels} "
                f"labels, got shape {tuple(labels.shape)}."
            )
        wrong = labels[(labels != 0) & (labels != 1)]
        if len(wrong):
            raise DataError(
                f"Batch {position} has the label {wrong[0].item()}; where an example has several labels, each is 1 "
                "(it has it) or 0 (it has not). Leave out examples of which it is not known."
            )
        return self.members(labels, range(num_labels)).sum(dim=1)

    def labelled(self, counts: Tensor) -> tuple[int, ...]:
        """See the base class. Labels that fewer than two examples have, or have not, are left out."""
        return self.usable(dict(enumerate(counts.tolist())), predicted=False)

    def usable(self, counts: Mapping[int, int], *, predicted: bool) -> tuple[int, ...]:
        """See the base class; a single label is enough."""
        sides = {label: (counts.get(2 * label, 0), counts.get(2 * label + 1, 0)) for label in {g // 2 for g in counts}}
        usable = tuple(sorted(label for label, side in sides.items() if min(side) >= 2))
        if not usable:
            told = ", ".join(f"{label} ({with_it}, {without})" for label, (without, with_it) in sorted(sides.items()))
            raise DataError(
                f"{'The model predicts the' if predicted else 'The'} labels (examples with, without) {told}; of one "
                "at least, two examples with it and two without it are needed. Give more varied examples, or use "
                '`conditioning="none"`.'
            )
        if len(usable) < len(sides):
            left_out = sorted(set(sides) - set(usable))
            logger.warning(f"Fewer than two examples with or without it, and left out: labels {left_out}.")
        return usable

    def predict(self, output: Any, mask: Tensor) -> Tensor:
        """See the base class."""
        logits = getattr(output, "logits", None)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(mask):
            raise UnsupportedModelError(
                f"The model gives {described(logits)}; sets of labels need logits of shape ({len(mask)}, labels). "
                'Load it with `AutoModelForSequenceClassification`, or use `conditioning="none"`.'
            )
        return (logits > 0).long().cpu()

    def present(self, labels: Tensor) -> list[int]:
        """See the base class."""
        return list(range(labels.shape[1]))

    def groups(self, classes: Sequence[int]) -> list[int]:
        """See the base class."""
        return [group for label in classes for group in (2 * label, 2 * label + 1)]

    def members(self, labels: Tensor, classes: Sequence[int]) -> Tensor:
        """See the base class."""
        chosen = labels[:, list(classes)].T
        return torch.stack([chosen == 0, chosen == 1], dim=1).flatten(0, 1)

    def pairs(self, count: int) -> list[tuple[int, int]]:
        """See the base class."""
        return [(2 * label, 2 * label + 1) for label in range(count)]


_KINDS = {"examples": ExampleClasses(), "tokens": TokenClasses(), "labels": LabelSets()}


def classes_of(conditioning: Conditioning) -> ExampleClasses:
    """What a conditioning's classes are about."""
    return _KINDS[conditioning.of]
