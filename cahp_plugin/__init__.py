"""Complementary Attention Head Pruning (CAHP) for Hugging Face transformers, as a Torch-Pruning strategy.

The names below are loaded when they are first used, so that ``import cahp_plugin`` and ``cahp --help`` stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cahp_plugin._lazy import lazy_names
from cahp_plugin._version import __version__ as __version__

if TYPE_CHECKING:
    from cahp_plugin.config import CAHPConfig
    from cahp_plugin.cost.budget import Budget
    from cahp_plugin.errors import CAHPError
    from cahp_plugin.plan.making import plan_pruning
    from cahp_plugin.prune import CAHPImportance, CAHPPruner, load_pruned, save_pruned
    from cahp_plugin.recover import distill, finetune, recover_least_squares
    from cahp_plugin.selectors.cahp.selection import HeadSelection
    from cahp_plugin.selectors.complementary import select_heads
    from cahp_plugin.tasks.evaluation import evaluate
    from cahp_plugin.tasks.registry import encode
    from cahp_plugin.units import KeptSet
    from cahp_plugin.workflow.prune import prune_model

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "config": ["CAHPConfig"],
        "cost.budget": ["Budget"],
        "errors": ["CAHPError"],
        "plan.making": ["plan_pruning"],
        "prune": ["CAHPImportance", "CAHPPruner", "load_pruned", "save_pruned"],
        "selectors.cahp.selection": ["HeadSelection"],
        "units.kept": ["KeptSet"],
        "recover": ["distill", "finetune", "recover_least_squares"],
        "tasks.evaluation": ["evaluate"],
        "tasks.registry": ["encode"],
        "workflow.prune": ["prune_model"],
        "selectors.complementary": ["select_heads"],
    },
)
