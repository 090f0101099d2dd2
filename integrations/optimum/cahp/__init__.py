"""Complementary Attention Head Pruning under Optimum's name: prune, export, measure.

``from optimum.cahp import Budget, Pruner, HeadPruner, export_pruned, measure_latency``
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optimum.cahp.pruner import HeadPruner, Pruner

    from cahp_plugin.config import CAHPConfig
    from cahp_plugin.cost.budget import Budget
    from cahp_plugin.export import ExportReport, export_pruned
    from cahp_plugin.latency import LatencyReport, measure_latency

_MODULES = {
    "Budget": "cahp_plugin.cost.budget",
    "CAHPConfig": "cahp_plugin.config",
    "ExportReport": "cahp_plugin.export",
    "HeadPruner": "optimum.cahp.pruner",
    "LatencyReport": "cahp_plugin.latency",
    "Pruner": "optimum.cahp.pruner",
    "export_pruned": "cahp_plugin.export",
    "measure_latency": "cahp_plugin.latency",
}

__all__ = [
    "Budget",
    "CAHPConfig",
    "ExportReport",
    "HeadPruner",
    "LatencyReport",
    "Pruner",
    "export_pruned",
    "measure_latency",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
