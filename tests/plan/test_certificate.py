"""The test by betting: how often it is wrong, and how often it sees what is there."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from cahp_plugin.compare.packing import unpack
from cahp_plugin.plan.certificate import least_refuted, log_wealth, refuted

RUNS = Path(__file__).parents[2] / "examples" / "results" / "sst5" / "runs.jsonl"


def stored_losses():
    """What models that were repaired lost on 2,210 real sentences, one by one."""
    runs = [json.loads(line) for line in RUNS.read_text(encoding="utf-8").splitlines()]
    hits = {(run["method"], run["num_heads"], run["recover"], run["seed"]): unpack(run["correct"], run["num_examples"])
            for run in runs if "correct" in run}  # fmt: skip
    dense = hits["dense", 72, "none", 0].astype(float)
    return [dense - own for (method, _, recover, seed), own in hits.items()
            if method in ("obs", "cahp") and recover == "least-squares" and seed == 0]  # fmt: skip


def weights_for(losses, drop):
    """Weights of examples by which their mean loss is exactly the drop, all others as they were."""
    shares = {value: float(np.mean(losses == value)) for value in (-1.0, 0.0, 1.0)}
    # Among those that differ, so many have to have lost.
    differing = shares[-1.0] + shares[1.0]
    lost = (differing + drop) / 2
    wanted = {-1.0: differing - lost, 0.0: shares[0.0], 1.0: lost}
    weights = np.array([wanted[value] / shares[value] for value in losses.tolist()]) / len(losses)
    assert weights.sum() == pytest.approx(1) and weights @ losses == pytest.approx(drop)
    return weights / weights.sum()


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("count", [1000, 2210])
def test_a_drop_of_exactly_the_limit_is_certified_in_one_of_twenty_cases_at_most(number, count):
    """1,000 resamplings of real predictions: 6.5 % are two standard errors above 5 %."""
    losses, limit = stored_losses()[number], 0.01
    weights, draw = weights_for(losses, limit), np.random.default_rng(number)
    wrong = sum(refuted(draw.choice(losses, count, p=weights), limit, 0.95) for _ in range(1000))
    assert wrong <= 65


@pytest.mark.parametrize(("count", "least"), [(1000, 0.18), (2210, 0.44), (5000, 0.78), (10_000, 0.94)])
def test_what_is_not_lost_is_seen(count, least):
    """Where 5 % of the predictions differ and nothing is lost, a point is refuted as often as the method can."""
    draw = np.random.default_rng(count)
    found = [refuted(draw.choice([-1, 0, 1], count, p=[0.025, 0.95, 0.025]), 0.01, 0.95) for _ in range(400)]
    assert np.mean(found) >= least


def test_the_wealth_is_a_fair_game_at_the_limit():
    """Over all sequences of a few examples, weighed by their chance: the mean wealth is 1, by hand."""
    chances = {-1.0: 0.2, 0.0: 0.4, 1.0: 0.4}  # mean .2
    sequences = [()]
    for _ in range(5):
        sequences = [(*start, value) for start in sequences for value in chances]
    weights = [math.prod(chances[value] for value in sequence) for sequence in sequences]
    ends = [math.exp(log_wealth(np.array(sequence), 0.2, 0.95)[-1]) for sequence in sequences]
    assert np.dot(weights, ends) == pytest.approx(1, rel=1e-12)
    better = [math.exp(log_wealth(np.array(sequence), 0.1, 0.95)[-1]) for sequence in sequences]
    assert np.dot(weights, better) < 1


def test_what_can_be_certified_is_the_least_drop_that_is_refuted():
    losses = np.random.default_rng(0).choice([-1, 0, 1], 4000, p=[0.03, 0.93, 0.04])
    bound = least_refuted(losses, 0.95)
    assert losses.mean() < bound < losses.mean() + 0.02
    assert refuted(losses, bound + 1e-6, 0.95) and not refuted(losses, bound - 1e-3, 0.95)
    assert least_refuted(losses, 0.99) > bound
    assert not refuted(np.array([]), 0.5, 0.95) and least_refuted(np.zeros(2), 0.999) == 1


def test_losses_are_bounded():
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        log_wealth(np.array([0, 1.5]), 0.01, 0.95)
