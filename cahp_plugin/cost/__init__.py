"""What a model costs to run: multiply-accumulates, parameters, measured times; and the budgets that are set for them."""
