"""Whether an architecture is pruned exactly: the check to run after adding a row to the table."""

from __future__ import annotations

import copy
import dataclasses
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cahp_plugin._compat import package_versions
from cahp_plugin.errors import UnsupportedModelError
from cahp_plugin.observe import only_kept
from cahp_plugin.observe.inputs import model_inputs, random_inputs
from cahp_plugin.observe.maps import attention_maps, map_arguments
from cahp_plugin.prune import CAHPImportance, CAHPPruner, load_pruned, save_pruned
from cahp_plugin.prune.checkpoint import origin_of
from cahp_plugin.units import AttentionLayer, KeptSet, PrunableLayer, attention_layers, prunable_layers, resolve
from cahp_plugin.units.find import set_of
from cahp_plugin.units.positions import max_positions


@dataclasses.dataclass(frozen=True)
class CheckedCase:
    """One comparison.

    Attributes:
        name: What was done.
        difference: Largest absolute difference of an output from what it must be; over the largest output, where that
            exceeds 1.
        passed: Whether it is within the tolerance.
    """

    name: str
    difference: float
    passed: bool


@dataclasses.dataclass(frozen=True)
class ArchitectureCheck:
    """What :func:`check_architecture` found.

    Attributes:
        model: Class of the model.
        architectures: Rows of the table that its layers belong to.
        kinds: What was removed: ``"heads"`` and, where the feed-forward is known, ``"neurons"``.
        attention: Attention implementation.
        dtype: Type of the weights.
        tolerance: Largest difference allowed.
        cases: The comparisons.
        versions: Versions of the packages.
    """

    model: str
    architectures: tuple[str, ...]
    kinds: tuple[str, ...]
    attention: str
    dtype: str
    tolerance: float
    cases: tuple[CheckedCase, ...]
    versions: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether every case did."""
        return all(case.passed for case in self.cases)

    @property
    def difference(self) -> float:
        """Largest difference of all cases."""
        return max(case.difference for case in self.cases)

    def to_dict(self) -> dict[str, Any]:
        """Returns the check as plain JSON values."""
        return dataclasses.asdict(self) | {"passed": self.passed}

    def __str__(self) -> str:
        row = f"{', '.join(self.architectures)}; {' and '.join(self.kinds)}; {self.attention}, {self.dtype}"
        head = f"{self.model} ({row}): "
        verdict = "exact" if self.passed else "NOT exact"
        lines = [f"{head}{verdict}, {self.difference:.1e} at most (tolerance {self.tolerance:.0e})"]
        lines += [f"  {'ok  ' if case.passed else 'FAIL'} {case.difference:.1e}  {case.name}" for case in self.cases]
        return "\n".join(lines)


def check_architecture(
    model: Any,
    example_inputs: Mapping[str, Tensor] | None = None,
    *,
    num_sets: int = 3,
    tolerance: float | None = None,
    seed: int = 0,
) -> ArchitectureCheck:
    """Prunes copies of a model in many ways and compares each with the model whose dropped units are zeroed.

    Layers that lose all heads or all neurons (the first, a middle one, the last, all), random heads and neurons
    together, a second pruning, a saved and reloaded copy, attention maps of what is left, and, for decoders, decoding
    with a cache against without. Neurons are left alone where the feed-forward has no row in the table. Give it a
    small model with random weights of the architecture that you added: a few layers are enough, and quick.

    Args:
        model: The model; unchanged.
        example_inputs: Arguments of its forward call; drawn at random without it.
        num_sets: Random sets of heads and neurons.
        tolerance: Largest difference allowed; 1e-5 for fp32 and the rounding of the type for others.
        seed: Seed of the sets and of the inputs.

    Returns:
        The comparisons; ``passed`` says whether all are within the tolerance.

    Raises:
        UnsupportedModelError: The architecture is unknown, or the inputs can't be guessed.
        PruningError: The dependency graph does not hold what the row of the table says.
    """
    model = copy.deepcopy(model).eval()
    origin_of(model)  # once for all the copies
    inputs = _random_inputs(model, seed) if example_inputs is None else dict(example_inputs)
    layers = prunable_layers(model)
    attention, dtype = str(model.config._attn_implementation), next(model.parameters()).dtype
    bound = tolerance if tolerance is not None else 1e-5 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps
    cases: list[CheckedCase] = []

    def add(name: str, ours: Tensor, wanted: Tensor) -> None:
        scale = max(1.0, float(wanted.abs().max()))
        difference = float((ours.double() - wanted.double()).abs().max()) / scale
        cases.append(CheckedCase(name, difference, difference <= bound))

    def pruned_to(kept: KeptSet, model: Any, name: str) -> Any:
        with only_kept(model, kept):
            wanted = _output(model, inputs)
        smaller = copy.deepcopy(model)
        CAHPPruner(smaller, inputs, importance=CAHPImportance(kept)).step()
        add(name, _output(smaller, inputs), wanted)
        return smaller

    last: Any = None
    for name, kept in _sets(layers, num_sets, seed):
        pruned = pruned_to(kept, model, name)
        if kept.num_heads:
            last = pruned
        if pruned.can_generate():
            add(f"{name}, decoded with a cache", _cached(pruned, inputs), _output(pruned, inputs))
    if last is None:
        raise UnsupportedModelError(f"{type(model).__name__} is too small to be checked: give every layer two heads.")
    with tempfile.TemporaryDirectory() as folder:
        reloaded = load_pruned(save_pruned(last, Path(folder) / "model"), attn_implementation=attention, dtype=dtype)
        add("saved and reloaded", _output(reloaded.to(model.device), inputs), _output(last, inputs))
    add("maps of the heads left sum to 1", _map_sums(last, inputs), torch.ones(1))
    left = prunable_layers(last)
    again = set_of((layer, sum(layer.units[::2], ())) for layer in left)
    if not resolve(KeptSet(), left) <= again:
        pruned_to(again, last, "pruned twice")
    names = tuple(dict.fromkeys(layer.spec.name for layer in layers))
    kinds = tuple(dict.fromkeys(layer.noun for layer in layers))
    what = (type(model).__name__, names, kinds, attention, str(dtype).removeprefix("torch."))
    return ArchitectureCheck(*what, bound, tuple(cases), package_versions())


def _random_inputs(model: Any, seed: int) -> dict[str, Tensor]:
    """Two examples of what the model takes, the second padded where it knows padding."""
    names = model_inputs(type(model))
    if not names:
        raise UnsupportedModelError(
            f"{type(model).__name__} takes none of input_ids, pixel_values and input_features; pass inputs of your "
            "own."
        )
    drawn = random_inputs(
        names,
        model.config,
        batch_size=2,
        sequence_length=min(9, max_positions(model) or 9),
        target_length=7,
        padding="left" if model.can_generate() and not model.config.is_encoder_decoder else "right",
        generator=torch.Generator().manual_seed(seed),
    )
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        for name, value in drawn.items()
    }


def _sets(layers: Sequence[PrunableLayer], count: int, seed: int) -> Iterator[tuple[str, KeptSet]]:
    present = [layer for layer in layers if layer.present]
    for noun in dict.fromkeys(layer.noun for layer in present):
        own = [layer for layer in present if layer.noun == noun]
        yield f"no {noun[:-1]} in any layer", set_of((layer, ()) for layer in own)
        for name, layer in (("first", own[0]), ("middle", own[len(own) // 2]), ("last", own[-1])):
            yield f"no {noun[:-1]} in the {name} layer", set_of([(layer, ())])
    generator = random.Random(seed)
    for number in range(count):
        chosen = {layer: sum((unit for unit in layer.units if generator.random() < 0.5), ()) for layer in present}
        place = present[number % len(present)]
        chosen[place] = place.units[0]  # neither everything nor nothing
        kept = set_of(chosen.items())
        if not resolve(KeptSet(), present) <= kept:
            yield f"random {' and '.join(dict.fromkeys(layer.noun for layer in present))}, {number + 1}", kept


@torch.no_grad()
def _output(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The first floating-point output, at the real tokens."""
    tensors = (value for value in model(**inputs).to_tuple() if isinstance(value, Tensor))
    value = next(tensor for tensor in tensors if tensor.is_floating_point())
    mask = inputs.get("attention_mask")
    if mask is not None and value.dim() == 3 and value.shape[:2] == mask.shape:
        value = value[mask.bool()]
    return value


