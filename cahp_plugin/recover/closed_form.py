"""Recovery without training: the output projections are refitted in closed form to what the dense model computes.

No labels, no gradient, seconds. The fit is linear least squares, layer by layer, as in pruning by reconstruction (e.g.
OBC, Frantar and Alistarh 2022; ZipLM, Kurtic et al. 2023; the refit to the dense output less the pruned residual:
K-prune, Park et al. 2024), here for whole heads and neurons.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers.utils import logging

from cahp_plugin.errors import ConfigError, DataError, PruningError
from cahp_plugin.observe.streams import apart, calibration_batches, check_finite, layer_tokens
from cahp_plugin.recover.refit import Fitted, Pair, least_squares, refit
from cahp_plugin.recover.state import at_rest
from cahp_plugin.units import prunable_layers
from cahp_plugin.units.linear import weight_of
from cahp_plugin.units.state import call_options

logger = logging.get_logger(__name__)

_HELD_OUT = 0.2

Batches = Iterable[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class RecoveryReport:
    """What a closed-form recovery did.

    Attributes:
        method: ``"bias"`` or ``"least-squares"``.
        num_examples: Examples that it was fitted on; the held-out ones come on top.
        num_tokens: Real tokens in them.
        errors: Path of the output projection -> (before, after) for the layers that changed: mean squared error of the
            residual stream behind the layer against the dense model's, over its variance, on the fitted examples.
            Empty for ``"bias"``.
        divergence: (before, after): mean squared error of the model's outputs against the dense model's, over their
            variance, on held-out examples.
        accepted: Whether the new weights were kept; they are not where the divergence grew.
        seconds: Wall-clock seconds.
    """

    method: str
    num_examples: int
    num_tokens: int
    errors: dict[str, tuple[float, float]]
    divergence: tuple[float, float]
    accepted: bool
    seconds: float

    def __str__(self) -> str:
        before, after = self.divergence
        verdict = "" if self.accepted else " It grew, so the weights stay as they were."
        return (
            f"{self.method}: fitted on {self.num_examples} examples ({self.num_tokens:,} tokens) in "
            f"{self.seconds:.1f} s; divergence from the dense model on held-out examples {before:.3f} -> "
            f"{after:.3f}.{verdict}"
        )


def recover_least_squares(
    model: Any,
    dense: Any,
    dataloader: Batches,
    *,
    num_examples: int = 384,
    ridge: float = 0.1,
    held_out: Batches | None = None,
) -> RecoveryReport:
    """Refits every changed output projection so that the pruned layer reproduces the dense residual stream.

    Layer by layer from the input, with the layers before it already refitted: let ``c`` be the concatenated outputs of
    the kept heads, or the kept neurons, and ``h`` the residual stream in front of the layer in the pruned model, ``r``
    the stream behind it in the dense one. The new weights minimise
    ``|r - h - W c - b|^2 + ridge * s * |W - W_now|^2`` over the real tokens, where ``s`` is the sum over tokens of a
    channel's centred squares, averaged over the channels of ``c``. Models in half precision are run in fp32 and cast
    back. Normal equations are summed in float64; they take ``channels x channels`` numbers. A layer without units gets
    a new bias. Where the projection has no bias, ``b`` is 0; where its output is not added to the stream in front of
    it alone (a norm behind it in Gemma, a scale in DINOv2, attention and feed-forward in parallel in GPT-NeoX),
    ``r - h`` is the dense projection's output. A block that serves several layers (ALBERT) is fitted to all of them
    at once.

    Both models run over the examples once, all batches abreast from layer to layer (:mod:`cahp_plugin.observe.walk`),
    and the pruned one runs each changed part of a layer once more; so the time is linear in the depth. What waits
    between two layers is kept in memory, or in files where that is more than 128 MiB. Shared blocks, and models whose
    layers are no modules that are called, are run from the input again for each projection.

    Args:
        model: The pruned model; changed in place.
        dense: The model before pruning, on the same device.
        dataloader: Dict batches as for training; labels are not looked at.
        num_examples: Examples used, a fifth of them held out.
        ridge: Strength of the pull towards the present weights, relative to the activations.
        held_out: Batches that the outcome is checked on; all of ``dataloader`` is fitted on then.

    Returns:
        What was done. On held-out examples the outputs are never farther from the dense model's than before: where
        they would be, the weights stay.

    Raises:
        ConfigError: A number is out of range.
        DataError: There are fewer than two batches.
        PruningError: ``dense`` is not the model that ``model`` was pruned from, or its activations are not finite.
    """
    if not ridge >= 0:
        raise ConfigError(f"`ridge` must be at least 0; got {ridge}.")
    changed = [(ours, theirs) for ours, theirs in _pairs(model, dense) if len(ours.present) != len(theirs.present)]

    def fit(batches: Sequence[Any], tokens: int) -> Iterator[Fitted]:
        width = max((len(ours.present) * ours.size for ours, _ in changed), default=0)
        if 0 < tokens < 2 * width:
            logger.warning(
                f"{tokens} tokens for {width} channels: too few to fit them well; the ridge holds the weights near "
                "what they are. Give more examples (`num_examples`)."
            )
        return refit(model, dense, changed, batches, least_squares(ridge))

    return _recovered("least-squares", model, dense, changed, dataloader, num_examples, fit, held_out)


def recover_bias(model: Any, dense: Any, dataloader: Batches, *, num_examples: int = 384) -> RecoveryReport:
    """Adds the mean output of the removed units, in the dense model, to the bias of each output projection.

    Neurons that another pruner removed are left out: nobody knows which they were.

    Args:
        model: The pruned model; changed in place.
        dense: The model before pruning, on the same device.
        dataloader: Dict batches as for training; labels are not looked at.
        num_examples: Examples used, a fifth of them held out.

    Returns:
        What was done; see :func:`recover_least_squares`.

    Raises:
        ConfigError: A number is out of range.
        DataError: There are fewer than two batches.
        PruningError: ``dense`` is not the model that ``model`` was pruned from, its activations are not finite, or an
            output projection has no bias.
    """
    changed = [
        (ours, theirs)
        for ours, theirs in _pairs(model, dense)
        if ours.present != theirs.present and ours.num_original == theirs.num_original
    ]

    def fold(batches: Sequence[Any], tokens: int) -> Iterator[Fitted]:
        sums: dict[str, Any] = {theirs.output_path: 0.0 for _, theirs in changed}
        counts = dict.fromkeys(sums, 0)
        for batch in batches:
            seen = layer_tokens(dense, [theirs for _, theirs in changed], batch)
            for _, theirs in changed:
                context = seen[theirs.output_path].context
                check_finite(theirs, context)
                sums[theirs.output_path] = sums[theirs.output_path] + context.double().sum(0)
                counts[theirs.output_path] += len(context)
        for ours, theirs in changed:
            gone = theirs.channels(set(theirs.present) - set(ours.present))
            weight = weight_of(theirs.output)
            mean = sums[theirs.output_path][gone] / counts[theirs.output_path]
            if ours.output.bias is None:
                raise PruningError(f"{ours.output_path} has no bias to put the mean of the removed units into.")
            ours.output.bias.data.add_((weight[:, gone].double() @ mean).to(weight.dtype))
            yield ours.output_path, None, counts[theirs.output_path]

    return _recovered("bias", model, dense, changed, dataloader, num_examples, fold)


def _pairs(model: Any, dense: Any) -> list[Pair]:
    """The layers of both models, checked to belong together."""
    ours, theirs = prunable_layers(model), prunable_layers(dense)
    fits = [layer.output_path for layer in ours] == [layer.output_path for layer in theirs] and all(
        own.size == other.size
        and (
            set(own.present) <= set(other.present)
            if own.num_original == other.num_original or own.noun == "heads"
            else len(own.present) <= len(other.present)  # another pruner has been at work: numbered anew
        )
        for own, other in zip(ours, theirs, strict=True)
    )
    if not fits or model is dense:
        raise PruningError(
            "`dense` is not the model that `model` was pruned from: pass a copy that was made before pruning "
            "(`copy.deepcopy(model)`), or load its checkpoint again."
        )
    return list(zip(ours, theirs, strict=True))


def _recovered(
    method: str,
    model: Any,
    dense: Any,
    changed: Sequence[Pair],
    dataloader: Batches,
    num_examples: int,
    fit: Callable[[Sequence[Any], int], Iterator[Fitted]],
    held_out: Batches | None = None,
) -> RecoveryReport:
    """Fits the output projections of layers; puts them back where the outputs drift from the dense model's."""
    start = time.perf_counter()
    if num_examples < 2:
        raise ConfigError(f"`num_examples` must be at least 2; got {num_examples}.")
    fitted = calibration_batches(dataloader, model, num_examples)
    if held_out is None:
        fitted, checked = apart(fitted, round(1 / _HELD_OUT))
    else:
        checked = calibration_batches(held_out, model, num_examples)
    if not fitted:
        raise DataError("Recovery needs at least two batches of examples: one to fit, one to check; got one.")
    tokens = sum(int(batch.mask.sum()) for batch in fitted)
    errors: dict[str, tuple[float, float]] = {}
    with at_rest(model, dense):
        before = [(ours.output, copy.deepcopy(ours.output.state_dict())) for ours, _ in changed]
        first, accepted = _divergence(model, dense, checked), False
        try:
            for name, found, count in logging.tqdm(
                fit(fitted, tokens), total=len(changed), desc="Refitting", unit="layer"
            ):
                errors |= {} if found is None else {name: found}
                tokens = tokens or count  # of images and recordings, whose tokens the model makes
            second = _divergence(model, dense, checked)
            accepted = second <= first
        finally:
            if not accepted:
                for output, state in before:
                    output.load_state_dict(state)
        if not accepted:
            logger.warning(f"The divergence from the dense model would grow from {first:.3f} to {second:.3f}.")
    count, seconds = sum(len(batch.mask) for batch in fitted), time.perf_counter() - start
    report = RecoveryReport(method, count, tokens, errors, (first, second), accepted, seconds)
    logger.info(str(report))
    return report


