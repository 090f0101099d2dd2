import itertools

import numpy as np
import pytest
import torch
from selecting import fit, made_up, rows_of, units_of, view_of
from tiny import ARCHITECTURES, model_inputs, tiny_batches, tiny_model

from cahp_plugin import CAHPImportance, CAHPPruner
from cahp_plugin.errors import SelectionError
from cahp_plugin.selectors import Ranked, make_selector
from cahp_plugin.selectors.ranking import over_layer_norm
from cahp_plugin.units import attention_layers

SCORES = np.array([[9.0, 8.0, 7.0, 6.0], [0.1, 0.4, 0.3, 0.2], [5.0, np.nan, 1.0, 4.0]])


def present_in(table):
    """Layer and head of each number in a table, layer by layer."""
    return tuple((int(layer), int(head)) for layer, head in np.argwhere(~np.isnan(table)))


def ranked(table, **settings):
    units = units_of(present_in(table), table.shape, **settings)
    return Ranked(units, rows_of(units, table))


class Observed:
    """A view whose salience is made up."""

    def __init__(self, table, config=None):
        self.evidence = made_up(present_in(table), table, config, separation=np.zeros((len(present_in(table)), 1)))
        self.units = self.evidence.units


def test_ranking_takes_the_best_of_all_and_the_best_of_each_layer():
    assert ranked(SCORES).keep(5).heads == {0: (0, 1, 2), 1: (1,), 2: (0,)}
    assert ranked(SCORES, least=0).keep(5).heads == {0: (0, 1, 2, 3), 1: (), 2: (0,)}
    assert ranked(SCORES).keep(0.5).heads == {0: (0, 1, 2, 3), 1: (1,), 2: (0,)}  # 5.5 of 11, rounded up
    assert ranked(SCORES).keep(11).heads == {0: (0, 1, 2, 3), 1: (0, 1, 2, 3), 2: (0, 2, 3)}
    found = make_selector("salience")._fit(Observed(SCORES), 0)
    assert found.keep(5).heads == ranked(SCORES).keep(5).heads


def test_the_ranking_names_heads_from_the_last_to_go_to_the_first():
    # The best of each layer, then 8 7 6 | 4 1 | .3 .2 .1
    order = [(0, 0), (1, 1), (2, 0), (0, 1), (0, 2), (0, 3), (2, 3), (2, 2), (1, 2), (1, 3), (1, 0)]
    assert ranked(SCORES).ranking() == [(layer, (head,)) for layer, head in order]
    groups = Ranked(units_of([(0, 0), (0, 2), (1, 0), (1, 2)], (2, 4), group_size=2), [1.0, 3.0, 2.0, 4.0])
    assert groups.ranking() == [(0, (2, 3)), (1, (2, 3)), (1, (0, 1)), (0, (0, 1))]
    assert groups.keep(6).heads == {0: (2, 3), 1: (0, 1, 2, 3)}


def test_absent_heads_do_not_disturb_the_order():
    """NaN is neither above nor below: sorted among the scores it would leave them out of order."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        scores = generator.random((4, 6))
        scores[generator.random((4, 6)) < 0.4] = np.nan
        best = sorted(scores[~np.isnan(scores)])[-5:]
        kept = ranked(scores, least=0).keep(5).heads
        assert sorted(scores[layer, head] for layer, heads in kept.items() for head in heads) == best


def test_salience_is_divided_by_the_norm_of_the_layer():
    norms = [np.sqrt(81 + 64 + 49 + 36), np.sqrt(0.01 + 0.16 + 0.09 + 0.04), np.sqrt(25 + 1 + 16)]
    found = make_selector("salience-layernorm")._fit(Observed(SCORES), 0)
    expected = SCORES / np.array(norms)[:, None]
    np.testing.assert_allclose(found.scores, expected[~np.isnan(SCORES)])
    # .59 .53 .46 .40 | .18 .73 .55 .37 | .77 - .15 .62
    assert found.keep(4).heads == {0: (0,), 1: (1,), 2: (0, 3)}
    assert over_layer_norm(np.zeros(6), (0, 0, 0, 2, 2, 2)).tolist() == [0] * 6


def test_scores_that_are_no_numbers_or_too_few_are_refused():
    units = units_of([(0, 0), (0, 1)], (1, 2))
    for scores in ([1.0], [1.0, np.nan], [[1.0, 2.0]], [np.inf, 1.0]):
        with pytest.raises(SelectionError, match="Expected 2 finite scores, one for each head or group"):
            Ranked(units, scores)


def test_magnitude_is_the_norm_of_the_columns():
    model = tiny_model()
    found = fit("magnitude", model)
    for (layer, head), score in zip(itertools.product(range(3), range(4)), found.scores, strict=True):
        weight = model.bert.encoder.layer[layer].attention.output.dense.weight[:, 8 * head : 8 * head + 8]
        assert score == pytest.approx(float(torch.linalg.matrix_norm(weight.detach())), rel=1e-5)


def test_random_is_a_distribution_over_all_heads_that_the_seed_decides():
    view, selector = view_of(tiny_model()), make_selector("random")
    draws = [selector.fit(view, seed=seed).keep(6).heads for seed in range(200)]
    assert draws[3] == fit("random", tiny_model(), seed=3).keep(6).heads
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
    for selector in ("random", "magnitude", "salience", "salience-layernorm", "obs"):
        kept = fit(selector, model, data).keep(4)
        assert kept.num_heads == 4 and 0 not in kept.heads[0] and kept.heads[2] == ()
    CAHPPruner(model, model_inputs(), importance=CAHPImportance(kept)).step()
    assert sum(len(layer.heads) for layer in attention_layers(model)) == 4


@pytest.mark.parametrize(
    ("num_heads", "message"),
    [(13, "asks for 13 heads; the model has 12"), (2, "asks for 2 heads, but `min_heads_per_layer=1` takes 3"),
     (1.5, r"in \(0, 1\); got 1.5"), (-1, "asks for -1 heads")],
)  # fmt: skip
def test_head_counts_that_do_not_fit(num_heads, message):
    model = tiny_model()
    for found in (fit("random", model), fit("obs", model, tiny_batches())):
        with pytest.raises(SelectionError, match=message):
            found.keep(num_heads)
