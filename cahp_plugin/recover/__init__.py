"""After the pruning: accuracy, and the ways to get it back: closed-form repair and fine-tuning."""

from cahp_plugin.recover.closed_form import RecoveryReport, recover_bias, recover_least_squares
from cahp_plugin.recover.evaluate import Evaluation, evaluate_classifier
from cahp_plugin.recover.finetune import finetune
from cahp_plugin.recover.settings import RecoveryMethod, RecoverySettings

__all__ = [
    "Evaluation",
    "RecoveryMethod",
    "RecoveryReport",
    "RecoverySettings",
    "evaluate_classifier",
    "finetune",
    "recover_bias",
    "recover_least_squares",
]