def _divergence(model: Any, dense: Any, batches: Sequence[Any]) -> float:
    """Mean squared difference of the models' outputs over the variance of the dense model's."""
    squares, energy = 0.0, 0.0
    sums: dict[int, tuple[int, torch.Tensor]] = {}  # by width: a similarity's depends on the batch
    for batch in batches:
        mine, other = (_real_outputs(one, batch) for one in (model, dense))
        squares += float((mine - other).square().sum())
        energy += float(other.square().sum())
        count, total = sums.get(other.shape[1], (0, torch.zeros(other.shape[1], dtype=torch.float64)))
        sums[other.shape[1]] = count + len(other), total + other.sum(0)
    variance = energy - sum(float(total.square().sum()) / count for count, total in sums.values())
    return squares / variance if variance > 0 else squares


def _real_outputs(model: Any, batch: Any) -> torch.Tensor:
    """A model's main output at the real tokens, float64 of shape ``(rows, channels)``, on the CPU."""
    outputs = model(**batch.inputs, **call_options(type(model)))
    first = outputs["logits"] if "logits" in outputs else outputs[0]
    for mask in (batch.mask, batch.decoder_mask):
        if mask is not None and first.dim() == 3 and first.shape[:2] == mask.shape:
            first = first[mask.to(first.device)]
    return first.double().cpu().reshape(-1, first.shape[-1])
