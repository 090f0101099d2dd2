"""What the page is put together from: markup, scales, colours."""

import re

import numpy as np
import pytest

from cahp_plugin.report.html.axes import ticks
from cahp_plugin.report.html.markup import Html, table, tag
from cahp_plugin.report.html.style import _DARK, _LIGHT, SERIES, sheet


def test_markup_escapes_all_but_markup():
    assert tag("p", "a < b & c", Html("<b>x</b>"), title='"<', class_="k", stroke_width=0.126, hidden=None) == (
        '<p title="&quot;&lt;" class="k" stroke-width="0.13">a &lt; b &amp; c<b>x</b></p>'
    )
    assert tag("p", Html("<b>") + "x") == "<p>&lt;b&gt;x</p>"  # joined with plain text it is plain text
    found = table("t", [{"a": "x", "b": "1.5"}, {"a": "<y>", "b": "2"}])
    assert '<th scope="row">&lt;y&gt;</th><td class="number">2</td>' in found
    assert table("t", []) == ""


@pytest.mark.parametrize(("low", "high"), [(0, 1), (2, 71), (-15.2, 6.1), (0.47, 0.95), (0, 109.2), (1e-4, 3e-4)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 6 and low - 1e-9 <= found[0] and found[-1] <= high + 1e-9
    steps = np.diff(found)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    assert float(f"{steps[0]:.1e}"[:3]) in (1, 2, 5)
    assert all(value == int(value) for value in ticks(2, 5, whole=True))
    assert ticks(3, 3) == [3]


def contrast(one, other):
    """WCAG 2 contrast ratio of two colours."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("theme", "colours"), [(0, _LIGHT), (1, _DARK)], ids=["light", "dark"])
def test_colours_can_be_told_from_the_ground(theme, colours):
    for ground in ("card", "page"):
        for name in ("ink", "muted", "kept"):
            assert contrast(colours[name], colours[ground]) >= 4.5, name  # text
    assert contrast(colours["accent"], colours["card"]) >= 4.5
    assert contrast(colours["on-kept"], colours["kept"]) >= 4.5
    for pair in SERIES:
        assert contrast(pair[theme], colours["card"]) >= 3  # marks
    # The number on a cell, at every shade of the table of layers.
    kept, card = ([int(colours[name][i : i + 2], 16) for i in (1, 3, 5)] for name in ("kept", "card"))
    for shade in np.linspace(0, float(colours["depth"]), 20):
        mixed = "#" + "".join(f"{round(shade * a + (1 - shade) * b):02x}" for a, b in zip(kept, card, strict=True))
        assert contrast(colours["ink"], mixed) >= 4.5, shade
    layers = re.findall(r"--layer-\d+:(#\w{6})", sheet(24))
    assert len(layers) == 48 and len(set(layers[:24])) == 24
    for colour in layers[24 * theme : 24 * (theme + 1)]:
        assert contrast(colour, colours["card"]) >= 1.8
