"""A plan that was not measured: what each size costs and loses is known."""

from cahp_plugin.cost.layers import LayerCost
from cahp_plugin.plan.plan import LayerPlan, Plan

COST = LayerCost((1.0,), 1)
SIZES = tuple(range(10, -1, -1))


def even_plan():
    """Twelve layers of ten units that cost and lose the same by themselves."""
    losses = tuple(float((10 - size) ** 2) for size in SIZES)
    layers = [
        LayerPlan(f"{kind}.{index}", f"{kind}.{index}", kind, index, tuple(range(10)), 1, SIZES, losses, COST)
        for kind in ("heads", "neurons")
        for index in range(6)
    ]
    return Plan(tuple(layers), (0.0,), 0, "all", 0.01, {"order": "obs"})
