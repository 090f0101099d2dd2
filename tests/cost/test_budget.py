"""What can be asked for."""

import pytest

from cahp_plugin import Budget
from cahp_plugin.errors import ConfigError


def test_a_budget_is_set_for_one_thing():
    assert Budget(parameters=0.7).target == ("parameters", 0.7) and not Budget(max_drop=1).timed
    assert Budget(latency_ms=12).timed and str(Budget(speedup=1.5)) == "1.5 times as fast"
    with pytest.raises(ConfigError, match="got none of them"):
        Budget()
    with pytest.raises(ConfigError, match=r"got macs=0\.5 and speedup=2"):
        Budget(macs=0.5, speedup=2)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"macs": 1.2}, r"`macs` must be a number in \(0, 1\]"),
        ({"macs": 0.0}, r"`macs` must be"),
        ({"parameters": -1}, r"`parameters` must be"),
        ({"speedup": 0.5}, r"`speedup` must be a number in \[1, 1000\]"),
        ({"latency_ms": 0}, r"`latency_ms` must be"),
        ({"max_drop": -1}, r"`max_drop` must be"),
        ({"macs": 0.5, "units": "layers"}, "`units` must be one of both, heads, neurons"),
        ({"macs": 0.5, "keep": "encoder"}, "`keep` must be a list of patterns"),
        ({"macs": 0.5, "multiple_of": 0}, "`multiple_of` must be"),
        ({"macs": 0.5, "runtime": "tensorrt"}, "`runtime` must be one of onnxruntime, torch"),
    ],
)
def test_what_is_out_of_range_is_told(values, told):
    with pytest.raises(ConfigError, match=told):
        Budget(**values)
