import itertools
import logging

import numpy as np
import pytest
import torch
from tiny import ARCHITECTURES, model_inputs, tiny_batches, tiny_model

from cahp_plugin import CAHPImportance, CAHPPruner
from cahp_plugin.errors import ConfigError, DataError, PruningError, SelectionError
from cahp_plugin.observe.streams import calibration_batches, layer_tokens
from cahp_plugin.selectors import (
    MagnitudeImportance,
    MichelImportance,
    RandomImportance,
    RankingImportance,
    ReconstructionImportance,
    SalienceImportance,
)
from cahp_plugin.selectors.reconstruction import _measure
from cahp_plugin.units import attention_layers

SCORES = np.array([[9.0, 8.0, 7.0, 6.0], [0.1, 0.4, 0.3, 0.2], [5.0, np.nan, 1.0, 4.0]])


def test_ranking_takes_the_best_of_all_and_the_best_of_each_layer():
    assert RankingImportance(SCORES, 5).kept.heads == {0: (0, 1, 2), 1: (1,), 2: (0,)}
    assert RankingImportance(SCORES, 5, min_heads_per_layer=0).kept.heads == {0: (0, 1, 2, 3), 1: (), 2: (0,)}
    assert RankingImportance(SCORES, 0.5).kept.heads == {0: (0, 1, 2, 3), 1: (1,), 2: (0,)}  # 5.5 of 11, rounded up
    assert RankingImportance(SCORES, 11).kept.heads == {0: (0, 1, 2, 3), 1: (0, 1, 2, 3), 2: (0, 2, 3)}
    assert SalienceImportance(SCORES, 5).kept.heads == RankingImportance(SCORES, 5).kept.heads


