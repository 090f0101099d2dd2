"""Distillation: what its loss is, and that it needs no labels."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from tiny import model_inputs, tiny_model
from words import encoded_words

from cahp_plugin import CAHPImportance, CAHPPruner, finetune
from cahp_plugin.errors import CAHPError, ConfigError, DataError
from cahp_plugin.recover.distill import distill
from cahp_plugin.tasks.evaluation import TorchRunner, mean_divergence


def pruned_and_dense(seed=0):
    torch.manual_seed(seed)
    dense = tiny_model()
    model = copy.deepcopy(dense)
    CAHPPruner(model, model_inputs(), importance=CAHPImportance({0: (1,), 1: (0, 2)})).step()
    return model, dense


def unlabelled(examples):
    """The same examples, batches of which hold no labels."""
    collate = examples.collate
    without = dataclasses.replace(
        examples, collate=lambda rows: {name: value for name, value in collate(rows).items() if name != "labels"}
    )
    return dataclasses.replace(without, labelled=False)


def apart(model, dense, examples):
    with torch.no_grad():
        return mean_divergence(TorchRunner(model), TorchRunner(dense), examples)


@pytest.mark.parametrize("hidden_share", [0.0, 0.5])
def test_outputs_come_nearer_to_the_dense_models_without_labels(hidden_share):
    model, dense = pruned_and_dense()
    examples = encoded_words(dense)
    before, weights = apart(model, dense, examples), copy.deepcopy(dense.state_dict())
    result = distill(
        model, dense, unlabelled(examples), epochs=10, learning_rate=1e-3, batch_size=8, hidden_share=hidden_share
    )
    assert apart(model, dense, examples) < 0.5 * before and result.steps == 80
    assert all(torch.equal(value, weights[name]) for name, value in dense.state_dict().items())


@pytest.mark.parametrize(
    ("temperature", "label_share", "hidden_share"),
    [(1.0, 0.0, 0.0), (3.0, 0.0, 0.0), (2.0, 0.25, 0.0), (1.0, 0.0, 5.0)],
)
def test_the_loss_is_the_divergence_of_softened_classes_and_the_labels(temperature, label_share, hidden_share):
    """One step on all examples at once, held against scipy."""
    model, dense = pruned_and_dense()
    rates = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert min(rates) > 0  # and yet nothing is dropped out
    examples = encoded_words(dense)
    batch = examples.batch(range(len(examples)))
    labels = batch.pop("labels").numpy()
    with torch.no_grad():
        found = [one(**batch, output_hidden_states=True) for one in (model, dense)]
    ours, theirs = (output.logits.double().numpy() for output in found)
    mask = batch["attention_mask"].bool()
    apart = [
        float(((mine - other).square().sum(-1) / other.square().sum(-1))[mask].mean())
        for mine, other in zip(*(output.hidden_states[1:] for output in found), strict=True)
    ]
    p, q = (log_softmax(values / temperature, axis=1) for values in (theirs, ours))
    expected = temperature**2 * (np.exp(p) * (p - q)).sum(1).mean()
    right = -log_softmax(ours, axis=1)[np.arange(len(labels)), labels].mean()
    result = distill(
        model, dense, examples, epochs=1, batch_size=len(examples), temperature=temperature, label_share=label_share,
        hidden_share=hidden_share,
    )  # fmt: skip
    assert result.steps == 1
    assert [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)] == rates
    outputs = (1 - label_share) * expected + label_share * right
    assert result.train_loss == pytest.approx(outputs + hidden_share * np.mean(apart), rel=1e-4)


def test_a_teacher_of_other_labels_is_refused():
    model, dense = pruned_and_dense()
    examples = encoded_words(dense)
    dense.config.id2label = {0: "other", **{index: str(index) for index in range(1, dense.config.num_labels)}}
    with pytest.raises(ConfigError, match="labels have other names"):
        distill(model, dense, examples)
    with pytest.raises(ConfigError, match="`num_labels` 7"):
        distill(model, tiny_model(num_labels=7), examples)
    for bad in ({"temperature": 0}, {"label_share": 2}, {"hidden_share": -1}):
        with pytest.raises(ConfigError, match="`temperature` must be above 0"):
            distill(*pruned_and_dense(), examples, **bad)
    with pytest.raises(DataError, match="has no labels"):
        distill(*pruned_and_dense(), unlabelled(examples), label_share=0.5)
    with pytest.raises(DataError, match="has no labels to train on"):
        finetune(model, unlabelled(examples))


def test_a_loss_that_is_not_finite_ends_it():
    model, dense = pruned_and_dense()
    with torch.no_grad():
        next(dense.parameters()).fill_(float("nan"))
    with pytest.raises(CAHPError, match="training loss is nan"):
        distill(model, dense, encoded_words(model), epochs=1)
