import numpy as np
import pytest
from selecting import made_up

from cahp_plugin.errors import DataError

HEADS = tuple((layer, head) for layer in range(3) for head in range(3))
SALIENCE = np.array([[0.9, 0.1, 0.2], [0.5, 0.8, 0.7], [0.3, 0.4, 0.6]])
MEASURED = {
    "separation": np.random.default_rng(0).random((9, 4)),
    "distances": np.random.default_rng(1).random((9, 9)),
}


@pytest.mark.parametrize("broken", ["separation", "distances", "salience"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_numbers_name_the_heads(broken, value):
    salience = SALIENCE.copy()
    given = {"separation": MEASURED["separation"].copy()}
    if broken == "salience":
        salience[1, 1] = value
    else:
        given = {broken: MEASURED[broken].copy()}
        given[broken][4, 2] = value
    with pytest.raises(DataError, match=rf"The {broken} of the heads \(layer, head\) \[\(1, 1\)\] is not a number"):
        made_up(HEADS, salience, **given)
