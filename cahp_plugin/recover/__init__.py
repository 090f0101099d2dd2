"""Brings back what pruning cost."""

from cahp_plugin.recover.evaluate import Evaluation, evaluate_classifier
from cahp_plugin.recover.finetune import FinetuneResult, finetune

__all__ = ["Evaluation", "FinetuneResult", "evaluate_classifier", "finetune"]
