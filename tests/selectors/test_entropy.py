import numpy as np
import pytest
import torch
from planted import planted_model
from selecting import fit, made_up, view_of
from tiny import model_inputs, tiny_batches, tiny_model

from cahp_plugin import CAHPImportance, CAHPPruner
from cahp_plugin.errors import ConfigError, DataError
from cahp_plugin.observe.head_maps import Entropies
from cahp_plugin.observe.sums import accumulate
from cahp_plugin.selectors import Ranked, make_selector
from cahp_plugin.selectors.entropy import HIES


def mixed(monkeypatch, salience, entropy, **settings):
    """HIES of salience and entropy that are made up."""
    salience, entropy = np.asarray(salience), np.asarray(entropy)
    heads = [(int(layer), int(head)) for layer, head in np.argwhere(~np.isnan(salience))]
    view = view_of(tiny_model(), tiny_batches(6))
    evidence = made_up(heads, salience, separation=np.zeros((len(heads), 1)))
    view.units = evidence.units
    view.__dict__["evidence"] = evidence
    monkeypatch.setattr(Entropies, "finish", lambda self: entropy[~np.isnan(entropy)].tolist())
    return HIES(**settings).fit(view)


def test_hies_is_the_mix_of_both(monkeypatch):
    # The evidence's salience is scaled to [0, 1] already.
    found = mixed(monkeypatch, [[0.0, 0.5], [1.0, np.nan]], [[0.2, 0.6], [1.0, np.nan]], alpha=0.25)
    np.testing.assert_allclose(found.scores, 0.25 * np.array([0, 0.5, 1]) + 0.75 * np.array([1, 0.5, 0]))
    assert found.keep(2).heads == {0: (0,), 1: (0,)}
    salience = np.random.default_rng(0).random((3, 4))
    entropy = np.random.default_rng(1).random((3, 4))
    for alpha, scores in ((1, salience), (0, -entropy)):
        found = mixed(monkeypatch, salience, entropy, alpha=alpha)
        assert found.ranking() == Ranked(found.units, scores.flatten()).ranking()


def test_hies_of_a_model_is_the_mix_of_what_is_measured():
    model, data = tiny_model(), tiny_batches()
    view = view_of(model, data)
    entropies = Entropies(model, view.layers)
    accumulate(model, view.prepared(view.conditioning), [entropies], "")
    entropy = np.asarray(entropies.finish())
    focus = (entropy.max() - entropy) / (entropy.max() - entropy.min())
    np.testing.assert_allclose(HIES().fit(view).scores, (view.evidence.salience + focus) / 2, rtol=1e-12)


def test_the_model_stays_as_it_was_and_pruned_ones_work():
    model, data = planted_model(num_examples=16)
    CAHPPruner(model, model_inputs(), importance=CAHPImportance({0: (1, 3), 1: ()})).step()
    model.train()
    found = fit("hies", model, data)
    assert model.training and not any(module._forward_hooks for module in model.modules())
    assert {(layer, *heads) for layer, heads in found.ranking()} == {(0, 1), (0, 3), *((2, head) for head in range(4))}
    assert found.keep(3).heads[1] == ()


def test_bad_input():
    for alpha in (1.5, -0.1, float("nan")):
        with pytest.raises(ConfigError, match=rf"`alpha` must be a number in \[0, 1\]; got {alpha}"):
            make_selector("hies", alpha=alpha)
    model = tiny_model()
    with pytest.raises(DataError, match="gave no batch"):
        fit("hies", model, [])
    with torch.no_grad():
        model.bert.encoder.layer[1].attention.self.query.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="attention maps of layer 1 are not numbers"):
        fit("hies", model, tiny_batches())
