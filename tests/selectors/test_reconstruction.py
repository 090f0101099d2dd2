import logging
import types

import numpy as np
import pytest
import torch
from selecting import fit, units_of, view_of, without_labels
from tiny import tiny_batches, tiny_model

from cahp_plugin.errors import ConfigError, DataError, PruningError
from cahp_plugin.observe.streams import calibration_batches, layer_tokens
from cahp_plugin.selectors import make_selector
from cahp_plugin.selectors.reconstruction import Obs
from cahp_plugin.units import attention_layers


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


def by_brute_force(model, data, index, ridge, num_examples=60):
    """One layer's heads in the order in which they go, and the relative error behind each removal."""
    layers = attention_layers(model)
    with torch.no_grad():
        batches = calibration_batches(data, model, num_examples)
        found = [layer_tokens(model, layers, batch)[layers[index].output_path] for batch in batches]
        context = torch.cat([tokens.context for tokens in found]).double()
        behind = torch.cat([tokens.behind for tokens in found]).double()
        weight = layers[index].output.weight.double()
        scale = float((behind - behind.mean(0)).square().sum())
        left, order, errors = [0, 1, 2, 3], [], []
        while left:

            def cost(head):
                keep = [8 * other + i for other in left if other != head for i in range(8)]
                return least_error(context, weight, keep, ridge) / scale

            order.append(min(left, key=cost))
            errors.append(cost(order[-1]))
            left.remove(order[-1])
    return order, errors


@pytest.mark.parametrize("ridge", [1e-3, 0.1])
def test_what_costs_least_after_a_refit_goes_first(ridge):
    """Each removal of every layer against the brute force over all heads left, and its error."""
    model, data = tiny_model(), tiny_batches(60)
    ranking = fit("obs", model, data, ridge=ridge, num_examples=60, least=0).ranking()[::-1]
    expected = {index: by_brute_force(model, data, index, ridge) for index in range(3)}
    found = make_selector("obs", ridge=ridge, num_examples=60).costs(view_of(model, data, least=0), 0)
    for index, (order, errors) in expected.items():
        assert [heads[0] for layer, heads in ranking if layer == index] == order
        assert [row - 4 * index for _, row in found[index]] == order
        np.testing.assert_allclose(np.cumsum([cost for cost, _ in found[index]]), errors, rtol=1e-4)
    # Over all layers: what adds least goes next, as far as each layer's own order allows.
    costs = {index: np.diff([0.0, *errors]) for index, (_, errors) in expected.items()}
    gone = dict.fromkeys(range(3), 0)
    for layer, _ in ranking:
        waiting = {index: costs[index][gone[index]] for index in range(3) if gone[index] < 4}
        assert layer == min(waiting, key=waiting.get)
        gone[layer] += 1


@pytest.mark.parametrize("least", [0, 1, 2, 5])
def test_the_order_over_all_layers_is_that_of_one_removal_after_the_other(least, monkeypatch):
    """With ties within and between layers, costs that fall, and a layer below the minimum, against a walk by hand."""
    for seed in range(20):
        rng, sizes = np.random.default_rng(seed), (4, 1, 3)
        rows = np.split(np.arange(8), np.cumsum(sizes)[:-1])
        gone = [[(float(rng.integers(3)), int(row)) for row in rng.permutation(own)] for own in rows]
        monkeypatch.setattr(Obs, "costs", lambda self, view, seed, gone=gone: gone)
        heads = [(layer, head) for layer, size in enumerate(sizes) for head in range(size)]
        view = types.SimpleNamespace(units=units_of(heads, (3, 4), least=least))
        waiting, expected = [list(own) for own in gone], []
        while any(waiting):
            open_layers = [own for own in waiting if len(own) > least] or [own for own in waiting if own]
            cheapest = min(own[0][0] for own in open_layers)
            expected.append(next(own for own in open_layers if own[0][0] == cheapest).pop(0)[1])
        assert np.argsort(Obs()._fit(view, 0).scores).tolist() == expected


def test_the_last_head_of_a_layer_stays_to_the_end():
    found = fit("obs", tiny_model(), tiny_batches(60), num_examples=60)
    assert {layer for layer, _ in found.ranking()[:3]} == {0, 1, 2}
    assert all(len(found.keep(3).heads[layer]) == 1 for layer in range(3))


def copied_head():
    model = tiny_model()
    layer = attention_layers(model)[1]
    with torch.no_grad():
        for role in ("query", "key", "value"):
            module = layer.block.get_submodule(getattr(layer.spec, role))
            module.weight[8:16] = module.weight[0:8]
            module.bias[8:16] = module.bias[0:8]
    return model


def test_a_copied_head_costs_nothing():
    kept = fit("obs", copied_head(), tiny_batches(60), ridge=1e-6).keep(11)
    assert kept.heads[0] == kept.heads[2] == (0, 1, 2, 3)
    assert kept.heads[1] in ((0, 2, 3), (1, 2, 3))
    cost, row = make_selector("obs", ridge=1e-6).costs(view_of(copied_head(), tiny_batches(60)), 0)[1][0]
    assert cost < 1e-4 and row in (4, 5)


@pytest.mark.parametrize("num_examples", [60, 2])
def test_a_singular_system_has_an_answer(num_examples):
    """Copied heads, or fewer tokens than channels, and no ridge at all: the count holds, and a copy goes for free."""
    found = fit("obs", copied_head(), tiny_batches(60), ridge=0, num_examples=num_examples)
    kept = found.keep(8)
    assert kept.num_heads == 8 and not {0, 1} <= set(kept.heads[1])
    selector = make_selector("obs", ridge=0, num_examples=num_examples)
    assert all(np.isfinite(own).all() for own in selector.costs(view_of(copied_head(), tiny_batches(60)), 0))


def test_the_model_stays_as_it_was():
    model = tiny_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit("obs", model, tiny_batches()).keep(6)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_labels_are_not_looked_at():
    model, data = tiny_model(), tiny_batches()
    expected = fit("obs", model, data).scores
    found = make_selector("obs").fit(view_of(model, without_labels(data), conditioning="none"), seed=0)
    assert (found.scores == expected).all()


def test_bad_input():
    model = tiny_model()
    with pytest.raises(DataError, match="gave no batch"):
        fit("obs", model, [])
    with torch.no_grad():
        model.bert.encoder.layer[1].attention.self.value.weight.fill_(float("inf"))
    with pytest.raises(PruningError, match="Attention layer 1"):
        fit("obs", model, tiny_batches())
    for changes in ({"ridge": -1.0}, {"num_examples": 0}):
        with pytest.raises(ConfigError, match="`ridge` must be at least 0 and `num_examples` at least 1"):
            make_selector("obs", **changes)


def test_too_few_examples_are_told(caplog):
    logger = logging.getLogger("cahp_plugin.selectors.reconstruction")
    logger.addHandler(caplog.handler)
    try:
        fit("obs", tiny_model(), tiny_batches(60), num_examples=2)
        assert "tokens for 32 channels: too few" in caplog.text
        caplog.clear()
        fit("obs", tiny_model(), tiny_batches(60), num_examples=60)
        assert not caplog.text
    finally:
        logger.removeHandler(caplog.handler)