def test_absent_heads_do_not_disturb_the_order():
    """NaN is neither above nor below: sorted among the scores it would leave them out of order."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        scores = generator.random((4, 6))
        scores[generator.random((4, 6)) < 0.4] = np.nan
        best = sorted(scores[~np.isnan(scores)])[-5:]
        kept = RankingImportance(scores, 5, min_heads_per_layer=0).kept.heads
        assert sorted(scores[layer, head] for layer, heads in kept.items() for head in heads) == best


def test_michel_divides_by_the_norm_of_the_layer():
    norms = [np.sqrt(81 + 64 + 49 + 36), np.sqrt(0.01 + 0.16 + 0.09 + 0.04), np.sqrt(25 + 1 + 16)]
    found = MichelImportance(SCORES, 4)
    np.testing.assert_allclose(found.scores, SCORES / np.array(norms)[:, None])
    # .59 .53 .46 .40 | .18 .73 .55 .37 | .77 - .15 .62
    assert found.kept.heads == {0: (0,), 1: (1,), 2: (0, 3)}
    assert not np.isnan(MichelImportance(np.zeros((2, 3)), 2).scores).any()


def test_magnitude_is_the_norm_of_the_columns():
    model = tiny_model()
    found = MagnitudeImportance(model, 6)
    for layer, head in itertools.product(range(3), range(4)):
        weight = model.bert.encoder.layer[layer].attention.output.dense.weight[:, 8 * head : 8 * head + 8]
        assert found.scores[layer, head] == pytest.approx(float(torch.linalg.matrix_norm(weight.detach())), rel=1e-5)


def test_random_is_a_distribution_over_all_heads_that_the_seed_decides():
    model = tiny_model()
    draws = [RandomImportance(model, 6, seed=seed).kept.heads for seed in range(200)]
    assert draws[3] == RandomImportance(model, 6, seed=3).kept.heads
    counts = np.zeros((3, 4))
    for kept in draws:
        assert sum(map(len, kept.values())) == 6 and all(kept.values())
        for layer, heads in kept.items():
            counts[layer, list(heads)] += 1
    assert (np.abs(counts / 200 - 0.5) < 0.15).all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_drop_into_the_pruner_and_know_what_was_removed_before(name):
    model, data = tiny_model(name), tiny_batches()
    CAHPPruner(model, model_inputs(), importance=CAHPImportance({0: (1, 2, 3), 2: ()})).step()
    salience = np.where(
        [[False, True, True, True], [True] * 4, [False] * 4], 1.0 + np.arange(12).reshape(3, 4), np.nan
    )
    for importance in (
        RandomImportance(model, 4),
        MagnitudeImportance(model, 4),
        SalienceImportance(salience, 4),
        MichelImportance(salience, 4),
        ReconstructionImportance(model, data, 4),
    ):
        kept = importance.kept.heads
        assert sum(map(len, kept.values())) == 4 and 0 not in kept[0] and not kept.get(2)
    CAHPPruner(model, model_inputs(), importance=importance).step()
    assert sum(len(layer.heads) for layer in attention_layers(model)) == 4


def least_error(context, weight, keep, ridge):
    """Squared error of W c with the channels `keep` only, refitted with a ridge towards W: by brute force."""
    centred = context - context.mean(0)
    strength = ridge * centred.square().sum(0).mean()
    target = centred @ weight.T
    gone = [i for i in range(context.shape[1]) if i not in keep]
    x, wanted = centred[:, keep], target
    present = weight[:, keep]
    change = torch.linalg.solve(x.T @ x + strength * torch.eye(len(keep)), x.T @ (wanted - x @ present.T))
    residual = wanted - x @ (present.T + change)
    return float(residual.square().sum() + strength * (change.square().sum() + weight[:, gone].square().sum()))


@pytest.mark.parametrize("ridge", [1e-3, 0.1])
def test_reconstruction_removes_what_costs_least_after_a_refit(ridge):
    """Each removal of one layer against the brute force over all heads left, and its error."""
    model, data = tiny_model(), tiny_batches(60)
    layers = attention_layers(model)
    with torch.no_grad():
        batches = calibration_batches(data, model, 60)
        found = [layer_tokens(model, layers, batch)[layers[1].output_path] for batch in batches]
        context = torch.cat([tokens.context for tokens in found]).double()
        behind = torch.cat([tokens.behind for tokens in found]).double()
        weight = layers[1].output.weight.double()
    scale = float((behind - behind.mean(0)).square().sum())
    left, order = [0, 1, 2, 3], []
    while len(left) > 1:

        def cost(head):
            keep = [8 * other + i for other in left if other != head for i in range(8)]
            return least_error(context, weight, keep, ridge) / scale

        order.append(min(left, key=cost))
        error = cost(order[-1])
        left.remove(order[-1])
    with torch.no_grad():
        elimination = next(e for e in _measure(model, list(layers), data, 60, ridge) if e.layer.index == 1)
    for head in order:
        assert elimination.heads[elimination.cheapest[1]] == head
        elimination.remove()
    assert elimination.error == pytest.approx(error, rel=1e-4)
    assert elimination.heads == left


def test_a_copied_head_costs_nothing():
    model = tiny_model()
    layer = attention_layers(model)[1]
    with torch.no_grad():
        for role in ("query", "key", "value"):
            module = layer.block.get_submodule(getattr(layer.spec, role))
            module.weight[8:16] = module.weight[0:8]
            module.bias[8:16] = module.bias[0:8]
    found = ReconstructionImportance(model, tiny_batches(60), 11, ridge=1e-6)
    assert found.kept.heads[0] == found.kept.heads[2] == (0, 1, 2, 3)
    assert found.kept.heads[1] in ((0, 2, 3), (1, 2, 3)) and found.errors[1] < 1e-4


def test_the_model_stays_as_it_was():
    model = tiny_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ReconstructionImportance(model, tiny_batches(), 6)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("num_heads", "message"),
    [(13, "asks for 13 heads; the model has 12"), (2, "`min_heads_per_layer` takes 3"), (1.5, r"in \(0, 1\)"),
     (-1, "asks for -1 heads")],
)  # fmt: skip
def test_head_counts_that_do_not_fit(num_heads, message):
    model = tiny_model()
    for make in (
        lambda: RandomImportance(model, num_heads),
        lambda: ReconstructionImportance(model, tiny_batches(), num_heads),
    ):
        with pytest.raises(SelectionError, match=message):
            make()


def test_bad_input():
    with pytest.raises(SelectionError, match="shape"):
        RankingImportance(np.zeros(4), 2)
    model = tiny_model()
    with pytest.raises(DataError, match="gave no batch"):
        ReconstructionImportance(model, [], 6)
    with torch.no_grad():
        model.bert.encoder.layer[1].attention.self.value.weight.fill_(float("inf"))
    with pytest.raises(PruningError, match="Attention layer 1"):
        ReconstructionImportance(model, tiny_batches(), 6)


@pytest.mark.parametrize("num_examples", [60, 2])
def test_a_singular_system_has_an_answer(num_examples):
    """Copied heads, or fewer tokens than channels, and no ridge at all: the count holds, and a copy goes for free."""
    model = tiny_model()
    layer = attention_layers(model)[1]
    with torch.no_grad():
        for role in ("query", "key", "value"):
            module = layer.block.get_submodule(getattr(layer.spec, role))
            module.weight[8:16] = module.weight[0:8]
            module.bias[8:16] = module.bias[0:8]
    found = ReconstructionImportance(model, tiny_batches(60), 8, ridge=0, num_examples=num_examples)
    assert sum(map(len, found.kept.heads.values())) == 8 and not {0, 1} <= set(found.kept.heads[1])
    assert all(np.isfinite(error) for error in found.errors.values())


def test_too_few_examples_are_told(caplog):
    logger = logging.getLogger("cahp_plugin.selectors.reconstruction")
    logger.addHandler(caplog.handler)
    try:
        ReconstructionImportance(tiny_model(), tiny_batches(60), 6, num_examples=2)
        assert "tokens for 32 channels: too few" in caplog.text
        caplog.clear()
        ReconstructionImportance(tiny_model(), tiny_batches(60), 6, num_examples=60)
        assert not caplog.text
    finally:
        logger.removeHandler(caplog.handler)
    for changes in ({"ridge": -1.0}, {"num_examples": 0}):
        with pytest.raises(ConfigError, match="`ridge` must be at least 0 and `num_examples` at least 1"):
            ReconstructionImportance(tiny_model(), tiny_batches(), 6, **changes)
