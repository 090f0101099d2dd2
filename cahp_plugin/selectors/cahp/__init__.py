"""The method itself: arrays in, arrays out; no model, no files, no logging."""
