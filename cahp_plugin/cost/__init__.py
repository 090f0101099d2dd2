"""What a model costs to run: multiply-accumulates, parameters, measured times; and the budgets that are set for them."""

from cahp_plugin.cost.budget import Budget
from cahp_plugin.cost.layers import LayerCost, ModelCost, at_length, costs_of

__all__ = ["Budget", "LayerCost", "ModelCost", "at_length", "costs_of"]
