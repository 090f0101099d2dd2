"""Ways of choosing heads side by side: the same number of heads, the same recovery, the same seeds."""
