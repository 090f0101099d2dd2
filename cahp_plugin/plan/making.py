"""Measures a model's layers, once for all budgets."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging

from cahp_plugin._compat import package_versions
from cahp_plugin.config import CAHPConfig
from cahp_plugin.cost.layers import LayerCost, costs_of
from cahp_plugin.errors import ConfigError, DataError, UnsupportedModelError
from cahp_plugin.observe.batches import Batch
from cahp_plugin.observe.layer_grams import layer_grams
from cahp_plugin.observe.normal_equations import NormalEquations
from cahp_plugin.observe.streams import apart, calibration_batches
from cahp_plugin.observe.suffix import Suffix
from cahp_plugin.observe.walk import MEMORY
from cahp_plugin.plan.compared import compared_of
from cahp_plugin.plan.orders import centred, refitted, selector_order, sizes_of
from cahp_plugin.plan.plan import LayerPlan, Plan, fingerprint_of_batches, layer_plan
from cahp_plugin.plan.progress import Progress
from cahp_plugin.plan.sensitivity import sensitivity
from cahp_plugin.processes import processes
from cahp_plugin.recover import prune_and_repair
from cahp_plugin.recover.state import at_rest
from cahp_plugin.selectors import View, selectors
from cahp_plugin.selectors.elimination import eliminate_units
from cahp_plugin.units import PrunableLayer, prunable_layers
from cahp_plugin.units.state import fingerprint_of_model

logger = logging.get_logger(__name__)

#: Strength of the ridge that a budget's repair has, relative to the activations.
RIDGE = 1e-2
#: One in so many batches is measured on; the others are fitted on.
EVERY = 4


def plan_pruning(
    model: Any,
    dataloader: Iterable[Mapping[str, Any]],
    *,
    num_examples: int = 512,
    order: str = "obs",
    ridge: float = RIDGE,
    multiple_of: int = 16,
    output: str | None = None,
    config: CAHPConfig | None = None,
    progress: str | os.PathLike[str] | None = None,
) -> Plan:
    """Measures what each size of each layer loses at a model's outputs, once for all budgets.

    One pass over the examples sums the Gram matrices of what goes into the output projections of attention and
    feed-forward. From each come an order of the layer's units, a refit of the projection for about a dozen sizes
    (Optimal Brain Surgeon), and for each size the divergence of the model's outputs from the dense ones on held-out
    examples, with that layer alone cut; of these passes only what lies behind the layer runs. Labels are not needed.
    :meth:`Plan.keep` then chooses one size a layer for any budget.

    Args:
        model: The fine-tuned model; unchanged.
        dataloader: Dict batches as for training, in an order that is no sorted one.
        num_examples: Examples used, from the first; one batch in four is measured on, the others are fitted on.
        order: Name of the selector that orders the heads of each layer; see :class:`cahp_plugin.config.PlanSettings`.
        ridge: Strength of the ridge of all refits; that of the later repair too.
        multiple_of: Sizes of feed-forward layers are multiples of it; 1 allows any.
        output: Name of the model's output that is to stay as it is, where its task is not known.
        config: Settings of the selector that orders the heads, and the seed of what it draws.
        progress: A file that the measured layers are written to as they come. The same call with the same file goes
            on where an earlier one was stopped.

    Returns:
        The plan.

    Raises:
        ConfigError: A number is out of range, or the selector or the output is unknown.
        DataError: There are fewer than two batches, or they can't be used.
        PruningError: Activations or outputs are not finite.
        UnsupportedModelError: The model has nothing that can be pruned.

    Example:
        >>> plan = plan_pruning(model, dataloader)  # doctest: +SKIP
        >>> kept = plan.keep(Budget(macs=0.6))  # doctest: +SKIP
    """
    if not ridge >= 0:
        raise ConfigError(f"`ridge` must be at least 0; got {ridge}.")
    if order not in selectors():
        raise ConfigError(f"There is no selector {order!r} to order the heads; known are {', '.join(selectors())}.")
    layers = [layer for layer in prunable_layers(model) if layer.present]
    if not layers:
        raise UnsupportedModelError("The model has no head and no neuron left to remove.")
    batches = calibration_batches(dataloader, model, num_examples, labels=True)
    fitted, held_out = apart(batches, EVERY)
    if not fitted:
        raise DataError("A plan needs at least two batches of examples: one to fit, one to measure on; got one.")
    compared = compared_of(model, output)
    settings = {
        "num_examples": sum(map(len, batches)),
        "measured_on": sum(map(len, held_out)),
        "order": order,
        "ridge": ridge,
        "multiple_of": multiple_of,
        "output": output,
    }
    bound = {
        "model": fingerprint_of_model(model),
        "data": fingerprint_of_batches(batches),
        "settings": settings,
        "versions": package_versions(),
    }
    clock = dict.fromkeys(("order the heads", "observe", "order and fit", "measure"), 0.0)
    ranks: dict[tuple[int, int], int] = {}
    if order != "obs":  # in all processes together
        start = time.perf_counter()
        ranks = _ranks(model, fitted, order, config or CAHPConfig())
        clock["order the heads"] = time.perf_counter() - start

    def measured(layer: PrunableLayer, equations: NormalEquations, suffix: Suffix, cost: LayerCost) -> LayerPlan:
        """Order, fits and losses of one layer."""
        start = time.perf_counter()
        gram, mean = centred(layer, equations)
        if layer.noun == "heads" and ranks:
            places = range(len(layer.units))
            ordered = tuple(sorted(places, key=lambda place: ranks[layer.index, layer.units[place][0]]))
        else:
            ordered = eliminate_units(layer, gram, ridge).order[::-1]
        sizes = sizes_of(layer, multiple_of)
        fits = [refitted(layer, gram, mean, ordered[:size], ridge) for size in sizes[1:]]
        clock["order and fit"] += time.perf_counter() - start
        start = time.perf_counter()
        losses = [0.0, *sensitivity(suffix, layer, fits, compared.of)]
        clock["measure"] += time.perf_counter() - start
        return layer_plan(layer, ordered, sizes, losses, cost)

    def measure() -> Plan:
        done = Progress(None if progress is None else Path(progress), bound)
        costs = costs_of(model, layers)
        cost = {layer.output_path: own for layer, own in zip(layers, costs.layers, strict=True)}
        with at_rest(model):
            start = time.perf_counter()
            suffix = Suffix(model, layers, held_out)
            _foretell(layers, time.perf_counter() - start, multiple_of, suffix.size)
            start = time.perf_counter()
            bar = logging.tqdm(total=len(layers), desc="Planning", unit="layer")
            for grams in layer_grams(model, layers, fitted):
                clock["observe"] += time.perf_counter() - start
                while grams:  # a matrix is let go with its layer
                    layer, equations = grams.pop(0)
                    if layer.output_path not in done.layers:
                        done.add(measured(layer, equations, suffix, cost[layer.output_path]))
                    bar.update()
                start = time.perf_counter()
            bar.close()
        return Plan(
            tuple(done.layers[layer.output_path] for layer in layers),
            costs.macs,
            costs.parameters,
            compared.told,
            ridge,
            settings,
            {name: round(value, 2) for name, value in clock.items() if value},
            str(bound["model"]),
            str(bound["data"]),
            package_versions(),
        )

    return processes().share(measure)


def _ranks(model: Any, batches: Sequence[Batch], name: str, config: CAHPConfig) -> dict[tuple[int, int], int]:
    """Layer and first head of each unit -> its place in a selector's order."""
    config = dataclasses.replace(config, min_heads_per_layer=0, num_heads=None)
    view = View(model, [batch.given for batch in batches], config, shrink=prune_and_repair)
    return {unit: place for place, unit in enumerate(selector_order(view, name, config.seed))}


def _foretell(layers: Sequence[PrunableLayer], seconds: float, multiple_of: int, recorded: int) -> None:
    """Says how long the measuring takes, in how much memory and disk, from one pass over the held-out examples."""
    sizes = [len(sizes_of(layer, multiple_of)) - 1 for layer in layers]
    # A layer's passes run what lies behind it.
    behind = sum(count * (1 - place / len(layers)) for place, count in enumerate(sizes))
    width = max(len(layer.present) * layer.size for layer in layers)
    on_disk = recorded if recorded > MEMORY else 0
    memory = (8 * width**2 * 6 + recorded - on_disk) / 2**20
    logger.info(
        f"Planning: {len(layers)} layers, {sum(sizes)} sizes; about {behind * seconds / 60:.1f} min, {memory:.0f} MiB "
        f"of memory, {on_disk / 2**20:.0f} MiB in temporary files."
    )
