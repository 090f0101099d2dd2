"""The ways of choosing heads: CAHP, and what it is compared with. ``make_selector(name).fit(View(...)).keep(36)``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cahp_plugin._lazy import lazy_names

if TYPE_CHECKING:
    from cahp_plugin.selectors.base import Fitted, Needs, Ranked, Selector, View
    from cahp_plugin.selectors.complementary import select_heads
    from cahp_plugin.selectors.registry import default_selectors, make_selector, register_selector, selectors

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "base": ["Fitted", "Needs", "Ranked", "Selector", "View"],
        "registry": ["default_selectors", "make_selector", "register_selector", "selectors"],
        "complementary": ["select_heads"],
    },
)
