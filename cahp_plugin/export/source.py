"""What is exported: a model, or graphs that were exported before."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from cahp_plugin.errors import CheckpointError, DataError, ExportError
from cahp_plugin.export.parts import Part, feed, parts_of
from cahp_plugin.export.quantize import warn_of_saturation
from cahp_plugin.export.session import graph_files, open_sessions, recorded_preset, run_session
from cahp_plugin.export.tasks import exported_model, task_named, task_of
from cahp_plugin.observe.inputs import random_inputs
from cahp_plugin.prune import load_pruned
from cahp_plugin.prune.certificate import CERTIFICATE_KEY
from cahp_plugin.prune.checkpoint import load_config, untrained_model
from cahp_plugin.tasks import TASKS, Task
from cahp_plugin.tasks.processors import load_processor
from cahp_plugin.tasks.registry import task_of_class
from cahp_plugin.units import attention_layers, kept_set, kept_state
from cahp_plugin.units.find import find_feed_forward
from cahp_plugin.units.positions import config_positions, max_positions

logger = logging.get_logger(__name__)

_ANY_LENGTH = 2**31


@dataclasses.dataclass(frozen=True)
class Source:
    """A model or its graphs, as the export needs it.

    Attributes:
        task: What it does.
        config: Its config.
        parts: What is exported as a graph each, in the order in which they run.
        longest: Longest text that it takes, in tokens.
        num_heads: Attention heads in it.
        num_neurons: Feed-forward neurons in it.
        head_dims: Channels a head; more than one number where layers differ.
        model: The model that is exported, fp32 on the CPU; ``None`` for graphs.
        graphs: Name of a part -> file; empty for a model.
        sessions: Name of a part -> the opened graph; empty for a model.
        tokenizer: The tokenizer beside it, or ``None``.
        folder: Folder or Hub id that it comes from; ``None`` for a model in memory.
        generation_config: How it generates, for models that do.
    """

    task: Task
    config: Any
    parts: tuple[Part, ...]
    longest: int
    num_heads: int
    num_neurons: int
    head_dims: frozenset[int]
    model: Any = None
    graphs: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    sessions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tokenizer: Any = None
    folder: str | None = None
    generation_config: Any = None

    @property
    def called(self) -> str:
        """What it is, in messages."""
        return "the graph that was there" if self.graphs else "the model"

    @property
    def has_text(self) -> bool:
        """Whether it takes texts, whose length is free and which are padded."""
        return any("input_ids" in part.inputs for part in self.parts[:1])

    @property
    def left(self) -> bool:
        """Whether texts are padded on the left, where the outputs are without meaning."""
        return self.task.name == "text-generation" or "position_ids" in self.parts[0].inputs

    def random_inputs(
        self,
        batch_size: int,
        sequence_length: int,
        *,
        target_length: int | None = None,
        padded: bool,
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        """Draws inputs of one shape for the whole; see :func:`cahp_plugin.observe.inputs.random_inputs`.

        Args:
            batch_size: Examples.
            sequence_length: Tokens of a text; no more than ``longest``.
            target_length: Tokens of a decoder; about two thirds of a text's without it.
            padded: Whether the examples behind the first are padded, each to another length.
            generator: Source of the numbers.

        Returns:
            Input name -> tensor.
        """
        names = [*self.parts[0].inputs, *(["decoder_input_ids"] if len(self.parts) > 1 else [])]
        padding = "left" if self.left else "right"
        return random_inputs(
            names,
            self.config,
            batch_size=batch_size,
            sequence_length=sequence_length,
            target_length=target_length or max(1, sequence_length * 2 // 3),
            padding=padding if padded else None,  # type: ignore[arg-type]  # one of two literals
            generator=generator,
        )

    def run(self, part: Part, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Runs one part: inputs by name to outputs by name."""
        if self.sessions:
            return run_session(self.sessions[part.name], inputs)
        with kept_state(self.model), torch.inference_mode():
            self.model.eval()
            return part.run(inputs)

    def part_inputs(self, part: Part, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Picks a part's inputs out of those of the whole and the outputs of the parts before."""
        own = feed(part.name, given)
        return {name: own[name] for name in part.inputs if name in own}


def open_source(source: Any, task: str | None = None) -> Source:
    """Opens what is to be exported.

    Args:
        source: A model, a folder or Hub id of one, or a folder with exported graphs.
        task: Optimum's name of the task; the one that the model's class does without it.

    Raises:
        CheckpointError: It is no model.
        ExportError: The model can't do the task, or there are graphs of several models.
    """
    name = None if isinstance(source, torch.nn.Module) else os.fspath(source)
    graphs = {} if name is None else graph_files(name)
    if name is not None and graphs:
        warn_of_saturation(recorded_preset(name), name)
        config, sessions = load_config(name), open_sessions(graphs)
        parts = tuple(
            Part(part, _free(session.get_inputs()), _free(session.get_outputs()), None)
            for part, session in sessions.items()
        )
        found, longest = task_named(task) if task else _task_of_graphs(config, parts), config_positions(config)
        shape, generation_config = untrained_model(config, device="meta"), _generation_config(name)
    else:
        model = source if name is None else load_pruned(name, dtype=torch.float32)
        found, sessions = task_of(model, task), {}
        shape = _exportable(model, found)
        config = copy.deepcopy(shape.config)
        config.architectures = [type(shape).__name__]
        parts, longest = parts_of(shape, found), max_positions(shape)
        generation_config = copy.deepcopy(getattr(shape, "generation_config", None))
    if vars(config).pop(CERTIFICATE_KEY, None) is not None:
        logger.warning("The certificate of the model is of its weights alone: what is exported of it carries none.")
    layers = attention_layers(shape)
    return Source(
        found,
        config,
        parts,
        longest or _ANY_LENGTH,
        sum(len(layer.heads) for layer in layers),
        sum(len(layer.present) for layer in find_feed_forward(shape)),
        frozenset(layer.size for layer in layers),
        model=None if graphs else shape,
        graphs=graphs,
        sessions=sessions,
        tokenizer=None if name is None else _tokenizer(name, parts),
        folder=name,
        generation_config=generation_config,
    )


def _exportable(model: Any, task: Task) -> Any:
    """What is exported of a model, where it can be."""
    whole = exported_model(model, task)
    if any(parameter.device.type != "cpu" or parameter.dtype != torch.float32 for parameter in whole.parameters()):
        raise DataError(
            f"{type(model).__name__} is not in fp32 on the CPU, where the graph is compared with it: "
            "`model.float().cpu()` first. `quantize='fp16'` makes an fp16 graph."
        )
    if not kept_set(whole.config).heads:
        logger.info(f"{type(model).__name__} was not pruned by cahp-plugin; it is exported as it is.")
    return whole


def _free(entries: Iterable[Any]) -> dict[str, dict[int, str]]:
    return {entry.name: {} for entry in entries}


def _task_of_graphs(config: Any, parts: tuple[Part, ...]) -> Task:
    outputs = set(parts[-1].outputs)
    main_input = next((name for name in ("input_features", "pixel_values") if name in parts[0].inputs), "input_ids")
    if len(parts) > 1:
        return next(task for task in TASKS.values() if task.two_graphs and task.main_input == main_input)
    own = task_of_class((config.architectures or [""])[0], main_input, config)
    if own is not None and not own.two_graphs and set(own.outputs) <= outputs:
        return own
    fitting = [task for task in TASKS.values() if set(task.outputs) <= outputs and not task.two_graphs]
    if not fitting:
        raise ExportError(f"The graph gives {', '.join(sorted(outputs))}, the outputs of none of: {', '.join(TASKS)}.")
    return fitting[0]


def _tokenizer(name: str, parts: tuple[Part, ...]) -> Any:
    texts = any("input_ids" in part.inputs for part in parts)
    try:
        return load_processor(name)
    except CheckpointError as error:
        if texts:
            logger.warning(f"{error} The exported folder has none either.")
        return None


def _generation_config(folder: str) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig.from_pretrained(folder) if (Path(folder) / "generation_config.json").is_file() else None
