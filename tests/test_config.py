import dataclasses
import json

import pytest

from cahp_plugin import CAHPConfig
from cahp_plugin.errors import ConfigError


@pytest.mark.parametrize(
    "changes",
    [
        {"polynomial_degree": 0},
        {"polynomial_degree": 11},
        {"polynomial_degree": 2.0},
        {"polynomial_degree": True},
        {"conditioning": "labels"},
        {"conditioning": "none", "max_queries": 0},
        {"conditioning": "none", "max_queries": 2.5},
        {"seed": -1},
        {"signature_size": 1},
        {"signature_percentile": 101},
        {"variance_floor": 0},
        {"salience_share": 0.0},
        {"salience_share": 1.5},
        {"salience_share": float("nan")},
        {"perplexity": 0.5},
        {"tsne_iterations": 100},
        {"mss": "printed"},
        {"tsne_init": "spectral"},
        {"clustering": "kmeans"},
        {"representative": "first"},
        {"knee_sensitivity": -1},
        {"min_heads_per_layer": -1},
        {"num_heads": 0},
        {"num_heads": 1.0},
        {"num_heads": 0.0},
        {"num_heads": "12"},
        {"num_neighbors": 0},
    ],
)
def test_bad_values_name_the_setting_and_what_came(changes):
    name, value = list(changes.items())[-1]
    with pytest.raises(ConfigError, match=f"`{name}` must be .*got {value!r}"):
        CAHPConfig(**changes)


def test_queries_are_sampled_without_classes_only():
    assert CAHPConfig(conditioning="none", max_queries=64).max_queries == 64
    with pytest.raises(ConfigError, match=r"`max_queries` must be None with `conditioning='prediction'`, got 64"):
        CAHPConfig(conditioning="prediction", max_queries=64)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CAHPConfig().seed = 1


def test_round_trips():
    config = CAHPConfig(polynomial_degree=6, num_heads=0.25, clustering="louvain", min_heads_per_layer=0)
    assert CAHPConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"degree": 3}, "Unknown setting\\(s\\) degree. Known: clustering"),
        ({"polynomial_degree": 30}, "from 1 to 10"),
    ],
)
def test_bad_dicts(values, message):
    with pytest.raises(ConfigError, match=message):
        CAHPConfig.from_dict(values)
