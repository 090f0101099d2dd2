import contextlib
import copy
import os
import pickle
import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from tiny import model_inputs, tiny_model
from transformers import GPT2Config, GPT2ForSequenceClassification, TrainerCallback
from words import encoded_words, tiny_tokenizer, word_examples

from cahp_plugin import (
    CAHPConfig,
    CAHPImportance,
    CAHPPruner,
    evaluate,
    finetune,
    load_pruned,
    prune_model,
    save_pruned,
)
from cahp_plugin.errors import CAHPError, ConfigError, DataError
from cahp_plugin.recover import RecoverySettings


def train(model, **options):
    return finetune(model, encoded_words(model), **({"learning_rate": 1e-3, "batch_size": 8} | options))


def test_a_pruned_model_learns_and_stays_pruned():
    model = tiny_model()
    CAHPPruner(model, model_inputs(), importance=CAHPImportance({0: (1,), 1: ()})).step()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    examples = encoded_words(model)
    before = evaluate(model, examples)
    result = train(model, epochs=10, learning_rate=3e-3)
    after = evaluate(model, examples)
    assert after.score.value > max(before.score.value, 0.8) and after.loss < before.loss
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


@pytest.mark.parametrize("ends", ["well", "interrupted", "not a number"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_that_does_not_end_leaves_the_model_as_it_was(ends, dtype):
    class End(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 3 and ends == "interrupted":
                raise KeyboardInterrupt
            if state.global_step == 3 and ends == "not a number":
                model.classifier.weight.data.fill_(float("nan"))

    model = tiny_model().to(dtype).train()
    before = copy.deepcopy(model.state_dict())
    with contextlib.nullcontext() if ends == "well" else pytest.raises((KeyboardInterrupt, CAHPError)):
        train(model, epochs=1, callbacks=[End()], training_arguments={"logging_steps": 1})
    same = all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training == same == (ends != "well")
    assert all(tensor.dtype == dtype for tensor in model.state_dict().values())


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
        finetune(model, encoded_words(model).select([]))


TRACES = [
    {"bf16": True},
    {"gradient_checkpointing": True},
    {"neftune_noise_alpha": 5.0},
    {"bf16": True, "gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
]
COMPILED = {"bf16": True, "torch_compile": True, "torch_compile_backend": "eager"}


def looks(model):
    """Everything about a model's modules but the numbers in their tensors."""
    return {
        (name, key): list(value) if isinstance(value, dict) else value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key != "training"
    }


@pytest.mark.parametrize(
    ("arguments", "ends"),
    [*((arguments, ends) for arguments in TRACES for ends in ("well", "badly")), (COMPILED, "badly")],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_training_leaves_nothing_on_the_model(arguments, ends, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            if ends == "badly":
                raise KeyboardInterrupt

    model = tiny_model(attn_implementation="sdpa")
    CAHPPruner(model, model_inputs(), importance=CAHPImportance({0: (1,), 1: ()})).step()
    before, environment, caches = looks(model), dict(os.environ), model.config.use_cache
    with contextlib.nullcontext() if ends == "well" else pytest.raises(KeyboardInterrupt):
        train(model, epochs=1, training_arguments=arguments, callbacks=[Stop()])
    model.eval()
    assert looks(model) == before and dict(os.environ) == environment and model.config.use_cache == caches

    clean = tiny_model(attn_implementation="sdpa")
    CAHPPruner(clean, model_inputs(), importance=CAHPImportance({0: (1,), 1: ()})).step()
    clean.load_state_dict(model.state_dict())
    save_pruned(model, tmp_path / "a")
    with torch.no_grad():
        expected = clean(**model_inputs()).logits
        for same in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), load_pruned(tmp_path / "a")):
            assert torch.equal(same(**model_inputs()).logits, expected)
    assert isinstance(model(**model_inputs(), return_dict=False), tuple)  # transformers' own decorators are there


def test_mixed_precision_does_not_last_until_the_next_training():
    models = [tiny_model() for _ in range(2)]
    train(models[0], epochs=1)
    train(tiny_model(), epochs=1, training_arguments={"bf16": True})
    train(models[1], epochs=1)
    assert all(map(torch.equal, models[0].state_dict().values(), models[1].state_dict().values()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("arguments", [{}, {"bf16": True}], ids=["fp32", "mixed"])
def test_half_precision_is_trained_in_fp32_and_cast_back(dtype, arguments):
    model = tiny_model().to(dtype)
    frozen = model.bert.embeddings.word_embeddings.weight.requires_grad_(False).clone()
    model.register_buffer("table", torch.ones(2, dtype=dtype))
    expected = copy.deepcopy(model).float()
    for one in (model, expected):
        train(one, epochs=2, learning_rate=1e-4, training_arguments=arguments)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype}
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, frozen)
    for name, tensor in expected.to(dtype).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_the_special_tokens_of_the_model_stay():
    # a Trainer takes the tokenizer's: a model that pools at the last real token would look elsewhere afterwards
    config = GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=4, pad_token_id=7, bos_token_id=1, eos_token_id=2,
                        num_labels=3)  # fmt: skip
    model = GPT2ForSequenceClassification(config).eval()
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 7], [5, 6, 0, 0]])}
    before = model(**inputs).logits
    train(model, epochs=1, learning_rate=1e-30)
    assert torch.equal(model(**inputs).logits, before)
    assert (model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id) == (7, 1, 2)


@pytest.mark.parametrize("arguments", [{"nonsense": 1}, {"optim": "bogus"}, {"eval_strategy": "sometimes"}])
def test_arguments_that_a_trainer_does_not_know(arguments):
    with pytest.raises(ConfigError, match="`training_arguments` can't be used"):
        train(tiny_model(), epochs=1, training_arguments=arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_is_pruned_saved_and_the_same_again(dtype, tmp_path):
    data = Dataset.from_list(word_examples(60))
    recovery = RecoverySettings(method="least-squares+finetune", epochs=1, batch_size=8)
    report = prune_model(
        tiny_model().to(dtype), tiny_tokenizer(), data, data, CAHPConfig(num_heads=6), output_dir=tmp_path / "a",
        recovery=recovery, figures=False,
    )  # fmt: skip
    assert report.reload_difference == 0
    saved = load_file(tmp_path / "a" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {dtype}
