"""The ways of choosing heads by name, for the command line too: nothing heavy is imported before one is made."""

from __future__ import annotations

import dataclasses
import pkgutil
from typing import TYPE_CHECKING, Any

from cahp_plugin.errors import ConfigError

if TYPE_CHECKING:
    from cahp_plugin.selectors.base import Selector


@dataclasses.dataclass(frozen=True)
class Entry:
    """One way of choosing heads.

    Attributes:
        about: What it is, in a line.
        selector: The class, or ``"module:class"``.
        default: Whether a comparison runs it when no way is named.
    """

    about: str
    selector: Any
    default: bool = False


_HERE = "cahp_plugin.selectors"
_ENTRIES = {
    "cahp": Entry("the method itself", f"{_HERE}.complementary:Complementary", True),
    "medoid": Entry(
        "CAHP, with each cluster's medoid in place of its most salient head", f"{_HERE}.complementary:Medoid"
    ),
    "shuffled": Entry("CAHP, its separation measured on shuffled labels", f"{_HERE}.controls:Shuffled"),
    "noise": Entry("CAHP, with noise in place of the separation", f"{_HERE}.controls:Noise"),
    "salience": Entry("gradient of the loss by each head's mask, ranked over all layers", f"{_HERE}.ranking:Salient"),
    "salience-layernorm": Entry(
        "the same, l2-normalised in each layer (Michel et al. 2019)", f"{_HERE}.ranking:SalientInLayer", True
    ),
    "salience-iterative": Entry(
        "the same, measured anew every six heads with a least-squares repair in between",
        f"{_HERE}.iterative:IterativeSalience",
    ),
    "hies": Entry("salience and attention entropy, mixed evenly (Choi et al. 2025)", f"{_HERE}.entropy:HIES"),
    "voita": Entry("trained hard-concrete gates (Voita et al. 2019)", f"{_HERE}.hard_concrete:HardConcrete"),
    "dsp": Entry("trained differentiable subset pruning (Li et al. 2021)", f"{_HERE}.subset:SubsetPruning"),
    "magnitude": Entry("norm of the head's columns of the output projection", f"{_HERE}.ranking:Magnitude"),
    "obs": Entry("what a least-squares refit of the layer can't make up for", f"{_HERE}.reconstruction:Obs", True),
    "random": Entry("drawn at random", f"{_HERE}.ranking:Random", True),
}


def selectors() -> dict[str, Entry]:
    """The ways of choosing heads, in the order in which they are listed."""
    return dict(_ENTRIES)


def default_selectors() -> list[str]:
    """Names of those that a comparison runs when none are named."""
    return [name for name, entry in _ENTRIES.items() if entry.default]


def register_selector(name: str, about: str, selector: type[Selector] | str, *, default: bool = False) -> None:
    """Adds a way of choosing heads: ``cahp compare --methods NAME`` and ``make_selector`` know it from then on.

    Args:
        name: Its name.
        about: What it is, in a line.
        selector: A subclass of :class:`cahp_plugin.selectors.Selector`, or ``"module:class"``.
        default: Whether a comparison runs it when no way is named.

    Raises:
        ConfigError: There is one of this name.

    Example:
        >>> register_selector("last", "the last layers' heads", LastLayers)  # doctest: +SKIP
    """
    if name in _ENTRIES:
        raise ConfigError(f"There is a selector {name!r} already: {_ENTRIES[name].about}. Give yours another name.")
    _ENTRIES[name] = Entry(about, selector, default)


def make_selector(name: str, **settings: Any) -> Selector:
    """Makes a selector.

    Args:
        name: Its name.
        settings: Its settings; those that it does not have are left out.

    Raises:
        ConfigError: There is none of this name, or a setting is out of its range.
    """
    if name not in _ENTRIES:
        raise ConfigError(f"There is no selector {name!r}; known are {', '.join(_ENTRIES)}.")
    found = _ENTRIES[name].selector
    if isinstance(found, str):
        found = pkgutil.resolve_name(found)
    known = {field.name for field in dataclasses.fields(found)} if dataclasses.is_dataclass(found) else set()
    return found(**{key: value for key, value in settings.items() if key in known})
