"""CAHP as a pruner of Torch-Pruning: exactly the selected units go, through the dependency graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from torch_pruning.dependency import Dependency, Group
from transformers.pytorch_utils import Conv1D

from cahp_plugin.errors import DataError, PruningError, UnsupportedModelError
from cahp_plugin.prune.checkpoint import origin_of
from cahp_plugin.prune.conv1d import Conv1DPruner
from cahp_plugin.prune.importance import CAHPImportance
from cahp_plugin.prune.surgery import record_units
from cahp_plugin.units import AttentionLayer, PrunableLayer, kept_state, layers_named, resolve
from cahp_plugin.units.adapters import BiasOnly
from cahp_plugin.units.state import configs_of, switched_off


class CAHPPruner(tp.pruner.BasePruner):
    """Removes the heads and neurons that a selection does not keep, physically and consistently.

    For each layer the dependency graph gives the group that hangs together with the removed input channels of the
    output projection. The pruner checks that the projections into the units (query, key and value; gate and up) are in
    it and that nothing unknown is, fixes the channels from the architecture, and cuts. Layers may keep different
    numbers of units; a layer without any becomes a bias. The modules' attributes and ``model.config.cahp_config`` are
    kept in step.

    Args:
        model: A supported transformers model, pruned before or not; pruned in place by :meth:`step`.
        example_inputs: A small batch for tracing: a mapping of the model's arguments (without labels), such as a
            tokenizer makes with ``return_tensors="pt"``, or what ``torch_pruning`` accepts.
        importance: What to keep.
        forward_fn: As in ``torch_pruning``: runs the model on ``example_inputs``.
        output_transform: As in ``torch_pruning``: takes the tensors out of the model's output.

    Raises:
        PruningError: The selection removes nothing, or the graph lacks a layer that must shrink.
        SelectionError: The selection names layers, heads or neurons that the model does not have.
        UnsupportedModelError: The model has no known attention, is quantized or has no weights yet; or neurons are to
            be removed and its feed-forward is unknown or a mixture of experts.
        DataError: The example inputs hold no tensor.

    Example:
        >>> pruner = CAHPPruner(model, inputs, importance=CAHPImportance({0: (1, 4), 3: ()}))  # doctest: +SKIP
        >>> pruner.step()  # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        importance: CAHPImportance,
        *,
        forward_fn: Callable[..., Any] | None = None,
        output_transform: Callable[..., Any] | None = None,
    ) -> None:
        if not isinstance(importance, CAHPImportance):
            raise PruningError(
                f"CAHPPruner takes a CAHPImportance, got {type(importance).__name__}. For another importance use "
                "Torch-Pruning's own pruner."
            )
        layers = layers_named(model, importance.kept)
        if any(parameter.is_meta for parameter in model.parameters()):
            raise UnsupportedModelError("The model is on the meta device: it has no weights yet. Load them first.")
        kept = resolve(importance.kept, layers)
        self._layers = layers
        wanted = [(layer, getattr(kept, layer.noun)[layer.index]) for layer in layers]
        plan = [(layer, units) for layer, units in wanted if units != layer.present]
        if not plan:
            both = f"{kept.num_heads} heads" + (f" and {kept.num_neurons} neurons" if kept.neurons else "")
            raise PruningError(f"The selection keeps all {both} of the model: there is nothing to remove.")
        origin_of(model)  # for saving
        biases = [module.bias for module in model.modules() if isinstance(module, BiasOnly)]
        if forward_fn is None:
            example_inputs = _tracing_inputs(example_inputs)
        # Tracing by autograd: a parameter without gradients would be missing from the graph, a cache would add nodes,
        # and the model is put in eval mode.
        with (
            switched_off((config, "use_cache") for config in configs_of(model)),
            kept_state(model),
            torch.enable_grad(),
            warnings.catch_warnings(),
        ):
            # Hundreds of names of norms, none of which is cut: what would be is checked in `_group`.
            warnings.filterwarnings("ignore", message="Unwrapped parameters detected")
            model.requires_grad_(True)
            super().__init__(
                model,
                example_inputs,
                importance,
                global_pruning=True,
                root_module_types=[],  # the groups are asked for one by one; a walk through all of them is not needed
                in_channel_groups={},
                out_channel_groups={},
                num_heads={},
                forward_fn=forward_fn,
                output_transform=output_transform,
                customized_pruners={Conv1D: Conv1DPruner()},
                # The biases that layers without heads have left; unknown to Torch-Pruning, which would warn of them.
                unwrapped_parameters=[(bias, 0) for bias in biases if bias is not None],
            )
        self._groups = [self._group(layer, units) for layer, units in plan]

    def step(self, interactive: bool = False) -> Iterator[Group] | None:
        """Removes the units, or with ``interactive=True`` yields one group a layer to be pruned by the caller.

        Raises:
            PruningError: The pruner was used before.
        """
        if self.current_step > 0:
            raise PruningError("This pruner has done its step. Make a new selection and a new pruner to go on.")
        return super().step(interactive=interactive)

    def load_pruning_history(self, pruning_history: Any) -> None:
        """Not offered: a history has channels and no units, so the map could not be kept.

        Raises:
            PruningError: Always.
        """
        raise PruningError("A pruning history can't be replayed: save the model by `save_pruned`, or its KeptSet.")

    def _prune(self) -> Iterator[Group]:
        yield from self._groups

    def _group(self, layer: PrunableLayer, kept: Sequence[int]) -> UnitGroup:
        dropped = sorted(set(layer.present) - set(kept))
        output = layer.output
        if output not in self.DG.module2node:
            raise PruningError(
                f"{layer.output_path} is not in the dependency graph: the example inputs do not run through it."
            )
        missing = {module: path for path, module in layer.projections().items()}
        allowed = {*missing, *self._elsewhere(layer)}
        group = UnitGroup(self.model, layer, kept)
        group._DG = self.DG
        for dependency in self._reached(output):
            module = dependency.target.module
            if module is output or module in missing:
                wanted = self.DG.is_in_channel_pruning_fn if module is output else self.DG.is_out_channel_pruning_fn
                if not wanted(dependency.handler):
                    raise PruningError(f"The dependency graph would cut the wrong side of {dependency.target.name}.")
                path = missing.pop(module, None)
                group.add_dep(dependency, layer.channels(dropped) if path is None else layer.outputs(path, dropped))
            elif module not in allowed and (
                isinstance(module, nn.Parameter) or any(True for _ in module.parameters())
            ):
                raise PruningError(
                    f"Removing {layer.noun} of {layer.name} would also cut {dependency.target.name}, which is not "
                    f"part of this {layer.kind} layer in the architecture {layer.spec.name!r}. Register a "
                    f"{type(layer.spec).__name__} that fits."
                )
        if missing:
            names = ", ".join(f"{layer.name}.{path}" for path in missing.values())
            raise PruningError(
                f"The dependency graph does not connect {names} with {layer.output_path}, so it can't shrink "
                "with it. Check that the example inputs run through the whole model."
            )
        return group

    def _reached(self, output: nn.Module) -> list[Dependency]:
        """The cuts that the input channels of an output projection hang together with, nearest first.

        Torch-Pruning's own walk (``get_pruning_group``) carries channel indices along. Rotary embeddings concatenate
        the halves of each head, which it takes for halves of all channels: with grouped queries it then walks through
        2^64 of them. The channels are planned here, so this walk looks at what is reached only, once each.
        """
        root = self.DG.module2node[output]
        handler = self.DG.get_pruner_of_module(output).prune_in_channels
        found = [Dependency(handler, handler, source=root, target=root)]
        seen = {(root, handler)}
        for dependency in found:  # grows as it is walked through
            for following in dependency.target.dependencies:
                place = (following.target, following.handler)
                if following.is_triggered_by(dependency.handler) and place not in seen:
                    seen.add(place)
                    found.append(following)
        return found

    def _elsewhere(self, layer: PrunableLayer) -> set[Any]:
        """Modules and parameters that the graph may reach from a layer's units and that lose nothing with them."""
        fixed: set[Any] = set()
        if not isinstance(layer, AttentionLayer):
            return fixed
        for name, module in self.model.named_modules():
            if name.rpartition(".")[2] in layer.spec.fixed:
                fixed.update((module, *module.parameters()))
        for other in self._layers if layer.spec.shared_bias else ():  # one bias is added to the scores of all layers
            if isinstance(other, AttentionLayer) and other.spec.shared_bias and other.index != layer.index:
                fixed.update((*other.projections().values(), other.output))
        return fixed


