"""Ways of bringing a model under a budget, for comparisons: the planner and its rivals."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from cahp_plugin.planners.base import Job, Planner, Proposal
from cahp_plugin.planners.kprune import KPrune
from cahp_plugin.planners.kwon import Kwon
from cahp_plugin.planners.sizes import Even, Planned

#: Name -> planner, in the order in which they are listed.
PLANNERS: Mapping[str, Planner] = MappingProxyType(
    {
        "joint": Planned("heads and neurons, as `cahp prune` takes them (without the refinement by whole models)"),
        "heads": Planned("heads alone", units="heads"),
        "neurons": Planned("feed-forward neurons alone", units="neurons"),
        "cahp": Planned("heads and neurons, each layer's heads in CAHP's order", order="cahp"),
        "uniform": Even("the same share of every layer, in the plan's order within layers"),
        "magnitude": Even("the same share of every layer, the units of the largest norm", order="magnitude"),
        "random": Even("the same share of every layer, drawn", order="random"),
        "kwon": Kwon(),
        "kprune": KPrune(),
    }
)

__all__ = ["PLANNERS", "Job", "Planner", "Proposal"]
