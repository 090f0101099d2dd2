"""Pruning in the manner of Optimum's quantizers: load, prune into a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cahp_plugin.config import CAHPConfig, PlanSettings
from cahp_plugin.cost.budget import Budget
from cahp_plugin.data import load_examples
from cahp_plugin.errors import ConfigError, DataError
from cahp_plugin.prune import check_output_directory
from cahp_plugin.recover import RecoverySettings
from cahp_plugin.workflow import PruneReport, load_model, prune_model

if TYPE_CHECKING:
    from typing_extensions import Self

_EVALUATION_SPLITS = ("validation", "validation_matched", "test")


class _Loaded:
    """A fine-tuned model, of any task of ``cahp_plugin.tasks.TASKS``, that is to be pruned.

    Args:
        model: The model; pruned in place.
        processor: Its tokenizer, or its processor of images or speech.
        task: Name of its task; the model's class tells it.

    Attributes:
        report: What the last :meth:`prune` did; ``None`` before.
    """

    def __init__(self, model: Any, processor: Any, task: str | None = None) -> None:
        self.model = model
        self.processor = processor
        self.task = task
        self.report: PruneReport | None = None

    @classmethod
    def from_pretrained(cls, model_name_or_path: str | os.PathLike[str], task: str | None = None) -> Self:
        """Loads a model, pruned before or not, and its tokenizer or processor.

        Args:
            model_name_or_path: Folder or Hub id.
            task: Name of its task; the model's class tells it.

        Raises:
            CheckpointError: There is no such checkpoint, or it has no tokenizer or processor.
            ConfigError: There is no such task.
            UnsupportedModelError: The model can't do it.
        """
        return cls(*load_model(os.fspath(model_name_or_path), task=task), task=task)

    def _prune(self, save_dir: str | os.PathLike[str], dataset: Any, eval_dataset: Any, **options: Any) -> Any:
        named = [data for data in (dataset, eval_dataset) if isinstance(data, (str, os.PathLike))]
        check_output_directory(save_dir, overwrite=options["overwrite"], inputs=named)
        train, evaluation = _train_and_evaluation(dataset, eval_dataset)
        options |= {"task": self.task, "output_dir": save_dir}
        self.report = prune_model(self.model, self.processor, train, evaluation, **options)
        return self.model


class HeadPruner(_Loaded):
    """Prunes the attention heads of a fine-tuned model by the paper's method; see :class:`Pruner` for budgets."""

    def prune(
        self,
        config: CAHPConfig | None = None,
        *,
        save_dir: str | os.PathLike[str],
        dataset: Any,
        eval_dataset: Any = None,
        metric: str | None = None,
        recovery: RecoverySettings | None = None,
        text_columns: Sequence[str] | None = None,
        label_column: str | None = None,
        max_length: int | None = None,
        overwrite: bool = False,
        figures: bool = True,
    ) -> Any:
        """Selects heads, removes them, fine-tunes, saves, reloads and compares.

        Args:
            config: Settings of the method; the paper's by default.
            save_dir: Folder for the pruned checkpoint, its report and figures.
            dataset: Training examples: a ``Dataset``, streaming or not, a ``DatasetDict`` (its ``train``), a file, a
                Hub data set id, or a list of texts or rows.
            eval_dataset: Evaluation examples likewise; without it the ``DatasetDict``'s ``validation`` or ``test``,
                or else a tenth of the training examples, held out.
            metric: A number to report besides the task's own: a name that the task has, or ``module:function``.
            recovery: Fine-tuning after pruning; the paper's by default.
            text_columns: Columns of the input; found by their usual names without it.
            label_column: Column of what is to be predicted; found without it.
            max_length: Tokens of an example at most; the model's own limit without it.
            overwrite: Whether a non-empty ``save_dir`` is replaced.
            figures: Whether pictures of the selection are drawn.

        Returns:
            The pruned model, in eval mode; ``report`` says what was done.

        Raises:
            ConfigError: The task does not have the metric.
            DataError: The data can't be used.
            UnsupportedModelError: The model can't.
            CheckpointError: The folder is not empty, or holds the model or the data, or the saved copy does not agree
                with the model.
        """
        return self._prune(
            save_dir,
            dataset,
            eval_dataset,
            config=config,
            metric=metric,
            recovery=recovery,
            text_columns=text_columns,
            label_column=label_column,
            max_length=max_length,
            overwrite=overwrite,
            figures=figures,
        )


