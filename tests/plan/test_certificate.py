"""The test by betting: how often it is wrong, and how often it sees what is there."""

import json
import math
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from cahp_plugin.compare.packing import unpack
from cahp_plugin.plan.certificate import enough, fewest, least_refuted, refuted, wealth

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
    wrong = refuted(draw.choice(losses, (1000, count), p=weights), limit, 0.95)
    assert 0.02 < wrong.mean() <= 0.065  # and the level is used


@pytest.mark.parametrize(("differ", "drop"), [((0.0, 0.01), 0.01), ((0.03, 0.06), 0.03), ((0.1, 0.2), 0.1)])
def test_so_are_losses_of_other_kinds(differ, drop):
    """Rare ones, all of them losses, and frequent ones."""
    draw = np.random.default_rng(int(1000 * drop))
    better, worse = differ
    losses = draw.choice([-1, 0, 1], (2000, 500), p=[better, 1 - better - worse, worse])
    assert refuted(losses, drop, 0.95).mean() <= 0.059


@pytest.mark.parametrize(("count", "least"), [(1000, 0.28), (2210, 0.58), (5000, 0.90), (10_000, 0.98)])
def test_what_is_not_lost_is_seen(count, least):
    """Where 5 % of the predictions differ and nothing is lost, a point is refuted as often as the method can.

    The paper's stakes reach .24, .52, .83 and .97; these are three standard errors below what ours do.
    """
    draw = np.random.default_rng(count)
    found = refuted(draw.choice([-1, 0, 1], (1000, count), p=[0.025, 0.95, 0.025]), 0.01, 0.95)
    assert found.mean() >= least


def test_the_wealth_is_a_fair_game_at_the_limit():
    """Over all sequences of a few examples, weighed by their chance: the mean wealth is 1, by hand."""
    chances = {-1.0: 0.2, 0.0: 0.4, 1.0: 0.4}  # mean .2
    sequences = [()]
    for _ in range(5):
        sequences = [(*start, value) for start in sequences for value in chances]
    weights = [math.prod(chances[value] for value in sequence) for sequence in sequences]
    assert np.dot(weights, wealth(np.array(sequences), 0.2, 0.7)) == pytest.approx(1, rel=1e-12)
    assert np.dot(weights, wealth(np.array(sequences), 0.1, 0.7)) < 1


def test_one_example_by_hand():
    """Of alpha = .2, w = .2 / 1.05 and q is its normal quantile: b = pdf(q) / (w sqrt(.05)), at most .9 / (1 - m)."""
    m, share = 0.55, 0.2 / 1.05
    q = NormalDist().inv_cdf(share)
    stake = min(NormalDist().pdf(q) / (share * math.sqrt(0.05)), 0.9 / (1 - m))
    assert float(wealth(np.array([0.0]), 0.1, 0.8)) == pytest.approx(1 + stake * (m - 0.5), rel=1e-9)


def test_what_can_be_certified_is_the_least_drop_that_is_refuted():
    losses = np.random.default_rng(0).choice([-1, 0, 1], 4000, p=[0.03, 0.93, 0.04])
    bound = least_refuted(losses, 0.95)
    assert losses.mean() < bound < losses.mean() + 0.02
    assert all(refuted(losses, drop, 0.95) for drop in (bound, bound + 0.001, 0.1, 0.5))
    assert not refuted(losses, bound - 1e-3, 0.95)
    assert least_refuted(losses, 0.99) > bound
    assert not refuted(np.array([]), 0.5, 0.95) and least_refuted(np.zeros(2), 0.999) == 1
    assert least_refuted(np.r_[-np.ones(300), np.ones(300)], 0.95) <= 0  # all are refuted before the losses come
    assert least_refuted(np.ones(50), 0.95) == least_refuted(np.array([]), 0.95) == 1


@pytest.mark.parametrize(("drop", "confidence"), [(0.01, 0.95), (0.03, 0.95), (0.1, 0.99)])
def test_the_fewest_examples(drop, confidence):
    """No test can do with fewer than those that a model which loses d, all at once, passes with a chance of alpha."""
    found, any_test = fewest(drop, confidence), math.log(1 - confidence) / math.log(1 - drop)
    assert any_test <= found <= 1.3 * any_test
    assert refuted(np.zeros(found), drop, confidence) and not refuted(np.zeros(found - 1), drop, confidence)
    assert fewest(1e-7, 0.95) is None


def test_about_so_many_examples_would_do():
    """Of a mean loss of 0 whose square is p, log growth is nearly d^2 / (2 p): 2 p log(20) / d^2 examples."""
    losses = np.repeat([-1.0, 0.0, 1.0], [25, 950, 25])
    found = enough(losses, 0.01, 0.95)
    assert found == pytest.approx(2 * 0.05 * math.log(20) / 0.01**2, rel=0.02)
    draw = np.random.default_rng(0)
    assert 0.7 < refuted(draw.choice(losses, (1000, found)), 0.01, 0.95).mean() < 0.9
    assert enough(losses + 0.01 * (losses == 0), 0.0095, 0.95) is None and enough(np.array([]), 0.1, 0.95) is None


def test_losses_are_bounded():
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        wealth(np.array([0, 1.5]), 0.01, 0.95)
