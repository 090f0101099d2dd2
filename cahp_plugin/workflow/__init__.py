"""The stages wired together: prune a model, compare ways of choosing heads, go all the way to deployment.

The names below are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cahp_plugin._lazy import lazy_names

if TYPE_CHECKING:
    from cahp_plugin.results import DeployReport, PruneReport
    from cahp_plugin.workflow.compare import compare_methods
    from cahp_plugin.workflow.deploy import deploy_model
    from cahp_plugin.workflow.prune import load_model, prune_model

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "deploy": ["DeployReport", "deploy_model"],
        "prune": ["PruneReport", "load_model", "prune_model"],
        "compare": ["compare_methods"],
    },
)
