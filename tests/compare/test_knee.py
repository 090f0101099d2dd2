import dataclasses

import numpy as np
import pytest
from tiny import tiny_batches, tiny_model

from cahp_plugin import CAHPConfig
from cahp_plugin.compare.knee import PAPER_SHARES, KneeTable, knee_under_noise
from cahp_plugin.errors import ConfigError, SelectionError
from cahp_plugin.selectors import View
from cahp_plugin.selectors.cahp.representatives import select
from cahp_plugin.selectors.controls import with_noise


@pytest.fixture(scope="module")
def observed():
    model = tiny_model(num_hidden_layers=5)
    return View(model, tiny_batches(36), CAHPConfig(signature_size=5, num_heads=9)).evidence


def test_shares_are_those_of_whole_selections(observed):
    """Each cell against a selection from scratch at that degree and seed."""
    found = knee_under_noise(observed, degrees=(2, 5), seeds=(0, 3))
    assert found.num_heads == 20 and [row.degree for row in found.rows] == [2, 5]
    for row in found.rows:
        for index, seed in enumerate((0, 3)):
            config = dataclasses.replace(observed.config, num_heads=None, polynomial_degree=row.degree, seed=seed)
            for share, given in ((row.measured, observed), (row.noise, with_noise(observed, seed))):
                assert share[index] == select(dataclasses.replace(given, config=config)).num_heads / 20
        assert row.paper == {name: known[row.degree] for name, known in PAPER_SHARES.items()}


def test_the_published_shares():
    assert PAPER_SHARES["BERT-base"] == {2: 0.479, 3: 0.293, 4: 0.251, 5: 0.198, 6: 0.181}
    assert PAPER_SHARES["BERT-large"] == {2: 0.470, 3: 0.284, 4: 0.233, 5: 0.178, 6: 0.153}


def test_the_table_survives_json_and_shows_percent(observed):
    found = knee_under_noise(observed, degrees=(2, 9), seeds=(0, 1))
    assert KneeTable.from_dict(found.to_dict()) == found
    lines = str(found).splitlines()
    assert "47.9" in lines[2] and "47.9" not in lines[3]  # the paper reports degrees 2 to 6
    mean = f"{100 * np.mean(found.rows[0].measured):.1f}"
    assert mean in lines[2]


def test_bad_input(observed):
    with pytest.raises(SelectionError, match="no separation matrix"):
        knee_under_noise(dataclasses.replace(observed, separation=None, distances=np.zeros((20, 20))))
    louvain = dataclasses.replace(observed, config=dataclasses.replace(observed.config, clustering="louvain"))
    with pytest.raises(ConfigError, match="has no knee"):
        knee_under_noise(louvain)
    with pytest.raises(ConfigError, match="at least one number each"):
        knee_under_noise(observed, seeds=())
    with pytest.raises(ConfigError, match="at least one number each"):
        knee_under_noise(observed, degrees=())
