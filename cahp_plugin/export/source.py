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
from cahp_plugin.export.parts import MODEL, Part, feed, parts_of
from cahp_plugin.export.quantize import warn_of_saturation
from cahp_plugin.export.session import graph_files, open_sessions, recorded_preset, run_session
from cahp_plugin.export.tasks import TASKS, Task, exported_model, own_task, task_named, task_of
from cahp_plugin.observe.inputs import random_inputs
from cahp_plugin.prune import load_pruned
from cahp_plugin.prune.checkpoint import load_config, load_tokenizer, untrained_model
from cahp_plugin.units import attention_layers, kept_set, kept_state
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
        padding = "left" if self.parts[0].left else "right"
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
    if isinstance(source, torch.nn.Module):
        return _of_model(source, task, folder=None)
    name = os.fspath(source)
    graphs = graph_files(name)
    if graphs:
        warn_of_saturation(recorded_preset(name), name)
        return _of_graphs(graphs, task, name)
    return _of_model(load_pruned(name, dtype=torch.float32), task, folder=name)


def _of_model(model: Any, task_name: str | None, *, folder: str | None) -> Source:
    task = task_of(model, task_name)
    whole = exported_model(model, task)
    if any(parameter.device.type != "cpu" or parameter.dtype != torch.float32 for parameter in whole.parameters()):
        raise DataError(
            f"{type(model).__name__} is not in fp32 on the CPU, where the graph is compared with it: "
            "`model.float().cpu()` first. `quantize='fp16'` makes an fp16 graph."
        )
    layers = attention_layers(whole)
    if not kept_set(whole.config).heads:
        logger.info(f"{type(model).__name__} was not pruned by cahp-plugin; it is exported as it is.")
    config = copy.deepcopy(whole.config)
    config.architectures = [type(whole).__name__]
    parts = parts_of(whole, task)
    return Source(
        task,
        config,
        parts,
        max_positions(whole) or _ANY_LENGTH,
        sum(len(layer.heads) for layer in layers),
        frozenset(layer.head_dim for layer in layers),
        model=whole,
        tokenizer=None if folder is None else _tokenizer(folder, parts),
        folder=folder,
        generation_config=copy.deepcopy(getattr(whole, "generation_config", None)),
    )


def _of_graphs(graphs: Mapping[str, Path], task_name: str | None, folder: str) -> Source:
    config = load_config(folder)
    sessions = open_sessions(graphs)
    task = task_named(task_name) if task_name else _task_of_graphs(config, sessions)
    layers = attention_layers(untrained_model(config, device="meta"))
    names = {entry.name for session in sessions.values() for entry in session.get_inputs()}
    left = task.name == "text-generation" or "position_ids" in names
    parts = tuple(
        Part(name, _free(session.get_inputs()), _free(session.get_outputs()), None, left)
        for name, session in sessions.items()
    )
    return Source(
        task,
        config,
        parts,
        config_positions(config) or _ANY_LENGTH,
        sum(len(layer.heads) for layer in layers),
        frozenset(layer.head_dim for layer in layers),
        graphs=graphs,
        sessions=sessions,
        tokenizer=_tokenizer(folder, parts),
        folder=folder,
        generation_config=_generation_config(folder),
    )


def _free(entries: Iterable[Any]) -> dict[str, dict[int, str]]:
    return {entry.name: {} for entry in entries}


def _task_of_graphs(config: Any, sessions: Mapping[str, Any]) -> Task:
    inputs = {entry.name for session in sessions.values() for entry in session.get_inputs()}
    outputs = {entry.name for entry in list(sessions.values())[-1].get_outputs()}
    main_input = next((name for name in ("input_features", "pixel_values") if name in inputs), "input_ids")
    if MODEL not in sessions:
        return next(task for task in TASKS.values() if task.two_graphs and task.main_input == main_input)
    own = own_task((config.architectures or [""])[0], main_input)
    if own is not None and not own.two_graphs and set(own.outputs) <= outputs:
        return own
    fitting = [task for task in TASKS.values() if set(task.outputs) <= outputs and not task.two_graphs]
    if not fitting:
        raise ExportError(f"The graph gives {', '.join(sorted(outputs))}, the outputs of none of: {', '.join(TASKS)}.")
    return fitting[0]


def _tokenizer(name: str, parts: tuple[Part, ...]) -> Any:
    texts = any("input_ids" in part.inputs for part in parts)
    try:
        return load_tokenizer(name)
    except CheckpointError as error:
        if texts:
            logger.warning(f"{error} The exported folder has none either.")
        return None


def _generation_config(folder: str) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig.from_pretrained(folder) if (Path(folder) / "generation_config.json").is_file() else None
