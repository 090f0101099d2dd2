"""Other ways of choosing heads, as importances that drop into the same pruners: what CAHP is compared with."""

from cahp_plugin.selectors.controls import NoiseImportance, SeparationImportance, ShuffledLabelImportance
from cahp_plugin.selectors.entropy import HIESImportance, attention_entropy
from cahp_plugin.selectors.hard_concrete import HardConcreteImportance
from cahp_plugin.selectors.iterative import IterativeSalienceImportance
from cahp_plugin.selectors.ranking import (
    MagnitudeImportance,
    MichelImportance,
    RandomImportance,
    RankingImportance,
    SalienceImportance,
)
from cahp_plugin.selectors.reconstruction import ReconstructionImportance
from cahp_plugin.selectors.subset import SubsetPruningImportance

__all__ = [
    "HIESImportance",
    "HardConcreteImportance",
    "IterativeSalienceImportance",
    "MagnitudeImportance",
    "MichelImportance",
    "NoiseImportance",
    "RandomImportance",
    "RankingImportance",
    "ReconstructionImportance",
    "SalienceImportance",
    "SeparationImportance",
    "ShuffledLabelImportance",
    "SubsetPruningImportance",
    "attention_entropy",
]
