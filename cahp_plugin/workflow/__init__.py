"""The stages wired together: prune a classifier, compare ways of choosing heads, go all the way to deployment.

The names below are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cahp_plugin._lazy import lazy_names

if TYPE_CHECKING:
    from cahp_plugin.results import DeployReport, PruneReport
    from cahp_plugin.workflow.compare import compare_methods
    from cahp_plugin.workflow.deploy import deploy_classifier
    from cahp_plugin.workflow.prune import load_classifier, prune_classifier

__all__ = [
    "DeployReport",
    "PruneReport",
    "compare_methods",
    "deploy_classifier",
    "load_classifier",
    "prune_classifier",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "DeployReport": "deploy",
        "PruneReport": "prune",
        "compare_methods": "compare",
        "deploy_classifier": "deploy",
        "load_classifier": "prune",
        "prune_classifier": "prune",
    },
)
