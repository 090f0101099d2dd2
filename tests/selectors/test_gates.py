import dataclasses

import numpy as np
import pytest
import torch
from planted import USEFUL, planted_model
from selecting import fit, view_of
from tiny import ARCHITECTURES, model_inputs, tiny_batches, tiny_model

from cahp_plugin import CAHPConfig, CAHPImportance, CAHPPruner
from cahp_plugin.errors import ConfigError, DataError, SelectionError
from cahp_plugin.observe import only_kept
from cahp_plugin.selectors import View, make_selector
from cahp_plugin.selectors.gates import TrainedGates, train_gates
from cahp_plugin.selectors.hard_concrete import expected_open

TRAINED = ("voita", "dsp")


def train(name, model, data, wanted, *, seed=0, **settings):
    return train_gates(View(model, data), make_selector(name, **settings), wanted, seed)


def unread(seed, by_length):
    raise AssertionError("the gates were trained")


@pytest.mark.parametrize("name", TRAINED)
def test_planted_heads_are_found(name):
    """Heads that reach nothing go, heads that make the labels stay; the model leaves as it came."""
    model, data = planted_model()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert fit(name, model, data, epochs=4).keep(6).heads == USEFUL
    scores, losses = train(name, model, data, 6, epochs=4)
    if name == "voita":
        assert float(expected_open(scores).sum()) == pytest.approx(6, abs=2)
    assert len(losses) == 48 and np.isfinite(losses).all()
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", TRAINED)
def test_the_seed_decides(name):
    model, data = planted_model(num_examples=32)
    first, again, other = (train(name, model, data, 6, seed=seed, epochs=0.5)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not first.requires_grad


@pytest.mark.parametrize("name", TRAINED)
def test_every_number_is_trained_for_by_itself(name):
    """The last number asked for leaves nothing behind; all or no heads take no training."""
    model, data = planted_model(num_examples=32)
    found = fit(name, model, data, epochs=0.5, least=0)
    first = found.keep(6)
    assert found.keep(3).num_heads == 3
    assert found.keep(6) == first
    assert all(fit(name, model, data, epochs=0.5).keep(3).heads.values())  # one in each layer
    found = make_selector(name).fit(View(model, data, CAHPConfig(min_heads_per_layer=0), shuffled=unread))
    assert [found.keep(wanted).num_heads for wanted in (0, 12)] == [0, 12]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gates_work_on_every_architecture_and_after_a_pruning(name):
    model, data = tiny_model(name), tiny_batches()
    CAHPPruner(model, model_inputs(), importance=CAHPImportance({0: (1, 2, 3), 2: ()})).step()
    for trained in TRAINED:
        found = fit(trained, model, data, epochs=0.5)
        kept = found.keep(4)
        assert kept.num_heads == 4 and 0 not in kept.heads[0] and kept.heads[2] == ()
        assert len(train(trained, model, data, 4, epochs=0.5)[0]) == 7
    CAHPPruner(model, model_inputs(), importance=CAHPImportance(kept)).step()


@dataclasses.dataclass(frozen=True)
class Fixed(TrainedGates):
    """Gates that always have the same values."""

    values: tuple[float, ...] = (0.5,) * 12

    name = "fixed"

    def sample(self, scores, wanted, progress, generator):
        return torch.tensor(self.values, dtype=torch.float64) + 0 * scores


def test_the_loss_under_gates_is_that_of_the_masked_model():
    model, data = tiny_model(), tiny_batches(8, 8)
    kept = {0: (1, 3), 1: (0,), 2: (0, 1, 2, 3)}
    gates = Fixed(values=tuple(float(head in kept[layer]) for layer in range(3) for head in range(4)))
    _, losses = train_gates(View(model, data), gates, 7, 0)
    with torch.no_grad(), only_kept(model, kept):
        expected = model(**data[0]).loss
    assert losses == (pytest.approx(float(expected), rel=1e-6),)


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 2), (1, 4), (2.1, 9)])
def test_a_fraction_of_an_epoch_ends_within_one(epochs, steps):
    model, data = tiny_model(), tiny_batches(32, 8)
    assert len(train_gates(View(model, data), Fixed(epochs=epochs), 6, 0)[1]) == steps


def test_gates_are_trained_on_examples_of_about_the_same_length():
    asked = []

    def shuffled(seed, by_length):
        asked.append((seed, by_length))
        return tiny_batches()

    view = View(tiny_model(), tiny_batches(), shuffled=shuffled)
    make_selector("voita", epochs=0.5).fit(view, seed=5).keep(6)
    assert asked == [(5, True)]


@pytest.mark.parametrize("name", TRAINED)
def test_bad_input(name):
    model, data = tiny_model(), tiny_batches()
    for changes in ({"epochs": 0}, {"learning_rate": -1.0}, {"epochs": float("nan")}):
        with pytest.raises(ConfigError, match="must be above 0"):
            make_selector(name, **changes)

    found = make_selector(name).fit(View(model, data, CAHPConfig(), shuffled=unread))
    with pytest.raises(SelectionError, match="asks for 13 heads"):
        found.keep(13)
    with pytest.raises(DataError, match="gave no batch"):
        fit(name, model, [])
    with torch.no_grad():
        model.classifier.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="The loss is nan"):
        make_selector(name).fit(view_of(model, data)).keep(6)
