"""What the page is put together from: pictures as elements of a page, and colours."""

import dataclasses
import io
import re

import numpy as np
import pytest
from matplotlib import colormaps
from pages import Reader, selection

from cahp_plugin.report import style
from cahp_plugin.report.selection import heads_per_layer, kept_heads

SHEET = (style.FOLDER / "page.css").read_text()
LIGHT, DARK = (dict(re.findall(r"--([\w-]+):(#\w{6})", part)) for part in SHEET.split("@media")[:2])


def test_the_element_is_the_file_in_colours_of_the_page(tmp_path, monkeypatch):
    chart, file = heads_per_layer(selection()), io.StringIO()
    write = chart.figure.savefig

    def written(place, *, dpi):
        write(file, format="svg")
        write(place, dpi=dpi)

    with monkeypatch.context() as patch:
        patch.setattr(chart.figure, "savefig", written)
        assert chart.save(tmp_path).read_bytes().startswith(b"\x89PNG")
    element, file = chart.svg("a"), file.getvalue()
    assert file.count("<use ") == element.count("<use ") and f"{style.KEPT}" in file
    assert style.KEPT not in element and "var(--kept)" in element
    assert chart.title in file  # a file has its title in the picture, a page above it
    assert chart.title not in "".join(node.text() for node in Reader(element).root.all("text"))


def test_ids_of_two_pictures_of_a_page_differ():
    chart = kept_heads(selection())
    one, other = (set(re.findall(r' id="([^"]*)"', chart.svg(name))) for name in ("a", "b"))
    assert one and not one & other


def test_words_of_a_picture_are_escaped():
    chart = dataclasses.replace(heads_per_layer(selection()), title="<script>", description="\"'&<img>")
    root = Reader(chart.svg("a")).root
    assert root.all("title")[0].text() == "<script>" and root.all("desc")[0].text() == "\"'&<img>"
    assert not root.all("script") and not root.all("img")


def contrast(one, other):
    """WCAG 2 contrast ratio of two colours."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_palette_is_whole():
    assert list(LIGHT) == list(DARK) == list(style.PALETTE) and style.PALETTE == LIGHT
    look = (style.FOLDER / "cahp.mplstyle").read_text()
    assert {f"#{colour}" for colour in re.findall(r": ([0-9a-f]{6})$", look, re.MULTILINE)} <= set(LIGHT.values())
    for colour in set(LIGHT.values()):  # one colour, one meaning: it is told from the picture what a page shows
        assert len({DARK[name] for name in LIGHT if LIGHT[name] == colour}) == 1
    assert len(set(style.SERIES)) == len(style.SERIES) == 12 and len(set(style.MARKERS)) == 13


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_can_be_told_from_the_ground(colours):
    for ground in ("card", "page"):
        for name in ("ink", "muted", "kept"):
            assert contrast(colours[name], colours[ground]) >= 4.5, name  # text
    assert contrast(colours["accent"], colours["card"]) >= 4.5
    for name in colours:
        if name.startswith("series"):
            assert contrast(colours[name], colours["card"]) >= 3  # marks
    # The number on a cell, at every shade of the table of layers.
    kept, card = ([int(colours[name][i : i + 2], 16) for i in (1, 3, 5)] for name in ("kept", "card"))
    for shade in np.linspace(0, style.DEPTH, 20):
        mixed = "#" + "".join(f"{round(shade * a + (1 - shade) * b):02x}" for a, b in zip(kept, card, strict=True))
        assert contrast(colours["ink"], mixed) >= 4.5, shade
    for red, green, blue, _ in (255 * colormaps["viridis"](np.linspace(*style.LAYERS, 24))).astype(int):
        assert contrast(f"#{red:02x}{green:02x}{blue:02x}", colours["card"]) >= 1.8
