import math

import numpy as np
import pytest
import torch
from planted import planted_model
from tiny import ARCHITECTURES, model_inputs, tiny_batches, tiny_model
from zoo import zoo_model

from cahp_plugin import CAHPImportance, CAHPPruner
from cahp_plugin.errors import ConfigError, DataError, SelectionError
from cahp_plugin.observe.maps import attention_maps, map_arguments
from cahp_plugin.selectors import HIESImportance, RankingImportance, attention_entropy
from cahp_plugin.selectors.entropy import row_entropies
from cahp_plugin.units import attention_layers


def by_loops(model, data):
    """Entropies one example, head, query and key at a time, each example alone and without padding."""
    layers = attention_layers(model)
    sums, count = np.zeros((len(layers), 4)), 0
    for batch in data:
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            alone = {"input_ids": ids[mask.bool()][None], "attention_mask": mask[mask.bool()][None]}
            maps = []
            with torch.no_grad(), attention_maps(model, layers, lambda *found, maps=maps: maps.append(found)):
                model(**alone, **map_arguments(model, layers))
            for layer, found in maps:
                depths = sum(other == layer for other, _ in maps)  # layers that depths share are seen at each
                for head, rows in enumerate(found[0].tolist()):
                    entropies = [-sum(a * math.log(a) for a in row if a > 0) / math.log(len(row)) for row in rows]
                    sums[layer, head] += sum(entropies) / len(entropies) / depths
            count += 1
    return sums / count


@pytest.mark.parametrize("name", [*ARCHITECTURES, "albert"])
def test_entropy_equals_loops_over_unpadded_examples(name):
    model, data = zoo_model(name), tiny_batches(12, 5)
    np.testing.assert_allclose(attention_entropy(model, data), by_loops(model, data), atol=2e-6)


def test_left_padding_changes_nothing_in_the_arithmetic():
    maps, mask = torch.rand(1, 2, 4, 4).softmax(-1), torch.tensor([[True, True, True, False]])
    maps[..., 3] = 0  # a padded key gets no attention
    turned, order = maps.flip(-1, -2), mask.flip(1)
    torch.testing.assert_close(row_entropies(maps, mask), row_entropies(turned, order))


def test_closed_forms():
    mask = torch.ones(1, 5, dtype=torch.bool)
    uniform, single = torch.full((5, 5), 0.2), torch.eye(5)
    half = torch.zeros(5, 5)
    half[:, :2] = 0.5
    found = row_entropies(torch.stack([uniform, single, half])[None], mask)
    np.testing.assert_allclose(found, [[1, 0, math.log(2) / math.log(5)]], atol=1e-6)
    alone = row_entropies(torch.ones(1, 2, 1, 1), torch.ones(1, 1, dtype=torch.bool))
    assert alone.tolist() == [[0, 0]]


def test_hies_is_the_mix_of_both():
    salience = np.array([[0.0, 2.0], [4.0, np.nan]])
    entropy = np.array([[0.2, 0.6], [1.0, np.nan]])
    found = HIESImportance(salience, entropy, 1, alpha=0.25, min_heads_per_layer=0)
    expected = 0.25 * np.array([[0, 0.5], [1, np.nan]]) + 0.75 * np.array([[1, 0.5], [0, np.nan]])
    np.testing.assert_allclose(found.scores, expected)
    assert found.kept.heads == {0: (0,), 1: ()}
    salience = np.random.default_rng(0).random((3, 4))
    entropy = np.random.default_rng(1).random((3, 4))
    assert HIESImportance(salience, entropy, 5, alpha=1).kept.heads == RankingImportance(salience, 5).kept.heads
    assert HIESImportance(salience, entropy, 5, alpha=0).kept.heads == RankingImportance(-entropy, 5).kept.heads


def test_the_model_stays_as_it_was_and_pruned_ones_work():
    model, data = planted_model(num_examples=16)
    CAHPPruner(model, model_inputs(), importance=CAHPImportance({0: (1, 3), 1: ()})).step()
    model.train()
    found = attention_entropy(model, data)
    assert model.training and not any(module._forward_hooks for module in model.modules())
    assert np.isnan(found).tolist() == [[True, False, True, False], [True] * 4, [False] * 4]


def test_bad_input():
    with pytest.raises(ConfigError, match=r"`alpha` must be a number in \[0, 1\]; got 1.5"):
        HIESImportance(np.zeros((2, 2)), np.zeros((2, 2)), 2, alpha=1.5)
    with pytest.raises(SelectionError, match=r"\(2, 2\) and `entropy` \(2, 3\)"):
        HIESImportance(np.zeros((2, 2)), np.zeros((2, 3)), 2)
    model = tiny_model()
    with pytest.raises(DataError, match="gave no batch"):
        attention_entropy(model, [])
    with torch.no_grad():
        model.bert.encoder.layer[1].attention.self.query.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="attention maps of layer 1 are not numbers"):
        attention_entropy(model, tiny_batches())
