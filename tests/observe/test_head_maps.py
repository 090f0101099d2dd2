import math

import numpy as np
import pytest
import torch
from selecting import grouped_batches, grouped_model
from tiny import ARCHITECTURES, tiny_batches, tiny_model
from zoo import zoo_model

from cahp_plugin import CAHPImportance, CAHPPruner
from cahp_plugin.errors import DataError
from cahp_plugin.observe import prepare_batches
from cahp_plugin.observe.conditioning import CONDITIONINGS
from cahp_plugin.observe.head_maps import Entropies, row_entropies
from cahp_plugin.observe.maps import attention_maps, map_arguments
from cahp_plugin.observe.sums import accumulate
from cahp_plugin.units import attention_layers


def entropies_of(model, data):
    found = Entropies(model, attention_layers(model))
    accumulate(model, prepare_batches(data, model, CONDITIONINGS["none"]), [found], "Measuring entropy")
    return found.finish()


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
                depths = sum(other is layer for other, _ in maps)  # layers that depths share are seen at each
                for head, rows in enumerate(found[0].tolist()):
                    entropies = [-sum(a * math.log(a) for a in row if a > 0) / math.log(len(row)) for row in rows]
                    sums[layer.index, head] += sum(entropies) / len(entropies) / depths
            count += 1
    return sums / count


@pytest.mark.parametrize("name", [*ARCHITECTURES, "albert"])
def test_entropy_equals_loops_over_unpadded_examples(name):
    model, data = zoo_model(name), tiny_batches(12, 5)
    np.testing.assert_allclose(entropies_of(model, data), by_loops(model, data).flatten(), atol=2e-6)


def test_entropy_of_a_group_is_the_mean_of_its_heads():
    model, data = grouped_model(2), grouped_batches(6, 4)
    expected = by_loops(model, data).reshape(2, 2, 2).mean(axis=2)
    np.testing.assert_allclose(entropies_of(model, data), expected.flatten(), atol=2e-6)


def test_left_padding_changes_nothing_in_the_arithmetic():
    maps, mask = torch.rand(1, 2, 4, 4).softmax(-1), torch.tensor([[True, True, True, False]])
    maps[..., 3] = 0  # a padded key gets no attention
    turned, order = maps.flip(-1, -2), mask.flip(1)
    torch.testing.assert_close(row_entropies(maps, mask, mask), row_entropies(turned, order, order))


def test_closed_forms():
    mask = torch.ones(1, 5, dtype=torch.bool)
    uniform, single = torch.full((5, 5), 0.2), torch.eye(5)
    half = torch.zeros(5, 5)
    half[:, :2] = 0.5
    found = row_entropies(torch.stack([uniform, single, half])[None], mask, mask)
    np.testing.assert_allclose(found, [[1, 0, math.log(2) / math.log(5)]], atol=1e-6)
    one = torch.ones(1, 1, dtype=torch.bool)
    assert row_entropies(torch.ones(1, 2, 1, 1), one, one).tolist() == [[0, 0]]


def test_queries_and_keys_of_their_own():
    maps = torch.tensor([[[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]], dtype=torch.float64)[None]
    queries, keys = torch.tensor([[True, False]]), torch.tensor([[True, True, False]])
    # The one real query at the two real keys: 1/2 ln 2 + 1/4 ln 4, over ln 2.
    assert float(row_entropies(maps, queries, keys)) == pytest.approx(1.0)
    both = torch.ones(1, 2, dtype=torch.bool)
    assert float(row_entropies(maps, both, torch.ones(1, 3, dtype=torch.bool))) == pytest.approx(
        1.5 * math.log(2) / math.log(3) / 2
    )


def test_entropy_of_a_pruned_model_and_of_what_is_not_a_number():
    model, data = tiny_model(), tiny_batches(12)
    CAHPPruner(model, {"input_ids": data[0]["input_ids"]}, importance=CAHPImportance({0: (1, 3), 1: ()})).step()
    assert len(entropies_of(model, data)) == 6
    model = tiny_model()
    with torch.no_grad():
        model.bert.encoder.layer[1].attention.self.query.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="attention maps of layer 1 are not numbers"):
        entropies_of(model, data)
