"""Every version gate of the library, in one file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import transformers

TRANSFORMERS_MAJOR = int(transformers.__version__.split(".")[0])


def package_versions(*optional: str) -> dict[str, str]:
    """Versions of the packages that decide a result, as installed (``torch_pruning.__version__`` lags behind).

    Args:
        *optional: More packages, named where they are installed.
    """
    names = ("cahp-plugin", "torch", "transformers", "torch-pruning", "scikit-learn", "numpy", "kneed")
    found = {name: version(name) for name in names}
    for name in optional:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@contextlib.contextmanager
def attention_maps_enabled(model: Any) -> Iterator[None]:
    """Makes the model compute its attention maps, and puts its attention implementation back on leaving.

    With transformers 5 the implementation is looked up at run time, so it is switched to ``eager``. On 4.57 some
    classes have it built in (BERT, RoBERTa, DistilBERT): those fall back to the manual path by themselves when they
    are asked for attention maps, and switching would only raise a warning.
    """
    before = model.config._attn_implementation
    switch = before != "eager" and model._can_set_attn_implementation()
    with contextlib.ExitStack() as stack:
        if switch:
            model.set_attn_implementation("eager")
            stack.callback(model.set_attn_implementation, before)
        yield


def forget_pruned_heads(config: Any) -> None:
    """Takes transformers 4.57's own record of removed heads, ``pruned_heads``, out of a config.

    On 4.57 it makes a model remove those heads while it is built; 5 does not know it, and carries it along.
    """
    if TRANSFORMERS_MAJOR < 5:
        config.pruned_heads = {}
    else:
        vars(config).pop("pruned_heads", None)


@contextlib.contextmanager
def traceable_masks() -> Iterator[None]:
    """Lets decoders be traced: transformers 4.57 makes their masks by ``torch.vmap``, which the tracer can't follow.

    The mask is a function of four indices; here they are broadcast against each other, as in transformers 5.
    """
    if TRANSFORMERS_MAJOR >= 5:
        yield
        return
    from transformers import masking_utils

    def broadcast(mask_function: Any, bh_indices: bool = True) -> Any:
        def mask_of(batch: Any, head: Any, query: Any, key: Any) -> Any:
            batch, head = batch[:, None, None, None], head[None, :, None, None]
            query, key = query[None, None, :, None], key[None, None, None, :]
            return mask_function(batch, head, query, key).expand(batch.shape[0], -1, query.shape[2], key.shape[3])

        return mask_of

    # The second makes vmap index by tensors, and keeps the tracer from following plain indexing.
    names = {"_vmap_for_bhqkv": broadcast, "TransformGetItemToIndex": contextlib.nullcontext}
    before = {name: getattr(masking_utils, name) for name in names}
    for name, value in names.items():
        setattr(masking_utils, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(masking_utils, name, value)
