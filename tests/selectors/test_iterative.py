import copy

import numpy as np
import pytest
import torch
from planted import USEFUL, planted_model
from selecting import fit
from tiny import ARCHITECTURES, model_inputs, tiny_batches, tiny_model

from cahp_plugin import CAHPImportance, CAHPPruner, recover_least_squares
from cahp_plugin.errors import ConfigError, DataError, SelectionError
from cahp_plugin.observe import prepare_batches
from cahp_plugin.observe.observation import Salience
from cahp_plugin.observe.sums import accumulate
from cahp_plugin.selectors import make_selector
from cahp_plugin.units import attention_layers

NAME = "salience-iterative"


def unlabelled(batch):
    return {name: value for name, value in batch.items() if name != "labels"}


def salience_table(model, data):
    """Salience of each head by its original index, NaN where it is gone."""
    layers = attention_layers(model)
    found = Salience(model, layers)
    accumulate(model, list(prepare_batches(data, model)), [found], "")
    table = np.full((3, 4), np.nan)
    places = [(layer.index, head) for layer in layers for head in layer.heads]
    for place, value in zip(places, found.finish(), strict=True):
        table[place] = value
    return table


def test_each_round_removes_what_is_least_salient_now():
    """The rounds by hand: salience, its rank within the layers' norms, removal, repair."""
    model, data = tiny_model(), tiny_batches(48, 8)
    found = fit(NAME, model, data, step=3, num_examples=40)
    kept_heads = found.keep(5)
    assert (
        len(found._seconds) == 3 and len(found._gone) == 9
    )  # whole rounds; the last one's order gives the number in between
    used, pruned = data[:5], copy.deepcopy(model)
    for target in (9, 6, 5):
        table = salience_table(pruned, used)
        table = table / np.sqrt(np.nansum(table**2, axis=1, keepdims=True))
        present = [(layer, head) for layer in range(3) for head in range(4) if not np.isnan(table[layer, head])]
        while len(present) > target:
            alone = [layer for layer in range(3) if sum(place[0] == layer for place in present) == 1]
            present.remove(min((p for p in present if p[0] not in alone), key=lambda place: table[place]))
        kept = {layer: [head for at, head in present if at == layer] for layer in range(3)}
        CAHPPruner(pruned, unlabelled(data[0]), importance=CAHPImportance(kept)).step()
        if target > 5:
            recover_least_squares(pruned, model, used, num_examples=40)
    assert kept_heads.heads == {layer: tuple(heads) for layer, heads in kept.items()}


def test_a_walk_that_goes_on_is_one_from_the_start():
    model, data = tiny_model(), tiny_batches(24, 6)
    walk = fit(NAME, model, data, step=2)
    for count in (8, 7, 3, 9, 12, 6):
        found = walk.keep(count)
        assert found == fit(NAME, model, data, step=2).keep(count) and found.num_heads == count
    assert len(walk._seconds) == 5 and len(set(walk._gone)) == 10


def test_rounds_that_were_walked_before_are_charged():
    walk = fit(NAME, tiny_model(), tiny_batches(24, 6), step=4)
    walk.keep(4)
    assert walk.spared == 0 and len(walk._seconds) == 2
    walk.keep(8)
    one = walk.spared
    walk.keep(4)
    assert walk.spared > one > 0
    walk.keep(12)
    assert walk.spared == 0


def test_planted_heads_are_found_and_the_model_stays_as_it_was():
    model, data = planted_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert fit(NAME, model, data, step=2).keep(6).heads == USEFUL
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_and_after_a_pruning(name):
    model, data = tiny_model(name), tiny_batches(24, 6)
    CAHPPruner(model, model_inputs(), importance=CAHPImportance({0: (1, 2, 3), 2: ()})).step()
    kept = fit(NAME, model, data, step=2).keep(3)
    assert kept.num_heads == 3 and 0 not in kept.heads[0]
    CAHPPruner(model, model_inputs(), importance=CAHPImportance(kept)).step()


def test_nothing_to_remove_is_no_round():
    found = fit(NAME, tiny_model(), tiny_batches())
    assert found.keep(12).heads == {layer: (0, 1, 2, 3) for layer in range(3)} and not found._seconds


def test_the_first_examples_are_used():
    model, data = tiny_model(), tiny_batches(20, 8)
    found = fit(NAME, model, data, num_examples=11)
    assert [len(batch) for batch in found._batches] == [8, 3]
    assert torch.equal(found._batches[1].labels, data[1]["labels"][:3])
    assert [len(batch) for batch in fit(NAME, model, data, num_examples=99)._batches] == [8, 8, 4]


def test_bad_input():
    model, data = tiny_model(), tiny_batches()
    for changes in ({"step": 0}, {"num_examples": 1}):
        with pytest.raises(ConfigError, match="`step` must be at least 1 and `num_examples` at least 2"):
            make_selector(NAME, **changes)
    with pytest.raises(SelectionError, match="`min_heads_per_layer=1` takes 3"):
        fit(NAME, model, data).keep(2)
    with pytest.raises(DataError, match="gave no batch"):
        fit(NAME, model, [])
