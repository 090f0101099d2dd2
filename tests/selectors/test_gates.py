import itertools
import math

import numpy as np
import pytest
import torch
import transformers
from planted import USEFUL, planted_model
from tiny import ARCHITECTURES, model_inputs, tiny_batches, tiny_model

from cahp_plugin import CAHPImportance, CAHPPruner
from cahp_plugin.errors import ConfigError, DataError, SelectionError, UnsupportedModelError
from cahp_plugin.observe import only_kept, prepare_batches
from cahp_plugin.selectors import HardConcreteImportance, SubsetPruningImportance
from cahp_plugin.selectors.gates import masked_loss
from cahp_plugin.selectors.hard_concrete import STRETCH, TEMPERATURE, HardConcreteGates, hard_concrete
from cahp_plugin.selectors.subset import SubsetGates, relaxed_top_k
from cahp_plugin.units import attention_layers

TRAINED = (HardConcreteImportance, SubsetPruningImportance)


@pytest.mark.parametrize("log_alpha", [-2.0, 0.0, 1.5])
def test_hard_concrete_draws_have_the_published_distribution(log_alpha):
    """Atoms at 0 and 1 and the density between them, against the cumulative distribution of Louizos et al."""
    gates = HardConcreteGates(200_000, 1, seed=0)
    with torch.no_grad():
        gates.scores.fill_(log_alpha)
        drawn = gates.sample(0.0)
    low, high = STRETCH

    def below(value):  # P(stretched < value), their eq. 7 with the stretched argument
        share = (value - low) / (high - low)
        return 1 / (1 + math.exp(-(TEMPERATURE * (math.log(share) - math.log(1 - share)) - log_alpha)))

    assert float((drawn == 0).double().mean()) == pytest.approx(below(0.0), abs=0.004)
    assert float((drawn == 1).double().mean()) == pytest.approx(1 - below(1.0), abs=0.004)
    for value in (0.2, 0.5, 0.8):
        assert float((drawn <= value).double().mean()) == pytest.approx(below(value), abs=0.004)
    assert float(gates.expected_open()[0].detach()) == pytest.approx(1 - below(0.0), abs=1e-12)


def test_a_hard_concrete_gate_by_hand():
    # u = 1/2 leaves ln alpha: sigmoid(3 * 0.2) = 0.6457, stretched by 1.2 and shifted by 0.1
    found = hard_concrete(torch.tensor([0.2], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64))
    assert float(found) == pytest.approx(1.2 / (1 + math.exp(-0.6)) - 0.1)


@pytest.mark.parametrize(("num_gates", "wanted"), [(40, 10), (384, 60), (12, 6)])
def test_the_number_open_tends_to_the_target(num_gates, wanted):
    """Against a loss that pulls every gate open, some more than others."""
    gates = HardConcreteGates(num_gates, wanted, seed=0)
    pull = torch.linspace(0, 0.02, num_gates, dtype=torch.float64)
    optimizer = torch.optim.Adam([gates.scores], lr=0.1)
    for step in range(300):
        optimizer.zero_grad()
        (gates.penalty(step / 299) - (pull * gates.expected_open()).sum()).backward()
        optimizer.step()
    found = gates.expected_open().detach()
    assert float(found.sum()) == pytest.approx(wanted, abs=0.5)
    assert found[-wanted:].min() >= found[:-wanted].max()  # those that are pulled most


def test_the_penalty_is_lambda_times_the_gradient_of_the_number_open():
    gates = HardConcreteGates(6, 2, seed=0, strength=0.3)
    (penalty,) = torch.autograd.grad(gates.penalty(0.25), gates.scores)
    (number,) = torch.autograd.grad(gates.expected_open().sum(), gates.scores)
    multiplier = 0.3 * (float(gates.expected_open().detach().sum()) - 4)  # half of the way from 6 to 2
    torch.testing.assert_close(penalty, multiplier * number)


def soft_top_k_by_loops(scores, k, temperature):
    r, total = list(scores), [0.0] * len(scores)
    for _ in range(k):
        powers = [math.exp(value / temperature) for value in r]
        shares = [power / sum(powers) for power in powers]
        total = [a + b for a, b in zip(total, shares, strict=True)]
        r = [value + math.log(1 - share) for value, share in zip(r, shares, strict=True)]
    return total


@pytest.mark.parametrize(("k", "temperature"), [(1, 1.0), (3, 0.5), (5, 2.0)])
def test_relaxed_top_k_equals_the_recursion_by_loops(k, temperature):
    scores = torch.tensor([0.3, -1.0, 2.0, 0.0, 0.9, -0.2], dtype=torch.float64)
    found = relaxed_top_k(scores, k, temperature)
    np.testing.assert_allclose(found, soft_top_k_by_loops(scores.tolist(), k, temperature), rtol=1e-12)
    assert float(found.sum()) == pytest.approx(k)


