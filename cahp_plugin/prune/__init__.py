"""Removes heads through Torch-Pruning's dependency graph; saves and loads the result."""

from cahp_plugin.prune.folders import check_output_directory, replaced_folder
from cahp_plugin.prune.importance import CAHPImportance
from cahp_plugin.prune.loading import load_pruned
from cahp_plugin.prune.pruner import CAHPPruner
from cahp_plugin.prune.saving import save_pruned
from cahp_plugin.prune.stage import Stage
from cahp_plugin.prune.surgery import duplicate_kv_heads

__all__ = [
    "CAHPImportance",
    "CAHPPruner",
    "Stage",
    "check_output_directory",
    "duplicate_kv_heads",
    "load_pruned",
    "replaced_folder",
    "save_pruned",
]
