import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from cahp_plugin.selectors.cahp.separation import bhattacharyya, jeffries_matusita, separation_matrix


@pytest.mark.parametrize(
    ("m1", "v1", "m2", "v2"), [(0, 1, 0, 1), (0, 1, 2, 1), (0.2, 0.01, 0.3, 0.09), (-1, 4, 5, 0.5)]
)
def test_bhattacharyya_is_minus_log_of_the_overlap(m1, v1, m2, v2):
    # Definition: Bh = -ln integral sqrt(p q). This tells 1/4 from the 1/8 that the paper prints.
    p, q = norm(m1, np.sqrt(v1)), norm(m2, np.sqrt(v2))
    overlap, _ = quad(lambda x: np.sqrt(p.pdf(x) * q.pdf(x)), -40, 40, points=[m1, m2], limit=400)
    assert bhattacharyya(*map(np.float64, (m1, v1, m2, v2))) == pytest.approx(-np.log(overlap), rel=1e-6, abs=1e-9)


def test_bhattacharyya_keeps_digits_where_variances_nearly_agree():
    v, e = 1e-3, 1e-9
    # Series of 1/2 ln((a + b) / (2 sqrt(ab))) for b = a (1 + e): e^2 / 16. The plain formula returns 0 or noise here.
    assert bhattacharyya(np.float64(0), np.float64(v), np.float64(0), np.float64(v * (1 + e))) == pytest.approx(
        e**2 / 16, rel=1e-5
    )


def test_jeffries_matusita_limits():
    assert jeffries_matusita(np.array(0.0)) == 0
    assert jeffries_matusita(np.array(1e3)) == 2
    assert jeffries_matusita(np.array(1e-12)) == pytest.approx(2e-12)
    assert jeffries_matusita(np.array(np.log(2))) == pytest.approx(1)


def test_separation_matrix_by_hand():
    # Three classes, one head, one cell; equal variances 0.5, so Bh = (m1 - m2)^2 / 4.
    mean = np.array([[[0.0]], [[1.0]], [[3.0]]])
    variance = np.full((3, 1, 1), 0.5)
    expected = [2 * (1 - np.exp(-d * d / 4)) for d in (1, 3, 2)]
    np.testing.assert_allclose(separation_matrix(mean, variance), [expected], rtol=1e-6)


def test_separation_matrix_layout_and_floor():
    rng = np.random.default_rng(0)
    mean, variance = rng.random((3, 4, 5)), rng.random((3, 4, 5)) * 1e-9
    found = separation_matrix(mean, variance, variance_floor=1e-3)
    assert found.shape == (4, 15)
    bh = bhattacharyya(mean[1, 2, 4], np.float64(1e-3), mean[2, 2, 4], np.float64(1e-3))
    assert found[2, 14] == pytest.approx(jeffries_matusita(bh), rel=1e-6)
