"""Ways of choosing heads side by side: the same number of heads, the same recovery, the same seeds.

The names below are loaded when they are first used, so that ``cahp --help`` can list the methods quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cahp_plugin._lazy import lazy_names

if TYPE_CHECKING:
    from cahp_plugin.compare.check import Check, check_runs
    from cahp_plugin.compare.knee import KneeTable, knee_under_noise
    from cahp_plugin.compare.summary import Comparison

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "check": ["Check", "check_runs"],
        "summary": ["Comparison"],
        "knee": ["KneeTable", "knee_under_noise"],
    },
)
