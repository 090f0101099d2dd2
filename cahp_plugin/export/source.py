"""What is exported: a model, or a graph that was exported before."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from cahp_plugin.architectures import attention_layers, head_map, kept_state
from cahp_plugin.architectures.positions import max_positions
from cahp_plugin.errors import CheckpointError, DataError
from cahp_plugin.export.session import onnx_file, open_session, run_session
from cahp_plugin.export.tasks import TASKS, Task, exported_model, input_names, task_named, task_of
from cahp_plugin.prune import load_pruned
from cahp_plugin.prune.checkpoint import load_config, load_tokenizer

logger = logging.get_logger(__name__)

_ANY_LENGTH = 2**31

Run = Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class Source:
    """A model or a graph, as the export needs it.

    Attributes:
        task: What it does.
        config: Its config.
        inputs: Names of its inputs.
        longest: Longest sequence that it takes, in tokens.
        num_heads: Attention heads in it.
        head_dim: Channels a head.
        run: From inputs by name to outputs by name.
        model: The module that is exported, fp32 on the CPU; ``None`` for a graph.
        graph: The file; ``None`` for a model.
        tokenizer: The tokenizer beside it, or ``None``.
    """

    task: Task
    config: Any
    inputs: tuple[str, ...]
    longest: int
    num_heads: int
    head_dim: int
    run: Run
    model: Any = None
    graph: Path | None = None
    tokenizer: Any = None

    def random_inputs(
        self, batch_size: int, sequence_length: int, *, padded: bool, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Draws inputs of one shape.

        Args:
            batch_size: Examples.
            sequence_length: Tokens; no more than ``longest``.
            padded: Whether the examples behind the first are padded on the right, each to another length.
            generator: Source of the token ids.

        Returns:
            Input name -> int64 tensor of shape ``(batch_size, sequence_length)``.
        """
        shape = (batch_size, sequence_length)
        mask = torch.ones(shape, dtype=torch.long)
        if padded:
            for row in range(1, batch_size):
                mask[row, max(1, sequence_length * row // batch_size) :] = 0
        padding = getattr(self.config, "pad_token_id", None) or 0
        tokens = torch.randint(0, self.config.vocab_size, shape, generator=generator)
        tokens = tokens.masked_fill(tokens == padding, (padding + 1) % self.config.vocab_size)
        every = {
            "input_ids": tokens.masked_fill(mask == 0, padding),
            "attention_mask": mask,
            "token_type_ids": torch.zeros(shape, dtype=torch.long),
        }
        return {name: every[name] for name in self.inputs}


def open_source(source: Any, task: str | None = None) -> Source:
    """Opens what is to be exported.

    Args:
        source: A model, a folder or Hub id of one, or a folder with an exported graph.
        task: Optimum's name of the task; the one that the model's class does without it.

    Raises:
        CheckpointError: It is no model.
        ExportError: The model can't do the task, or there are several graphs.
    """
    if isinstance(source, torch.nn.Module):
        return _of_model(source, task, tokenizer=None)
    name = os.fspath(source)
    graph = onnx_file(name)
    if graph is not None:
        return _of_graph(graph, task)
    return _of_model(load_pruned(name, dtype=torch.float32), task, tokenizer=_tokenizer(name))


def _of_model(model: Any, task_name: str | None, *, tokenizer: Any) -> Source:
    task = task_of(model, task_name)
    part = exported_model(model, task)
    if any(parameter.device.type != "cpu" or parameter.dtype != torch.float32 for parameter in part.parameters()):
        raise DataError(
            f"{type(model).__name__} is not in fp32 on the CPU, where the graph is compared with it: "
            "`model.float().cpu()` first. `quantize='fp16'` makes an fp16 graph."
        )
    layers = attention_layers(part)
    if not head_map(part.config):
        logger.info(f"{type(model).__name__} was not pruned by cahp-plugin; it is exported as it is.")

    def run(inputs: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        with kept_state(part), torch.inference_mode():
            part.eval()
            result = part(**inputs)
        return {name: result[name] for name in task.outputs}

    return Source(
        task,
        part.config,
        input_names(part),
        max_positions(part) or _ANY_LENGTH,
        sum(len(layer.heads) for layer in layers),
        layers[0].head_dim,
        run,
        model=part,
        tokenizer=tokenizer,
    )


def _of_graph(graph: Path, task_name: str | None) -> Source:
    folder = graph.parent
    config = load_config(folder)
    session = open_session(graph)
    task = task_named(task_name) if task_name else _task_of_outputs(config, session)
    kept = head_map(config)
    count = int(config.num_attention_heads)
    return Source(
        task,
        config,
        tuple(entry.name for entry in session.get_inputs()),
        getattr(config, "max_position_embeddings", None) or _ANY_LENGTH,
        sum(len(heads) for heads in kept.values()) if kept else count * int(config.num_hidden_layers),
        int(config.hidden_size) // count,
        lambda inputs: run_session(session, inputs),
        graph=graph,
        tokenizer=_tokenizer(str(folder)),
    )


def _task_of_outputs(config: Any, session: Any) -> Task:
    names = {entry.name for entry in session.get_outputs()}
    class_name = (config.architectures or [""])[0]
    fitting = [task for task in TASKS.values() if set(task.outputs) == names]
    return next((task for task in fitting if class_name.endswith(task.suffixes)), (fitting or list(TASKS.values()))[0])


def _tokenizer(name: str) -> Any:
    try:
        return load_tokenizer(name)
    except CheckpointError as error:
        logger.warning(f"{error} The exported folder has none either.")
        return None
