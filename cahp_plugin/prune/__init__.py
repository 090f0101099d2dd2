"""Removes heads through Torch-Pruning's dependency graph; saves and loads the result."""

from cahp_plugin.prune.checkpoint import check_output_directory, load_pruned, replaced_folder, save_pruned
from cahp_plugin.prune.importance import CAHPImportance
from cahp_plugin.prune.pruner import CAHPPruner
from cahp_plugin.prune.surgery import duplicate_kv_heads

__all__ = [
    "CAHPImportance",
    "CAHPPruner",
    "check_output_directory",
    "duplicate_kv_heads",
    "load_pruned",
    "replaced_folder",
    "save_pruned",
]