class Pruner(_Loaded):
    """Makes a fine-tuned model smaller under a budget: heads and neurons, repaired without training or labels."""

    def prune(
        self,
        budget: Budget,
        *,
        save_dir: str | os.PathLike[str],
        dataset: Any,
        eval_dataset: Any = None,
        certify: Any = None,
        confidence: float = 0.95,
        group_column: str | None = None,
        plan: Any = None,
        planning: PlanSettings | None = None,
        metric: str | None = None,
        recovery: RecoverySettings | None = None,
        seed: int = 0,
        text_columns: Sequence[str] | None = None,
        label_column: str | None = None,
        max_length: int | None = None,
        overwrite: bool = False,
        figures: bool = True,
    ) -> Any:
        """Chooses what stays under a budget, removes the rest, repairs, saves, reloads and compares.

        Args:
            budget: What the model may cost, or may lose.
            save_dir: As for :meth:`HeadPruner.prune`.
            dataset: As for :meth:`HeadPruner.prune`; labels are not needed.
            eval_dataset: Evaluation examples likewise; without it the ``DatasetDict``'s ``validation`` or ``test``,
                or a tenth of the training examples where these have labels; else nothing is evaluated.
            certify: For ``max_drop``: examples that nothing else has touched, to certify it on; see
                :func:`cahp_plugin.prune_model`.
            confidence: Of the certificate.
            group_column: Column of ``certify`` whose values are the same for rows that belong together.
            plan: A plan of this model and these examples, or its folder; made without it.
            planning: How the plan is made and bettered.
            metric: As for :meth:`HeadPruner.prune`.
            recovery: Least squares by default.
            seed: Seed of the draw of the calibration examples.
            text_columns: As for :meth:`HeadPruner.prune`.
            label_column: As for :meth:`HeadPruner.prune`.
            max_length: As for :meth:`HeadPruner.prune`.
            overwrite: As for :meth:`HeadPruner.prune`.
            figures: Whether pictures are drawn.

        Returns:
            The pruned model, in eval mode; ``report`` says what was done.

        Raises:
            BudgetError: The budget can't be met.
            ConfigError: ``budget`` is none.
            CAHPError: As :meth:`HeadPruner.prune`.
        """
        if not isinstance(budget, Budget):
            raise ConfigError(f"`budget` must be a Budget, such as Budget(macs=0.6); got {budget!r}.")
        return self._prune(
            save_dir,
            dataset,
            eval_dataset,
            config=CAHPConfig(seed=seed),
            budget=budget,
            certify=certify,
            confidence=confidence,
            group_column=group_column,
            plan=plan,
            planning=planning,
            metric=metric,
            recovery=recovery,
            text_columns=text_columns,
            label_column=label_column,
            max_length=max_length,
            overwrite=overwrite,
            figures=figures,
        )


def _train_and_evaluation(dataset: Any, eval_dataset: Any) -> tuple[Any, Any]:
    splits = dataset if isinstance(dataset, Mapping) else None
    if splits is not None and "train" not in splits:
        raise DataError(f"The data set has no split `train`; it has {', '.join(splits)}.")
    train = splits["train"] if splits is not None else _loaded(dataset)
    if eval_dataset is not None:
        return train, _loaded(eval_dataset)
    if splits is not None:
        for name in _EVALUATION_SPLITS:
            if name in splits:
                return train, splits[name]
    return train, None  # a tenth is held out


def _loaded(dataset: Any) -> Any:
    return load_examples(os.fspath(dataset)) if isinstance(dataset, (str, os.PathLike)) else dataset