def test_relaxed_top_k_becomes_the_hard_one():
    scores = torch.tensor([0.3, -1.0, 2.0, 0.0, 0.9, -0.2], dtype=torch.float64)
    np.testing.assert_allclose(relaxed_top_k(scores, 3, 1e-3), [1, 0, 1, 0, 1, 0], atol=1e-9)
    assert relaxed_top_k(scores, 0, 1.0).tolist() == [0] * 6
    np.testing.assert_allclose(relaxed_top_k(scores, 6, 1e-3), [1] * 6, atol=1e-9)


def test_a_cold_draw_is_one_without_replacement():
    """How often each gate opens, against the sum over all ordered pairs (Plackett and Luce)."""
    weights = np.array([1.0, 2.0, 3.0, 6.0])
    expected = np.zeros(4)
    for first, second in itertools.permutations(range(4), 2):
        chance = weights[first] / weights.sum() * weights[second] / (weights.sum() - weights[first])
        expected[[first, second]] += chance
    gates = SubsetGates(4, 2, seed=0, temperatures=(1e-3, 1e-3))
    with torch.no_grad():
        gates.scores.copy_(torch.tensor(weights).log())
        found = sum(gates.sample(0.5) for _ in range(4000)) / 4000
    np.testing.assert_allclose(found, expected, atol=0.03)


@pytest.mark.parametrize("kind", TRAINED)
def test_planted_heads_are_found(kind):
    """Heads that reach nothing go, heads that make the labels stay; the model leaves as it came."""
    model, data = planted_model()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = kind(model, data, 6, epochs=4, seed=0)
    assert found.kept.heads == USEFUL
    assert getattr(found, "expected_open", 6) == pytest.approx(6, abs=2)
    assert len(found.losses) == 48 and np.isfinite(found.losses).all()
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("kind", TRAINED)
def test_the_seed_decides(kind):
    model, data = planted_model(num_examples=32)
    one, again, other = (kind(model, data, 6, epochs=0.5, seed=seed).scores for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@pytest.mark.parametrize("kind", TRAINED)
def test_counts_and_minimum_hold(kind):
    model, data = planted_model(num_examples=32)
    for wanted in (0, 3, 12):
        kept = kind(model, data, wanted, epochs=0.5, min_heads_per_layer=0).kept.heads
        assert sum(map(len, kept.values())) == wanted
    assert all(kind(model, data, 3, epochs=0.5).kept.heads.values())  # one in each layer


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gates_work_on_every_architecture_and_after_a_pruning(name):
    model, data = tiny_model(name), tiny_batches()
    CAHPPruner(model, model_inputs(), importance=CAHPImportance({0: (1, 2, 3), 2: ()})).step()
    for kind in TRAINED:
        importance = kind(model, data, 4, epochs=0.5)
        assert sum(map(len, importance.kept.heads.values())) == 4 and 0 not in importance.kept.heads[0]
        assert np.isnan(importance.scores[2]).all() and np.isnan(importance.scores[0, 0])
    CAHPPruner(model, model_inputs(), importance=importance).step()


def test_the_loss_under_masks_is_that_of_the_masked_model():
    model, data = tiny_model(), tiny_batches(8, 8)
    layers = attention_layers(model)
    kept = {0: (1, 3), 1: (0,), 2: (0, 1, 2, 3)}
    masks = {layer: torch.tensor([float(head in heads) for head in range(4)]) for layer, heads in kept.items()}
    with torch.no_grad():
        found = masked_loss(model, layers, next(iter(prepare_batches(data, model))), masks)
        with only_kept(model, kept):
            expected = model(**data[0]).loss
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_heads_that_share_keys_are_refused():
    config = transformers.LlamaConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, pad_token_id=0, num_labels=3,
    )  # fmt: skip
    model = transformers.LlamaForSequenceClassification(config)
    with pytest.raises(UnsupportedModelError, match="4 heads that share 2 keys and values"):
        HardConcreteImportance(model, tiny_batches(), 4, epochs=0.1)


@pytest.mark.parametrize("kind", TRAINED)
def test_bad_input(kind):
    model, data = tiny_model(), tiny_batches()
    for changes in ({"epochs": 0}, {"learning_rate": -1.0}):
        with pytest.raises(ConfigError, match="must be above 0"):
            kind(model, data, 6, **changes)
    with pytest.raises(SelectionError, match="asks for 13 heads"):
        kind(model, None, 13)  # before the data is looked at
    with pytest.raises(DataError, match="gave no batch"):
        kind(model, [], 6)
    with torch.no_grad():
        model.classifier.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="The loss is nan"):
        kind(model, data, 6)
    with pytest.raises(ConfigError, match="`temperatures` must be above 0"):
        SubsetPruningImportance(model, data, 6, temperatures=(1.0, 0.0))
