"""Orders and refits of one layer, against least squares on the examples themselves."""

import numpy as np
import pytest
import torch
from selecting import view_of
from tiny import tiny_batches, tiny_model

from cahp_plugin.observe.normal_equations import NormalEquations
from cahp_plugin.plan.orders import centred, refitted, selector_order, sizes_of
from cahp_plugin.selectors import make_selector
from cahp_plugin.selectors.elimination import eliminate_units
from cahp_plugin.units import prunable_layers


def layers(bias=True):
    model = tiny_model()
    found = prunable_layers(model)
    for layer in found:
        if not bias:
            layer.output.bias = None
    return [found[0], found[-1]]


def equations(layer, rows):
    sums = NormalEquations()
    sums.add(rows, rows[:, :0])
    return sums


@pytest.mark.parametrize("bias", [True, False])
def test_a_refit_is_the_least_squares_fit_to_the_whole_layer(bias):
    for layer in layers(bias):
        width = layer.output.weight.shape[1]
        rows = torch.randn(400, width, generator=torch.Generator().manual_seed(0)).double()
        rows = rows @ torch.randn(width, width, generator=torch.Generator().manual_seed(1)).double() + 0.7
        gram, mean = centred(layer, equations(layer, rows))
        kept = list(range(0, len(layer.units), 2))
        weight, shift = refitted(layer, gram, mean, kept, ridge=0.0)
        channels = [place * layer.unit_dim + offset for place in kept for offset in range(layer.unit_dim)]
        wanted = rows @ layer.output.weight.detach().double().T
        inputs = rows[:, channels]
        if bias:
            inputs = torch.cat([inputs, torch.ones(len(rows), 1).double()], dim=1)
        best = torch.linalg.lstsq(inputs, wanted).solution
        found = rows @ weight.T + (shift if bias else 0)
        torch.testing.assert_close(found, inputs @ best, rtol=1e-5, atol=1e-6)
        gone = [column for column in range(width) if column not in channels]
        assert not weight[:, gone].any()
        if not bias:
            assert not shift.any()


def test_a_layer_without_any_unit_gives_its_mean():
    layer = layers()[0]
    rows = torch.randn(50, layer.output.weight.shape[1]).double()
    gram, mean = centred(layer, equations(layer, rows))
    weight, shift = refitted(layer, gram, mean, [], ridge=0.1)
    assert not weight.any()
    torch.testing.assert_close(shift, (rows @ layer.output.weight.detach().double().T).mean(0))


def test_the_first_to_go_is_the_one_whose_loss_the_others_repair_best():
    for layer in layers():
        width, size = layer.output.weight.shape[1], layer.unit_dim
        rows = torch.randn(300, width, generator=torch.Generator().manual_seed(2)).double()
        gram, _ = centred(layer, equations(layer, rows))
        order = eliminate_units(layer, gram, ridge=1e-8).order
        assert sorted(order) == list(range(len(layer.units)))
        centre = rows - rows.mean(0)
        wanted = centre @ layer.output.weight.detach().double().T
        errors = []
        for unit in range(len(layer.units)):
            stays = [column for column in range(width) if column // size != unit]
            best = torch.linalg.lstsq(centre[:, stays], wanted).solution
            errors.append(float((centre[:, stays] @ best - wanted).square().sum()))
        assert order[0] == int(np.argmin(errors))


def test_sizes_fall_from_all_to_none_in_steps_that_kernels_like():
    heads, neurons = layers()
    assert sizes_of(heads, 16) == (4, 3, 2, 1, 0)
    assert sizes_of(neurons, 16) == (48, 32, 16, 0)
    assert sizes_of(neurons, 1)[:3] == (48, 43, 38) and sizes_of(neurons, 1)[-1] == 0


def view():
    model = tiny_model()
    return model, view_of(model, tiny_batches(), least=0, signature_size=4)


def test_a_heads_place_is_the_smallest_number_of_heads_at_which_cahp_keeps_it():
    _, seen = view()
    order = selector_order(seen, "cahp", 0)
    fitted = make_selector("cahp").fit(view()[1], seed=0)
    first = {}
    for size in range(2, len(seen.units.firsts)):
        for layer, heads in fitted.keep(size).heads.items():
            for head in heads:
                first.setdefault((layer, head), size)
    salience = dict(zip(seen.units.firsts, seen.evidence.salience, strict=True))
    assert order == sorted(seen.units.firsts, key=lambda head: (first.get(head, 12), -salience[head]))


def test_a_ranked_selector_gives_its_ranking():
    model, seen = view()
    norms = {}
    for layer in (layer for layer in prunable_layers(model) if layer.noun == "heads"):
        for head in range(4):
            norms[layer.index, head] = float(layer.output.weight[:, 8 * head : 8 * head + 8].norm())
    assert selector_order(seen, "magnitude", 0) == sorted(norms, key=norms.get, reverse=True)