@torch.no_grad()
def _cached(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The logits of all tokens, computed a few at a time with a cache: as :func:`_output` gives them at once."""
    inputs = dict(inputs)
    name = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
    ids, mask = inputs.pop(name), inputs.get("attention_mask")
    if name == "decoder_input_ids":
        first = next(key for key in ("input_ids", "input_features") if key in inputs)
        padding = {} if mask is None else {"attention_mask": mask}
        inputs["encoder_outputs"] = model.get_encoder()(**{first: inputs.pop(first)}, **padding)
    cache, parts, start = None, [], 0
    for stop in (ids.shape[1] // 2, ids.shape[1] // 2 + 1, ids.shape[1]):
        if name == "input_ids" and mask is not None:
            inputs["attention_mask"] = mask[:, :stop]
        result = model(**inputs, **{name: ids[:, start:stop]}, past_key_values=cache, use_cache=True)
        cache, start = result.past_key_values, stop
        parts.append(result.logits)
    logits = torch.cat(parts, dim=1)
    return logits[mask.bool()] if name == "input_ids" and mask is not None else logits


def _map_sums(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Sums over the keys of all attention maps, at the queries that attend to anything."""
    sums: list[Tensor] = []

    def consume(layer: AttentionLayer, maps: Tensor) -> None:
        found = maps.double().sum(-1).flatten()
        sums.append(found[found != 0])

    layers = attention_layers(model)
    with torch.no_grad(), attention_maps(model, layers, consume):
        model(**inputs, **map_arguments(model, layers))
    if len(sums) < sum(bool(layer.heads) for layer in layers):
        return torch.zeros(1)
    return torch.cat(sums)
