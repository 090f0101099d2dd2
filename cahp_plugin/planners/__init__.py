"""Ways of bringing a model under a budget, for comparisons: the planner and its rivals.

By name, for the command line too: nothing heavy is imported before one is made.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cahp_plugin.errors import ConfigError

if TYPE_CHECKING:
    from cahp_plugin.planners.base import Planner


@dataclasses.dataclass(frozen=True)
class Entry:
    """One planner.

    Attributes:
        about: What it is, in a line; of a paper's method, what is left out.
        planner: ``"module:class"``.
        settings: Arguments of the class.
        own_repair: Whether it has a repair of its own.
        order: Order of the heads in the plan that it takes, besides the usual one.
    """

    about: str
    planner: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    own_repair: bool = False
    order: str = "obs"


_SIZES = "cahp_plugin.planners.sizes"
#: The planners, in the order in which they are listed.
PLANNERS: Mapping[str, Entry] = MappingProxyType(
    {
        "joint": Entry("heads and neurons as `cahp prune` takes them, without its refinement", f"{_SIZES}:Planned"),
        "heads": Entry("heads alone", f"{_SIZES}:Planned", {"units": "heads"}),
        "neurons": Entry("feed-forward neurons alone", f"{_SIZES}:Planned", {"units": "neurons"}),
        "cahp": Entry(
            "heads and neurons, each layer's heads in CAHP's order",
            f"{_SIZES}:Planned",
            {"order": "cahp"},
            order="cahp",
        ),
        "uniform": Entry("the same share of every layer, in the plan's order within layers", f"{_SIZES}:Even"),
        "magnitude": Entry(
            "the same share of every layer, the units of the largest norm", f"{_SIZES}:Even", {"order": "magnitude"}
        ),
        "random": Entry("the same share of every layer, drawn", f"{_SIZES}:Even", {"order": "random"}),
        "kwon": Entry(
            "Kwon et al. 2022: Fisher masks, swaps, scales (left out: LSMR; the normal equations stand for it)",
            "cahp_plugin.planners.kwon:Kwon",
            own_repair=True,
        ),
        "kprune": Entry(
            "K-prune-like (Park et al. 2024): Fisher information of the divergence, sublayer by sublayer, refitted "
            "(left out: representational knowledge, temperature)",
            "cahp_plugin.planners.kprune:KPrune",
            own_repair=True,
        ),
    }
)


def make_planner(name: str) -> Planner:
    """Makes a planner.

    Args:
        name: Its name in :data:`PLANNERS`.

    Raises:
        ConfigError: There is none of this name.
    """
    if name not in PLANNERS:
        raise ConfigError(f"There is no planner {name!r}; known are {', '.join(PLANNERS)}.")
    return pkgutil.resolve_name(PLANNERS[name].planner)(**PLANNERS[name].settings)
