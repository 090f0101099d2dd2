"""Every version gate of the library, in one file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import transformers

TRANSFORMERS_MAJOR = int(transformers.__version__.split(".")[0])


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide a result, as installed (``torch_pruning.__version__`` lags behind)."""
    names = ("cahp-plugin", "torch", "transformers", "torch-pruning", "scikit-learn", "numpy", "kneed")
    return {name: version(name) for name in names}


@contextlib.contextmanager
def attention_maps_enabled(model: Any) -> Iterator[None]:
    """Makes the model compute its attention maps, and puts its attention implementation back on leaving.

    With transformers 5 the implementation is looked up at run time, so it is switched to ``eager``. On 4.57 some
    classes have it built in (BERT, RoBERTa, DistilBERT): those fall back to the manual path by themselves when they
    are asked for attention maps, and switching would only raise a warning.
    """
    before = model.config._attn_implementation
    switch = before != "eager" and model._can_set_attn_implementation()
    if switch:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if switch:
            model.set_attn_implementation(before)


def forget_pruned_heads(config: Any) -> None:
    """Takes transformers 4.57's own record of removed heads, ``pruned_heads``, out of a config.

    On 4.57 it makes a model remove those heads while it is built; 5 does not know it, and carries it along.
    """
    if TRANSFORMERS_MAJOR < 5:
        config.pruned_heads = {}
    else:
        vars(config).pop("pruned_heads", None)
