"""Other ways of choosing heads, as importances that drop into the same pruners: what CAHP is compared with."""

from cahp_plugin.baselines.ranking import (
    MagnitudeImportance,
    MichelImportance,
    RandomImportance,
    RankingImportance,
    SalienceImportance,
)
from cahp_plugin.baselines.reconstruction import ReconstructionImportance

__all__ = [
    "MagnitudeImportance",
    "MichelImportance",
    "RandomImportance",
    "RankingImportance",
    "ReconstructionImportance",
    "SalienceImportance",
]
