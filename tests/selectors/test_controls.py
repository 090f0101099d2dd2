import dataclasses

import numpy as np
import pytest
import torch
from selecting import made_up, without_labels
from tiny import model_inputs, tiny_batches, tiny_model

from cahp_plugin import CAHPConfig, CAHPImportance, CAHPPruner, select_heads
from cahp_plugin.errors import ConfigError, DataError, SelectionError
from cahp_plugin.observe import prepare_batches
from cahp_plugin.selectors import View, make_selector
from cahp_plugin.selectors.controls import ShuffledLabels, with_noise

CONFIG = CAHPConfig(signature_size=5, num_heads=6)


@pytest.fixture(scope="module")
def given():
    model, data = tiny_model(), tiny_batches(36)
    return model, data, View(model, data, CONFIG)


def labels_of(batches):
    return torch.cat([batch["labels"] for batch in batches])


def shuffled(data, seed):
    """Dict batches with the labels that the control gives them."""
    walk = ShuffledLabels(prepare_batches(data, tiny_model()), seed=seed)
    return [{**batch.inputs, "labels": batch.labels} for batch in walk]


def test_labels_are_dealt_out_anew():
    data = tiny_batches(36)
    once, again, other = (labels_of(shuffled(data, seed)) for seed in (0, 0, 1))
    assert torch.equal(once, again) and not torch.equal(once, other) and not torch.equal(once, labels_of(data))
    assert torch.bincount(once).tolist() == torch.bincount(labels_of(data)).tolist()
    for batch, other in zip(shuffled(data, 0), data, strict=True):
        assert sorted(batch) == sorted(other) and torch.equal(batch["input_ids"], other["input_ids"])
    walk = ShuffledLabels(prepare_batches(data, tiny_model()), seed=0)
    for _ in range(2):  # it may be walked through again
        assert len(walk) == len(data) and torch.equal(torch.cat([batch.labels for batch in walk]), once)


def test_an_iterator_can_be_shuffled():
    found = make_selector("shuffled").fit(View(tiny_model(), iter(tiny_batches(36)), CONFIG), seed=3)
    again = make_selector("shuffled").fit(View(tiny_model(), tiny_batches(36), CONFIG), seed=3)
    assert (found.evidence.separation == again.evidence.separation).all()


def test_shuffled_separation_is_that_of_data_with_those_labels(given):
    """Against the whole observation of a data set whose labels were permuted by hand."""
    model, data, view = given
    found = make_selector("shuffled").fit(view, seed=3).evidence.separation
    permuted = shuffled(data, 3)
    np.testing.assert_allclose(found, select_heads(model, permuted, CONFIG).separation, atol=1e-6)
    assert np.abs(found - view.evidence.separation).max() > 0.01


def test_true_labels_lead_to_cahps_own_choice(given):
    model, data, view = given
    expected = select_heads(model, data, CONFIG)
    assert make_selector("cahp").fit(view, seed=0).keep(6).heads == expected.kept.heads


def test_only_the_separation_changes(given):
    _, _, view = given
    shuffled, noise = (make_selector(name).fit(view, seed=1) for name in ("shuffled", "noise"))
    seen = view.evidence
    for found in (shuffled.evidence, noise.evidence):
        np.testing.assert_array_equal(found.salience, seen.salience)
        assert found.units == seen.units and found.num_examples == seen.num_examples == 36
        assert found.config == dataclasses.replace(seen.config, seed=1)
        assert (found.separation != seen.separation).any()
    assert shuffled.keep(6).num_heads == noise.keep(6).num_heads == 6
    np.testing.assert_array_equal(noise.evidence.separation, with_noise(seen, 1).separation)
    CAHPPruner(tiny_model(), model_inputs(), importance=CAHPImportance(shuffled.select(6))).step()


def test_noise_is_standard_normal_and_the_seed_decides(given):
    _, _, view = given
    noise = with_noise(view.evidence, 0).separation
    assert noise.shape == view.evidence.separation.shape and noise.dtype == np.float32
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
    assert (noise == with_noise(view.evidence, 0).separation).all()
    assert (noise != with_noise(view.evidence, 1).separation).any()
    kept = [make_selector("noise").fit(view, seed=seed).keep(6) for seed in range(6)]
    assert len({str(found.heads) for found in kept}) > 1


@pytest.mark.parametrize("name", ["noise", "shuffled"])
def test_bad_input(name, given):
    model, data, _ = given
    with pytest.raises(DataError, match="data set is empty"):
        make_selector(name).fit(View(model, [], CONFIG))
    with pytest.raises(DataError, match="no `labels`"):
        make_selector(name).fit(View(model, without_labels(data), CONFIG))
    with pytest.raises(ConfigError, match=f"{name} replaces the class separation, and conditioning 'none' has none"):
        make_selector(name).fit(View(model, data, CAHPConfig(conditioning="none")))


def test_without_classes_there_is_nothing_to_replace():
    evidence = made_up([(0, 0), (0, 1)], [[0.1, 0.2]], distances=np.zeros((2, 2)))
    with pytest.raises(SelectionError, match="no separation matrix"):
        with_noise(evidence, 0)
