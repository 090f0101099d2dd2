import re
from pathlib import Path

import pytest
from comparing import compare
from selecting import view_of
from tiny import tiny_batches, tiny_model

from cahp_plugin.cli import main
from cahp_plugin.errors import ConfigError
from cahp_plugin.selectors import (
    Needs,
    Ranked,
    Selector,
    default_selectors,
    make_selector,
    register_selector,
    registry,
    selectors,
)

NAMES = ["cahp", "medoid", "shuffled", "noise", "salience", "salience-layernorm", "salience-iterative", "hies",
         "voita", "dsp", "magnitude", "obs", "random"]  # fmt: skip
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(autouse=True)
def _undone(monkeypatch):
    """What a test registers is gone behind it."""
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))


class LastLayers(Selector):
    """The last layers' heads."""

    name = "last"

    def _fit(self, view, seed):
        return Ranked(view.units, range(len(view.units.firsts)))


def test_every_name_leads_to_a_selector_of_this_name():
    assert list(selectors()) == NAMES and default_selectors() == ["cahp", "salience-layernorm", "obs", "random"]
    for name, entry in selectors().items():
        found = make_selector(name)
        assert isinstance(found, Selector) and found.name == name and type(found).__doc__ and entry.about
        assert (Needs.DATA in found.needs) == (name not in ("random", "magnitude"))


def test_what_the_registry_hands_out_is_a_copy():
    selectors().clear()
    assert list(selectors()) == NAMES


def test_settings_are_those_of_the_selector():
    found = make_selector("voita", epochs=0.5, num_examples=7, alpha=3)  # what it does not have is left out
    assert (found.epochs, found.learning_rate) == (0.5, 0.1)
    assert make_selector("obs", epochs=0.5, num_examples=7).num_examples == 7
    assert make_selector("random", epochs=0.5).name == "random"


def test_an_unknown_name_is_told_with_those_that_are_known():
    with pytest.raises(ConfigError, match=f"no selector 'magic'; known are {', '.join(NAMES)}"):
        make_selector("magic")
    register_selector("last", "the last layers' heads", LastLayers)
    with pytest.raises(ConfigError, match="random, last"):
        make_selector("magic")


def test_two_of_one_name_are_refused():
    with pytest.raises(ConfigError, match=r"a selector 'obs' already: what a least-squares refit .*another name"):
        register_selector("obs", "mine", LastLayers)
    register_selector("last", "the last layers' heads", LastLayers)
    with pytest.raises(ConfigError, match="a selector 'last' already: the last layers' heads"):
        register_selector("last", "again", LastLayers)
    assert make_selector("obs").name == "obs"


def test_one_from_outside_is_made_compared_and_listed(tmp_path, capsys):
    register_selector("last", "the last layers' heads", LastLayers)
    kept = {0: (3,), 1: (3,), 2: (0, 1, 2, 3)}  # the minimum of the others
    assert make_selector("last").fit(view_of(tiny_model())).keep(6).heads == kept
    found = compare(tmp_path / "runs", methods=["random", "last"], heads=[6], seeds=[0])
    assert found.runs[-1].method == "last"
    assert {int(layer): tuple(heads) for layer, heads in found.runs[-1].kept.items()} == kept
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert re.search(r"^  last +the last layers' heads$", capsys.readouterr().out, re.MULTILINE)


def test_one_from_outside_by_its_path_and_by_default(tmp_path):
    register_selector("last", "by its path", "cahp_plugin.selectors.ranking:Random", default=True)
    assert make_selector("last").name == "random" and default_selectors()[-1] == "last"
    with pytest.raises(ConfigError, match=r"`methods` holds magic; known are .*, random, last"):
        compare(tmp_path / "runs", methods=["magic"])


def test_one_from_outside_has_settings_and_is_checked():
    class Needy(LastLayers):
        name = "needy"
        needs = Needs.LABELS | Needs.DATA

    register_selector("needy", "looks at labels", Needy)
    with pytest.raises(ConfigError, match="The selector 'needy' looks at data: give a `dataloader`"):
        make_selector("needy").fit(view_of(tiny_model()))
    assert make_selector("needy").fit(view_of(tiny_model(), tiny_batches())).keep(12).num_heads == 12


def test_the_command_lists_all(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    text = capsys.readouterr().out
    for name, entry in selectors().items():
        assert re.search(rf"^  {name} +{re.escape(entry.about)}$", text, re.MULTILINE)
    assert f"(default:{','.join(default_selectors())})" in "".join(text.split())  # wrapped at a hyphen, perhaps


def test_the_readme_has_every_selector():
    """Its name in backticks, then what it is, in a list or a table."""
    text = " ".join(README.read_text(encoding="utf-8").split())
    missing = [
        f"`{name}`: {entry.about}"
        for name, entry in selectors().items()
        if not re.search(rf"`{re.escape(name)}`[^`]{{0,5}}{re.escape(entry.about)}", text)
    ]
    assert not missing, "\n".join(missing)
