"""Optimal Brain Surgeon against slow computations that share nothing with it."""

import numpy as np
import pytest
import torch

from cahp_plugin.selectors import elimination
from cahp_plugin.selectors.elimination import eliminate


def correlated(tokens, channels, outputs, *, hidden, noise=0.1, seed=0):
    """Inputs that a few hidden causes move, and a weight."""
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(tokens, hidden)) @ random.normal(size=(hidden, channels))
    inputs = np.maximum(inputs, 0) + noise * random.normal(size=inputs.shape)
    return inputs - inputs.mean(0), random.normal(size=(outputs, channels))


def gram_of(inputs, strength):
    return torch.from_numpy(inputs.T @ inputs + strength * np.eye(inputs.shape[1]))


def errors_of(found):
    """Squared error of the refitted output after 1, 2, ... removals."""
    return found.costs.cumsum(0)


def refit_error(inputs, weight, keep, strength):
    """Least squares proper: |X W^T - X_keep V^T|^2 + strength |W - V|^2, no Gram matrix and no inverse."""
    rows = np.vstack([inputs, np.sqrt(strength) * np.eye(inputs.shape[1])])
    target = rows @ weight.T
    found = np.linalg.lstsq(rows[:, keep], target, rcond=None)[0]
    return float(((target - rows[:, keep] @ found) ** 2).sum())


def channels_of(units, size):
    return [unit * size + i for unit in units for i in range(size)]


def one_by_one(gram, weight):
    """Neurons removed one at a time, the system of those left solved anew each time."""
    gram, weight = gram.numpy(), weight.copy()
    left, order, errors = list(range(len(gram))), [], [0.0]
    now = weight
    while left:
        inverse = np.linalg.inv(gram[np.ix_(left, left)])
        costs = (now**2).sum(0) / np.diag(inverse)
        place = int(costs.argmin())
        order.append(left.pop(place))
        errors.append(errors[-1] + costs[place])
        now = weight @ gram[:, left] @ np.linalg.inv(gram[np.ix_(left, left)])
    return order, errors[1:]


@pytest.mark.parametrize(("size", "units"), [(1, 10), (4, 6)])
@pytest.mark.parametrize("strength", [0.0, 3.0])
def test_each_removal_is_the_best_of_all(size, units, strength):
    inputs, weight = correlated(80, size * units, 5, hidden=6)
    found = eliminate(gram_of(inputs, strength), torch.from_numpy(weight), size)
    left = list(range(units))
    for unit, error in zip(found.order, errors_of(found).tolist(), strict=True):
        errors = {
            candidate: refit_error(
                inputs, weight, channels_of([other for other in left if other != candidate], size), strength
            )
            for candidate in left
        }
        assert unit == min(left, key=errors.__getitem__)
        assert error == pytest.approx(errors[unit], rel=1e-8)
        left.remove(unit)
    assert not left


@pytest.mark.parametrize("hidden", [10, 100])
def test_many_neurons_against_one_at_a_time(hidden):
    inputs, weight = correlated(1000, 200, 50, hidden=hidden)
    gram = gram_of(inputs, 1e-3 * (inputs**2).sum(0).mean())
    order, errors = one_by_one(gram, weight)
    found = eliminate(gram, torch.from_numpy(weight))
    assert list(found.order) == order
    for left in (150, 100, 50, 20):
        assert float(errors_of(found)[199 - left]) == pytest.approx(errors[199 - left], rel=1e-9)
    assert float(errors_of(found)[-1]) == pytest.approx(float(((weight @ gram.numpy()) * weight).sum()), rel=1e-9)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize(("share", "least"), [(0.0, 1), (0.0, 7), (0.3, 1), (1.0, 1)])
def test_where_a_round_ends_changes_nothing(size, share, least, monkeypatch):
    inputs, weight = correlated(300, 60, 9, hidden=20)
    gram = gram_of(inputs, 1.0)
    before = eliminate(gram, torch.from_numpy(weight), size)
    for name, value in (("_SHARE_OF_NEURONS", share), ("_SHARE_OF_BLOCKS", share), ("_LEAST", least)):
        monkeypatch.setattr(elimination, name, value)
    after = eliminate(gram, torch.from_numpy(weight), size)
    assert after.order == before.order
    torch.testing.assert_close(after.costs, before.costs, rtol=1e-9, atol=0)


@pytest.mark.parametrize("size", [1, 4])
def test_copies_go_first_and_for_free(size):
    inputs, weight = correlated(300, 24, 9, hidden=20)
    inputs, weight = np.hstack([inputs, inputs]), np.hstack([weight, weight[:, ::-1]])
    for strength in (1e-10 * (inputs**2).sum(0).mean(), 0.0):
        found = eliminate(gram_of(inputs, strength), torch.from_numpy(weight), size)
        half = len(found.order) // 2
        assert sorted(unit % half for unit in found.order[:half]) == list(range(half))
        assert float(errors_of(found)[half - 1]) < 1e-6 * float(errors_of(found)[-1])
        keep = channels_of(found.order[half + 1 :], size)
        assert float(errors_of(found)[half]) == pytest.approx(refit_error(inputs, weight, keep, strength), rel=1e-4)


@pytest.mark.parametrize(("size", "tolerance"), [(1, 1e-10), (4, 1e-7)])
def test_fewer_tokens_than_channels(size, tolerance, monkeypatch):
    """The inverse shrinks by ten orders of magnitude once the channels are independent; no digits may be lost."""
    for name in ("_SHARE_OF_NEURONS", "_SHARE_OF_BLOCKS"):
        monkeypatch.setattr(elimination, name, 1.0)
    inputs, weight = correlated(60, 400, 30, hidden=40)
    strength = 1e-10 * (inputs**2).sum(0).mean()
    found = eliminate(gram_of(inputs, strength), torch.from_numpy(weight), size)
    assert sorted(found.order) == list(range(400 // size)) and float(found.costs.min()) >= 0
    left = 12 // size
    error = refit_error(inputs, weight, channels_of(found.order[-left:], size), strength)
    assert float(errors_of(found)[-left - 1]) == pytest.approx(error, rel=tolerance)


@pytest.mark.parametrize("size", [1, 2])
def test_a_layer_that_is_silent_but_for_rounding_has_an_order(size):
    noise = 1e-13 * torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for gram in (torch.zeros(6, 6), noise + noise.T):
        found = eliminate(gram, torch.ones(2, 6), size)
        assert sorted(found.order) == list(range(6 // size)) and torch.isfinite(found.costs).all()


def test_inputs_stay_as_they_were():
    inputs, weight = correlated(50, 12, 3, hidden=4)
    gram, weight = gram_of(inputs, 0.0), torch.from_numpy(weight)
    before = gram.clone(), weight.clone()
    eliminate(gram, weight)
    assert torch.equal(gram, before[0]) and torch.equal(weight, before[1])


def test_none_and_one():
    found = eliminate(torch.zeros(0, 0), torch.zeros(5, 0))
    assert found.order == () and errors_of(found).shape == (0,)
    found = eliminate(torch.tensor([[2.0]]), torch.tensor([[3.0], [1.0]]))
    assert found.order == (0,) and errors_of(found).tolist() == pytest.approx([20.0])


def test_bad_input():
    with pytest.raises(torch.linalg.LinAlgError, match="not finite"):
        eliminate(torch.full((3, 3), torch.nan), torch.ones(2, 3))
