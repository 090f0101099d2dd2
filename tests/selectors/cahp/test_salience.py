import numpy as np

from cahp_plugin.selectors.cahp.salience import normalize_salience


def test_salience_is_scaled_once_over_all_heads():
    np.testing.assert_allclose(normalize_salience(np.array([1.0, 3.0, 2.0])), [0, 1, 0.5])
    np.testing.assert_allclose(normalize_salience(np.array([[1.0, 3.0], [2.0, 1.5]])), [[0, 1], [0.5, 0.25]])


def test_equal_salience_becomes_zero():
    np.testing.assert_allclose(normalize_salience(np.array([2.0, 2.0, 2.0])), [0, 0, 0])
