import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import model_inputs, tiny_batches, tiny_model
from transformers import TrainerCallback
from words import tiny_tokenizer, word_examples

from cahp_plugin import CAHPImportance, CAHPPruner, finetune
from cahp_plugin.data import Columns, encode, make_dataloader
from cahp_plugin.errors import CAHPError, ConfigError, DataError
from cahp_plugin.recover import evaluate_classifier


def encoded(model, count=60):
    return encode(Dataset.from_list(word_examples(count)), Columns(("text",), "label"), tiny_tokenizer(), model)


def train(model, **options):
    return finetune(model, encoded(model), tiny_tokenizer(), **({"learning_rate": 1e-3, "batch_size": 8} | options))


def test_a_pruned_model_learns_and_stays_pruned():
    model = tiny_model()
    CAHPPruner(model, model_inputs(), importance=CAHPImportance({0: (1,), 1: ()})).step()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    loader = make_dataloader(encoded(model), tiny_tokenizer())
    before = evaluate_classifier(model, loader)
    result = train(model, epochs=10, learning_rate=3e-3)
    after = evaluate_classifier(model, loader)
    assert after.accuracy > max(before.accuracy, 0.8) and after.loss < before.loss
    assert result.steps == 80 and result.seconds > 0 and np.isfinite(result.train_loss)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    assert not model.training


def test_the_schedule_is_the_papers():
    rates = []

    class Rates(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer=None, **kwargs):
            rates.append(optimizer.param_groups[0]["lr"])
            assert (
                isinstance(optimizer.optimizer, torch.optim.AdamW)
                and args.weight_decay == 0.01
                and args.max_grad_norm == 1.0
            )

    train(tiny_model(), epochs=5, learning_rate=1e-3, callbacks=[Rates()])
    assert len(rates) == 40  # 60 examples in batches of 8, five times
    peak = int(np.argmax(rates))
    assert max(rates) == pytest.approx(1e-3) and peak in (3, 4)  # 10 % of 40 steps
    differences = np.diff(rates[peak:])
    np.testing.assert_allclose(differences, differences[0], rtol=1e-6)  # a straight line down


def test_the_same_seed_gives_the_same_weights():
    models = [tiny_model() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        train(model, epochs=1, seed=seed)
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in models]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_random_state_of_the_process_is_put_back():
    before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    train(tiny_model(), epochs=1)
    after = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_no_epochs_change_nothing():
    model = tiny_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert train(model, epochs=0).steps == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.training


def test_frozen_parameters_stay():
    model = tiny_model()
    frozen = model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    before = frozen.clone()
    train(model, epochs=1)
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, before)


def test_nothing_is_printed(capsys):
    train(tiny_model(), epochs=10, training_arguments={"logging_steps": 1})
    assert capsys.readouterr().out == ""


def test_a_loss_that_is_not_a_number_stops_the_training():
    model = tiny_model()
    model.classifier.weight.data.fill_(float("nan"))
    with pytest.raises(CAHPError, match="training loss is nan at step"):
        train(model, epochs=1, training_arguments={"logging_steps": 1})


@pytest.mark.parametrize("options", [{"epochs": -1}, {"learning_rate": 0}, {"batch_size": 0}, {"warmup_ratio": 2}])
def test_numbers_out_of_range(options):
    with pytest.raises(ConfigError, match="must be at least"):
        train(tiny_model(), **options)


def test_arguments_that_have_a_parameter():
    with pytest.raises(ConfigError, match="holds learning_rate, seed"):
        train(tiny_model(), training_arguments={"seed": 1, "learning_rate": 1.0})


def test_an_empty_training_set():
    model = tiny_model()
    with pytest.raises(DataError, match="training set is empty"):
        finetune(model, encoded(model).select([]), tiny_tokenizer())


def test_evaluation_equals_a_plain_loop():
    model = tiny_model().train()
    batches = tiny_batches(20, 8)
    found = evaluate_classifier(model, batches)
    assert model.training
    model.eval()
    with torch.no_grad():
        single = tiny_batches(20, 1)
        logits = torch.cat([model(**{k: v for k, v in b.items() if k != "labels"}).logits for b in single])
    labels = torch.cat([batch["labels"] for batch in single])
    assert found.predictions == tuple(logits.argmax(dim=1).tolist())
    assert found.accuracy == pytest.approx((logits.argmax(dim=1) == labels).float().mean().item())
    assert found.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert found.num_examples == 20
    with pytest.raises(DataError, match="empty"):
        evaluate_classifier(model, [])
