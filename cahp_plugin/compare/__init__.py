"""Ways of choosing heads side by side: the same number of heads, the same recovery, the same seeds."""

from cahp_plugin.compare.grid import compare_methods
from cahp_plugin.compare.summary import Comparison

__all__ = ["Comparison", "compare_methods"]
