"""Planners: what they keep against brute force and against arithmetic by hand, and what they refuse."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from zoo import outputs, zoo_inputs, zoo_model

from cahp_plugin import Budget, plan_pruning
from cahp_plugin.errors import BudgetError, ConfigError
from cahp_plugin.observe.masks import unit_gradients
from cahp_plugin.observe.normal_equations import NormalEquations
from cahp_plugin.observe.streams import apart, calibration_batches
from cahp_plugin.plan.compared import compared_of
from cahp_plugin.plan.making import EVERY
from cahp_plugin.plan.trials import Reference
from cahp_plugin.planners import PLANNERS, make_planner
from cahp_plugin.planners.base import Job, best_first
from cahp_plugin.planners.kwon import scales, search, swapped
from cahp_plugin.planners.sizes import norms
from cahp_plugin.recover.pruned import pruned_copy
from cahp_plugin.recover.state import at_rest
from cahp_plugin.units import prunable_layers
from cahp_plugin.units.linear import weight_of


def job_of(name="bert", share=0.6, model=None, seed=0):
    model = model or zoo_model(name)
    data = [zoo_inputs(name, batch=8, seed=number) for number in range(8)]
    if name in ("llama", "gpt2", "t5"):
        data = [inputs | {"labels": inputs.get("decoder_input_ids", inputs["input_ids"])} for inputs in data]
    batches = calibration_batches(data, model, 64, labels=True)
    fitted, held_out = apart(batches, EVERY)
    plan = plan_pruning(model, data, num_examples=64, multiple_of=1)
    budget = Budget(macs=share, sequence_length=16, multiple_of=1)
    return Job(model, lambda order: plan, budget, fitted, held_out, seed)


@pytest.fixture(scope="module")
def bert():
    return job_of()


def used(job, kept):
    costs, capacity = job.costs()
    spent = sum(
        costs[layer.output_path] * len(getattr(kept, layer.noun)[layer.index]) / layer.group_size
        for layer in job.layers
    )
    return spent / capacity


@pytest.mark.parametrize("name", ["bert", "llama", "t5", "gpt2", "vit"])
@pytest.mark.parametrize("planner", PLANNERS)
def test_every_planner_meets_the_budget(name, planner):
    job = job_of(name, 0.75)
    before = copy.deepcopy(job.model.state_dict())
    entry = PLANNERS[planner]
    with at_rest(job.model):
        try:
            found = make_planner(planner).propose(job, repair=entry.own_repair)
        except BudgetError as error:
            assert planner in ("heads", "neurons") and f"without any {planner}" in str(error)
            return
    assert 0.5 < used(job, found.kept) <= 1 + 1e-9
    assert all(torch.equal(value, before[key]) for key, value in job.model.state_dict().items())
    assert (found.repaired is not None) == entry.own_repair
    pruned = pruned_copy(job.model, found.kept, job.batches[0])
    if found.repaired is None:
        return
    assert {key: value.shape for key, value in found.repaired.state_dict().items()} == {
        key: value.shape for key, value in pruned.state_dict().items()
    }
    assert torch.isfinite(outputs(found.repaired, zoo_inputs(name))).all()


def test_what_may_not_go_stays(bert):
    whole = {layer.output_path: set(layer.present) for layer in bert.layers}
    with at_rest(bert.model):
        budget = dataclasses.replace(bert.budget, macs=0.8)
        found = make_planner("neurons").propose(dataclasses.replace(bert, budget=budget)).kept
        heads = make_planner("heads").propose(dataclasses.replace(bert, budget=budget)).kept
    for layer in bert.layers:
        for kept, noun in ((found, "heads"), (heads, "neurons")):
            if layer.noun == noun:
                assert set(getattr(kept, noun)[layer.index]) == whole[layer.output_path]
    with pytest.raises(BudgetError, match="without any heads"), at_rest(bert.model):
        make_planner("heads").propose(dataclasses.replace(bert, budget=dataclasses.replace(bert.budget, macs=0.05)))


@pytest.mark.parametrize("name", ["bert", "gpt2", "bart"])
def test_gradients_by_masks_are_slopes_of_the_loss(name):
    """Against the loss with one unit's columns of the output projection a little larger, and a little smaller."""
    model = zoo_model(name).double()
    layers = prunable_layers(model)
    batches = calibration_batches([zoo_inputs(name, batch=3, seed=1)], model, 3)

    def losses(output, batch):
        found = output["logits"].double().square()
        mask = batch.mask if batch.decoder_mask is None else batch.decoder_mask
        # Of rows that attend to nothing, torch's gradients are none.
        return found.mean(1) if found.dim() == 2 else (found.mean(2) * mask).mean(1)

    with at_rest(model):
        found = unit_gradients(model, layers, batches, losses)
        for layer in (layers[0], layers[-1]):
            weight, size = weight_of(layer.output), layer.unit_dim
            for unit in (0, len(layer.units) - 1):
                columns = slice(unit * size, (unit + 1) * size)
                ends = []
                for step in (1e-3, -1e-3):
                    kept = weight.data.clone()
                    weight.data[:, columns] *= 1 + step
                    ends.append(losses(model(**batches[0].inputs), batches[0]))
                    weight.data.copy_(kept)
                slope = (ends[0] - ends[1]) / 2e-3
                torch.testing.assert_close(found[layer.output_path][:, unit].double(), slope, rtol=1e-3, atol=1e-7)


