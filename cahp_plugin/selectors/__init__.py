"""The ways of choosing heads: CAHP, and what it is compared with. ``make_selector(name).fit(View(...)).keep(36)``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cahp_plugin._lazy import lazy_names

if TYPE_CHECKING:
    from cahp_plugin.selectors.base import Fitted, Needs, Ranked, Selector, View
    from cahp_plugin.selectors.complementary import select_heads
    from cahp_plugin.selectors.registry import default_selectors, make_selector, register_selector, selectors

__all__ = [
    "Fitted",
    "Needs",
    "Ranked",
    "Selector",
    "View",
    "default_selectors",
    "make_selector",
    "register_selector",
    "select_heads",
    "selectors",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Fitted": "base",
        "Needs": "base",
        "Ranked": "base",
        "Selector": "base",
        "View": "base",
        "default_selectors": "registry",
        "make_selector": "registry",
        "register_selector": "registry",
        "select_heads": "complementary",
        "selectors": "registry",
    },
)