class UnitGroup(Group):
    """The coupled cuts that remove units from one layer.

    Attributes:
        layer: The layer, as it was when the group was made.
        kept: Original indices of the units that stay.
    """

    def __init__(self, model: nn.Module, layer: PrunableLayer, kept: Sequence[int]) -> None:
        super().__init__()
        self.layer = layer
        self.kept = tuple(kept)
        self._model = model
        self._done = False

    def prune(self, idxs: Sequence[int] | None = None, record_history: bool = True) -> None:
        """Cuts the layer and brings its attributes and the model's map in step.

        Raises:
            PruningError: Other indices were asked for, or the group was pruned before.
        """
        if idxs is not None:
            raise PruningError("The group is cut as it was planned; make another CAHPImportance for other units.")
        if self._done:
            raise PruningError(f"The {self.layer.noun} of {self.layer.name} were removed by this group already.")
        self._done = True
        flags = {name: parameter.requires_grad for name, parameter in self.layer.block.named_parameters()}
        super().prune(record_history=record_history)
        for name, parameter in self.layer.block.named_parameters():
            parameter.requires_grad_(flags[name])  # Torch-Pruning makes new parameters, all trainable
        record_units(self._model, self.layer, self.kept)


def _tracing_inputs(given: Any) -> Any:
    """Inputs as Torch-Pruning takes them: it knows a dict, and no other mapping, as keyword arguments.

    Raises:
        DataError: There is no tensor in them.
    """
    if isinstance(given, Mapping):
        given = dict(given)
    values = given.values() if isinstance(given, dict) else given if isinstance(given, (list, tuple)) else [given]
    if not any(isinstance(value, torch.Tensor) for value in values):
        keys = f" with the keys {', '.join(map(str, given))}" if isinstance(given, dict) else ""
        raise DataError(
            f"`example_inputs` must hold tensors; got a {type(given).__name__}{keys}. A tokenizer makes them with "
            '`tokenizer("hello", return_tensors="pt")`.'
        )
    return given
