import copy

import numpy as np
import pytest
import torch
from planted import USEFUL, planted_model
from tiny import ARCHITECTURES, model_inputs, tiny_batches, tiny_model

from cahp_plugin import CAHPImportance, CAHPPruner, recover_least_squares
from cahp_plugin.errors import ConfigError, DataError, SelectionError
from cahp_plugin.observe import observe, prepare_batches
from cahp_plugin.selectors import IterativeSalienceImportance
from cahp_plugin.selectors.iterative import SalienceWalk, measure_salience
from cahp_plugin.units import attention_layers, resolve


def unlabelled(batch):
    return {name: value for name, value in batch.items() if name != "labels"}


def salience_by_finite_differences(model, data, layer, head):
    """Mean over examples of |dL/dm| of one head, by central differences on its columns, one example at a time."""
    columns = attention_layers(model)[layer].output.weight.data.unflatten(1, (4, 8))[:, head]
    original, total, count = columns.clone(), 0.0, 0
    with torch.no_grad():
        for batch in data:
            for row in range(len(batch["labels"])):
                one = {name: value[row : row + 1] for name, value in batch.items()}
                losses = []
                for change in (1e-4, -1e-4):
                    columns.copy_(original * (1 + change))
                    losses.append(float(model(**one).loss))
                columns.copy_(original)
                total += abs(losses[0] - losses[1]) / 2e-4
                count += 1
    return total / count


def test_salience_against_finite_differences_and_the_observation():
    model, data = tiny_model().double(), tiny_batches(10, 4)
    batches = prepare_batches(data, model)
    found = measure_salience(model, list(batches))
    for layer, head in ((0, 0), (1, 2), (2, 3)):
        assert found[layer, head] == pytest.approx(salience_by_finite_differences(model, data, layer, head), rel=1e-4)
    observed = observe(model, attention_layers(model), batches, size=4, salience_share=1.0)
    np.testing.assert_allclose(found, observed.salience, rtol=1e-6)


def test_each_round_removes_what_is_least_salient_now():
    """The rounds by hand: salience, its rank within the layers' norms, removal, repair."""
    model, data = tiny_model(), tiny_batches(48, 8)
    found = IterativeSalienceImportance(model, data, 5, step=3, num_examples=40)
    assert found.rounds == (9, 6, 5)
    used, pruned = data[:5], copy.deepcopy(model)
    for target in found.rounds:
        table = measure_salience(pruned, list(prepare_batches(used, pruned)))
        table = table / np.sqrt(np.nansum(table**2, axis=1, keepdims=True))
        present = [(layer, head) for layer in range(3) for head in range(4) if not np.isnan(table[layer, head])]
        while len(present) > target:
            alone = [layer for layer in range(3) if sum(place[0] == layer for place in present) == 1]
            present.remove(min((p for p in present if p[0] not in alone), key=lambda place: table[place]))
        kept = {layer: [head for at, head in present if at == layer] for layer in range(3)}
        CAHPPruner(pruned, unlabelled(data[0]), importance=CAHPImportance(kept)).step()
        if target > 5:
            recover_least_squares(pruned, model, used, num_examples=40)
    assert found.kept.heads == {layer: tuple(heads) for layer, heads in kept.items()}


def test_a_walk_that_goes_on_is_one_from_the_start():
    model, data = tiny_model(), tiny_batches(24, 6)
    walk = SalienceWalk(model, data, step=2)
    for count in (8, 7, 4, 4, 3, 9, 12, 6):
        fresh = IterativeSalienceImportance(model, data, count, step=2)
        found, rounds = walk.down_to(count)
        assert resolve(found.kept, attention_layers(model)) == fresh.kept and rounds == fresh.rounds


def test_planted_heads_are_found_and_the_model_stays_as_it_was():
    model, data = planted_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert IterativeSalienceImportance(model, data, 6, step=2).kept.heads == USEFUL
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_and_after_a_pruning(name):
    model, data = tiny_model(name), tiny_batches(24, 6)
    CAHPPruner(model, model_inputs(), importance=CAHPImportance({0: (1, 2, 3), 2: ()})).step()
    importance = IterativeSalienceImportance(model, data, 3, step=2)
    assert sum(map(len, importance.kept.heads.values())) == 3 and 0 not in importance.kept.heads[0]
    CAHPPruner(model, model_inputs(), importance=importance).step()


def test_nothing_to_remove_is_no_round():
    found = IterativeSalienceImportance(tiny_model(), tiny_batches(), 12)
    assert found.rounds == () and found.kept.heads == {layer: (0, 1, 2, 3) for layer in range(3)}


def test_bad_input():
    model, data = tiny_model(), tiny_batches()
    with pytest.raises(ConfigError, match="`step` must be at least 1"):
        IterativeSalienceImportance(model, data, 6, step=0)
    with pytest.raises(SelectionError, match="`min_heads_per_layer` takes 3"):
        IterativeSalienceImportance(model, data, 2)
    with pytest.raises(DataError, match="gave no batch"):
        IterativeSalienceImportance(model, [], 6)
