"""Tasks: how a model is fed, what its loss is, and which number says how good it is. A file each."""