def test_the_search_loses_as_little_as_any_choice(bert):
    """Against all choices of two layers' heads and of neurons in the order of their worth."""
    generator = torch.Generator().manual_seed(3)
    worth = {layer.output_path: torch.rand(len(layer.units), generator=generator) for layer in bert.layers}
    places = search(bert, worth)
    costs, capacity = bert.costs()
    lost = sum(float(own.sum() - own[places[path]].sum()) for path, own in worth.items())
    heads = [layer.output_path for layer in bert.layers if layer.noun == "heads"]
    neurons = [layer.output_path for layer in bert.layers if layer.noun == "neurons"]
    ranked = [sorted(torch.cat([worth[path] for path in own]).tolist(), reverse=True) for own in (heads, neurons)]
    best = np.inf
    for count, more in itertools.product(range(len(ranked[0]) + 1), range(len(ranked[1]) + 1)):
        if count * costs[heads[0]] + more * costs[neurons[0]] <= capacity * (1 + 1e-12):
            best = min(best, sum(ranked[0][count:]) + sum(ranked[1][more:]))
    assert lost == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_swaps_lower_the_loss_and_keep_the_number(seed):
    """Units that hurt together are not removed together; two twins are found by brute force."""
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(40, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    fisher = gradients.double().T @ gradients.double() / 40

    def loss(kept):
        gone = [place for place in range(6) if place not in kept]
        return float(fisher[gone][:, gone].sum())

    first = fisher.diagonal().argsort(descending=True)[:3].tolist()
    found = swapped(gradients, first)
    best = min(map(loss, itertools.combinations(range(6), 3)))
    assert len(found) == 3 and best <= loss(found) <= loss(first)
    twins = torch.tensor([[1.0, 1.0, 1.1, -1.1], [1.0, 1.0, 1.1, -1.1]])  # one of a sign, with one of the other
    assert swapped(twins, [2, 3]) in ([0, 2], [0, 3], [1, 2], [1, 3], [0, 1])


def test_scales_are_those_of_least_squares():
    """Against numpy on the outputs of each unit, damped as in the paper, and not beyond ten."""
    model = zoo_model("bert")
    layer = prunable_layers(model)[0]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, len(layer.units) * layer.unit_dim, generator=generator)
    weight, bias = weight_of(layer.output).detach(), layer.output.bias.detach()
    scale = torch.tensor([0.5, 1.5, 2.0, 1.0]).repeat_interleave(layer.unit_dim)
    equations = NormalEquations()
    equations.add(x, (x * scale) @ weight.T + bias)
    change, shift = scales()(layer, equations.less(weight, bias))
    parts = np.stack(
        [
            (x[:, part] @ weight[:, part].T).double().numpy().ravel()
            for part in torch.arange(x.shape[1]).split(layer.unit_dim)
        ],
        axis=1,
    )
    wanted = parts @ (np.array([0.5, 1.5, 2.0, 1.0]) - 1)
    damped = np.linalg.lstsq(np.vstack([parts, np.eye(4)]), np.concatenate([wanted, np.zeros(4)]), rcond=None)[0]
    expected = weight.double() * torch.tensor(damped).repeat_interleave(layer.unit_dim)
    torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-6)
    assert not shift.any()
    equations.add(x, 1000 * x @ weight.T)
    stopped = scales()
    for _ in range(2):  # that layer, and all after it
        assert not stopped(layer, equations.less(weight, bias))[0].any()


def test_the_best_for_their_cost_stay():
    scores = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([4.0, 10.0])}
    costs = {"a": 1.0, "b": 4.0}  # worth 3, 1 and 1, 2.5
    assert best_first(scores, costs, 5.0) == {"a": [0], "b": [1]}
    assert best_first(scores, costs, 6.0) == {"a": [0, 1], "b": [1]}
    assert best_first(scores, costs, 0.5) == {"a": [], "b": []}


def test_even_planners_take_the_same_share_of_every_layer(bert):
    with at_rest(bert.model):
        kept = {order: make_planner(order).propose(bert).kept for order in ("uniform", "magnitude", "random")}
        other = make_planner("random").propose(dataclasses.replace(bert, seed=1)).kept
    for found in kept.values():
        for kind in (found.heads, found.neurons):
            assert len({len(units) for units in kind.values()}) == 1
    assert kept["random"] != other
    for layer in bert.layers:
        weights = norms(layer)
        chosen = set(getattr(kept["magnitude"], layer.noun)[layer.index])
        assert chosen == {layer.present[place] for place in weights.topk(len(chosen)).indices.tolist()}
    attention = next(layer for layer in bert.layers if layer.noun == "heads")
    rows = slice(attention.size, 2 * attention.size)  # of the second head
    parts = [module.weight[rows] for module in attention.projections().values()]
    square = sum(float(part.square().sum()) for part in [*parts, attention.output.weight[:, rows]])
    assert float(norms(attention)[1]) == pytest.approx(square**0.5, rel=1e-6)


def test_a_refit_after_each_sublayer_comes_nearer_to_the_dense_model():
    job = job_of(share=0.5)
    with at_rest(job.model):
        found = make_planner("kprune").propose(job, repair=True)
        far = Reference(job.model, job.held_out, compared_of(job.model))
        plain = pruned_copy(job.model, found.kept, job.batches[0])
        assert far.divergences(found.repaired.eval()).mean() < far.divergences(plain.eval()).mean()
        again = make_planner("kprune").propose(job)
    assert again.kept == found.kept and again.repaired is None


def test_planners_that_have_no_meaning_are_refused():
    job = job_of()
    job.model.config.problem_type = "regression"
    with pytest.raises(ConfigError, match="`kprune` has no meaning"), at_rest(job.model):
        make_planner("kprune").propose(job)
    with pytest.raises(ConfigError, match="no planner 'other'; known are joint, heads"):
        make_planner("other")
