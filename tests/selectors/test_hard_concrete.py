import math

import pytest
import torch

from cahp_plugin.selectors.hard_concrete import STRETCH, TEMPERATURE, HardConcrete, expected_open, hard_concrete


@pytest.mark.parametrize("log_alpha", [-2.0, 0.0, 1.5])
def test_hard_concrete_draws_have_the_published_distribution(log_alpha):
    """Atoms at 0 and 1 and the density between them, against the cumulative distribution of Louizos et al."""
    scores = torch.full((200_000,), log_alpha, dtype=torch.float64)
    drawn = HardConcrete().sample(scores, 1, 0.0, torch.Generator().manual_seed(0))
    low, high = STRETCH

    def below(value):  # P(stretched < value), their eq. 7 with the stretched argument
        share = (value - low) / (high - low)
        return 1 / (1 + math.exp(-(TEMPERATURE * (math.log(share) - math.log(1 - share)) - log_alpha)))

    assert float((drawn == 0).double().mean()) == pytest.approx(below(0.0), abs=0.004)
    assert float((drawn == 1).double().mean()) == pytest.approx(1 - below(1.0), abs=0.004)
    for value in (0.2, 0.5, 0.8):
        assert float((drawn <= value).double().mean()) == pytest.approx(below(value), abs=0.004)
    assert float(expected_open(scores)[0]) == pytest.approx(1 - below(0.0), abs=1e-12)


def test_a_hard_concrete_gate_by_hand():
    # u = 1/2 leaves ln alpha: sigmoid(3 * 0.2) = 0.6457, stretched by 1.2 and shifted by 0.1
    found = hard_concrete(torch.tensor([0.2], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64))
    assert float(found) == pytest.approx(1.2 / (1 + math.exp(-0.6)) - 0.1)


@pytest.mark.parametrize(("num_gates", "wanted"), [(40, 10), (384, 60), (12, 6)])
def test_the_number_open_tends_to_the_target(num_gates, wanted):
    """Against a loss that pulls every gate open, some more than others."""
    gates, scores = HardConcrete(), torch.full((num_gates,), 2.0, dtype=torch.float64, requires_grad=True)
    pull = torch.linspace(0, 0.02, num_gates, dtype=torch.float64)
    optimizer = torch.optim.Adam([scores], lr=0.1)
    for step in range(300):
        optimizer.zero_grad()
        (gates.penalty(scores, wanted, step / 299) - (pull * expected_open(scores)).sum()).backward()
        optimizer.step()
    found = expected_open(scores).detach()
    assert float(found.sum()) == pytest.approx(wanted, abs=0.5)
    assert found[-wanted:].min() >= found[:-wanted].max()  # those that are pulled most


def test_the_penalty_is_lambda_times_the_gradient_of_the_number_open():
    scores = torch.full((6,), 2.0, dtype=torch.float64, requires_grad=True)
    (penalty,) = torch.autograd.grad(HardConcrete().penalty(scores, 2, 0.25), scores)
    (number,) = torch.autograd.grad(expected_open(scores).sum(), scores)
    multiplier = 0.1 * (float(expected_open(scores).detach().sum()) - 4)  # half of the way from 6 to 2
    torch.testing.assert_close(penalty, multiplier * number)
