"""Recovery by distillation: training towards the dense model's outputs, with or without labels."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from cahp_plugin.errors import ConfigError, DataError
from cahp_plugin.recover.finetune import FinetuneResult, finetune
from cahp_plugin.recover.state import in_fp32
from cahp_plugin.tasks import Examples
from cahp_plugin.units.state import call_options, kept_state, switched_off


def distill(
    model: Any,
    dense: Any,
    examples: Examples,
    *,
    temperature: float = 2.0,
    label_share: float = 0.0,
    hidden_share: float = 10.0,
    epochs: float = 1,
    learning_rate: float = 1e-4,
    **settings: Any,
) -> FinetuneResult:
    """Trains a pruned model in place towards the dense model's outputs (Hinton et al. 2015).

    The loss is the task's divergence from the dense model's outputs: Kullback-Leibler of classes, tokens or spans,
    softened by the temperature T and multiplied by its square; 1 less the cosine of features. Nothing is dropped out:
    what the dense model gives is no noisy label, and the pruned model is to give the same.

    Args:
        model: The pruned model.
        dense: The model before pruning, on the same device; unchanged.
        examples: Training set, from :func:`cahp_plugin.tasks.encode`; labels are needed for ``label_share`` only.
        temperature: T, what both models' scores are divided by.
        label_share: What the task's own loss counts, in [0, 1]; the divergence counts the rest.
        hidden_share: What is added of the hidden states: the squared distance behind each layer over the dense
            model's square, the mean over tokens and layers; nothing where a model has no hidden states to give.
        epochs: As for :func:`cahp_plugin.finetune`.
        learning_rate: As for :func:`cahp_plugin.finetune`.
        **settings: More of its arguments.

    Returns:
        Steps, loss and seconds. The model is left in eval mode.

    Raises:
        ConfigError: A number is out of its range, or the dense model has other outputs or another vocabulary.
        DataError: The training set is empty, or has no labels for ``label_share``.
        CAHPError: The loss became NaN or infinite.
    """
    if not (temperature > 0 and 0 <= label_share <= 1 and hidden_share >= 0):
        raise ConfigError(
            "`temperature` must be above 0, `label_share` in [0, 1] and `hidden_share` at least 0; got "
            f"{temperature}, {label_share}, {hidden_share}."
        )
    if label_share and not examples.labelled:
        raise DataError("`label_share` is above 0, and the training set has no labels.")
    _check_teacher(model, dense)
    task, more = examples.task, {"output_hidden_states": True} if hidden_share else {}
    options = call_options(type(dense))

    def loss(model: Any, inputs: Any, labels: Any) -> tuple[Tensor, Any]:
        ours = model(**inputs, **more)
        with torch.no_grad():
            theirs = dense(**inputs, **more, **options)
        softened = (_divided(output, temperature) for output in (ours, theirs))
        found = temperature**2 * task.divergence(*softened, inputs, labels).mean()
        if label_share:
            found = (1 - label_share) * found + label_share * task.losses(ours, inputs, labels).mean()
        if hidden_share:
            found = found + hidden_share * _apart(ours, theirs, inputs).to(found.device)
        return found, ours

    with kept_state(dense), in_fp32(dense), switched_off(_dropouts(model)):
        dense.eval()
        return finetune(model, examples, epochs=epochs, learning_rate=learning_rate, loss=loss, **settings)


def _dropouts(model: nn.Module) -> list[tuple[Any, str]]:
    """All rates of dropout: of modules, and those that a model hands to functions itself."""
    return [
        (module, name)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, float) and ("drop" in name or (name == "p" and isinstance(module, _DropoutNd)))
    ]


def _check_teacher(model: Any, dense: Any) -> None:
    """Raises where two models' outputs can't be compared."""
    for name in ("num_labels", "vocab_size", "hidden_size"):
        ours, theirs = (getattr(one.config, name, None) for one in (model, dense))
        if ours != theirs:
            raise ConfigError(
                f"The dense model has `{name}` {theirs}, the pruned one {ours}: it can't be its teacher."
            )
    if model.config.num_labels > 1 and model.config.id2label != dense.config.id2label:
        raise ConfigError("The dense model's labels have other names, or another order, than the pruned one's.")


def _divided(output: Any, temperature: float) -> Any:
    """An output whose scores are divided by the temperature."""
    softened = copy.copy(output)
    for name, value in output.items():
        if "logits" in name and isinstance(value, Tensor):
            softened[name] = value / temperature
    return softened


def _apart(ours: Any, theirs: Any, inputs: Any) -> Tensor:
    """Squared distance of hidden states over the dense model's square, the mean over real tokens and layers."""
    names = [name for name in ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")
             if getattr(theirs, name, None)]  # fmt: skip
    found = []
    for name in names:
        for mine, other in zip(getattr(ours, name)[1:], getattr(theirs, name)[1:], strict=True):
            mask = inputs.get("decoder_attention_mask" if name.startswith("decoder") else "attention_mask")
            distance = (mine - other).square().sum(-1) / other.square().sum(-1).clamp_min(1e-12)
            if mask is not None and mask.shape == distance.shape:
                distance = distance[mask.bool()]
            found.append(distance.mean())
    return torch.stack(found).mean() if found else torch.zeros(())
