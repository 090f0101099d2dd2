"""After the pruning: the ways to get back what it cost, closed-form repair and fine-tuning."""

from cahp_plugin.config import RecoveryMethod, RecoverySettings
from cahp_plugin.recover.closed_form import RecoveryReport, recover_bias, recover_least_squares
from cahp_plugin.recover.distill import distill
from cahp_plugin.recover.finetune import finetune
from cahp_plugin.recover.pruned import prune_and_repair

__all__ = [
    "RecoveryMethod",
    "RecoveryReport",
    "RecoverySettings",
    "distill",
    "finetune",
    "prune_and_repair",
    "recover_bias",
    "recover_least_squares",
]
