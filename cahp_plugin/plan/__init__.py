"""Smaller under a budget: what each size of each layer loses at the outputs, and the sizes that lose least."""
