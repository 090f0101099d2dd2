"""Names of the ways of choosing heads, for the command line: nothing heavy is imported here."""

from __future__ import annotations

#: Name -> what it is, in the order in which they are listed. ``methods.METHODS`` has the same names.
METHOD_NAMES: dict[str, str] = {
    "cahp": "the method itself",
    "medoid": "CAHP, with each cluster's medoid in place of its most salient head",
    "shuffled": "CAHP, its separation measured on shuffled labels",
    "noise": "CAHP, with noise in place of the separation",
    "salience": "gradient of the loss by each head's mask, ranked over all layers",
    "salience-layernorm": "the same, l2-normalised in each layer (Michel et al. 2019)",
    "salience-iterative": "the same, measured anew every six heads with a least-squares repair in between",
    "hies": "salience and attention entropy, mixed evenly (Choi et al. 2025)",
    "voita": "trained hard-concrete gates (Voita et al. 2019)",
    "dsp": "trained differentiable subset pruning (Li et al. 2021)",
    "magnitude": "norm of the head's columns of the output projection",
    "obs": "what a least-squares refit of the layer can't make up for",
    "random": "drawn at random",
}

#: Methods that a comparison runs when none are named.
DEFAULT_METHODS = ("cahp", "salience-layernorm", "obs", "random")
