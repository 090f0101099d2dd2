"""What a model costs to run: multiply-accumulates, parameters, times; and the budgets that are set for them."""
