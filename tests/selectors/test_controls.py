import dataclasses

import numpy as np
import pytest
import torch
from tiny import model_inputs, tiny_batches, tiny_model

from cahp_plugin import CAHPConfig, CAHPPruner, HeadSelection, select_heads
from cahp_plugin.errors import ConfigError, DataError, SelectionError
from cahp_plugin.selectors import NoiseImportance, SeparationImportance, ShuffledLabelImportance
from cahp_plugin.selectors.controls import ShuffledLabels, gaussian_like, shuffled_separation

CONFIG = CAHPConfig(signature_size=5, num_heads=6)


@pytest.fixture(scope="module")
def given():
    model, data = tiny_model(), tiny_batches(36)
    return model, data, select_heads(model, data, CONFIG)


def labels_of(batches):
    return torch.cat([batch["labels"] for batch in batches])


def test_labels_are_dealt_out_anew():
    data = tiny_batches(36)
    once, again, other = (labels_of(ShuffledLabels(data, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(once, again) and not torch.equal(once, other) and not torch.equal(once, labels_of(data))
    assert torch.bincount(once).tolist() == torch.bincount(labels_of(data)).tolist()
    walk = ShuffledLabels((batch for batch in data), seed=0)  # an iterator, walked through twice
    assert torch.equal(labels_of(walk), once) and torch.equal(labels_of(walk), once)
    assert [list(batch) for batch in walk] == [list(batch) for batch in data]


def test_shuffled_separation_is_that_of_data_with_those_labels(given):
    """Against the whole observation of a data set whose labels were permuted by hand."""
    model, data, selection = given
    found = shuffled_separation(model, data, selection, seed=3)
    permuted = [dict(batch) for batch in ShuffledLabels(data, seed=3)]
    np.testing.assert_allclose(found, select_heads(model, permuted, CONFIG).separation, atol=1e-6)
    assert np.abs(found - selection.separation).max() > 0.01


def test_true_labels_lead_to_cahps_own_choice(given):
    _, _, selection = given
    found = SeparationImportance(selection, selection.separation, 6)
    assert found.kept.heads == selection.kept.heads and found.selection.salience is not None


def test_only_the_separation_changes(given):
    model, data, selection = given
    shuffled = ShuffledLabelImportance(model, data, selection, 6, seed=1)
    noise = NoiseImportance(selection, 6, seed=1)
    for found in (shuffled, noise):
        np.testing.assert_array_equal(found.selection.salience, selection.salience)
        assert found.selection.config == dataclasses.replace(selection.config, seed=1)
        assert sum(map(len, found.kept.heads.values())) == 6
    np.testing.assert_array_equal(noise.selection.separation, gaussian_like(selection, 1))
    pruned = tiny_model()
    CAHPPruner(pruned, model_inputs(), importance=shuffled).step()


def test_noise_is_standard_normal_and_the_seed_decides(given):
    _, _, selection = given
    noise = gaussian_like(selection, 0)
    assert noise.shape == selection.separation.shape and noise.dtype == np.float32
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
    assert (noise == gaussian_like(selection, 0)).all() and (noise != gaussian_like(selection, 1)).any()
    assert len({str(NoiseImportance(selection, 6, seed=seed).kept.heads) for seed in range(6)}) > 1


def test_bad_input(given):
    model, _, selection = given
    with pytest.raises(SelectionError, match="has 3 rows; the selection is of 12 heads"):
        SeparationImportance(selection, np.zeros((3, 4)), 6)
    with pytest.raises(SelectionError, match="no separation matrix"):
        NoiseImportance(HeadSelection.from_dict(selection.to_dict()), 6)
    for data in ([], [{"input_ids": torch.ones(2, 3, dtype=torch.long)}]):
        with pytest.raises(DataError, match="no labels to shuffle"):
            ShuffledLabelImportance(model, data, selection, 6)
    apart = dataclasses.replace(selection, config=CAHPConfig(conditioning="none"))
    with pytest.raises(ConfigError, match="no labels to shuffle"):
        shuffled_separation(model, [], apart, seed=0)
