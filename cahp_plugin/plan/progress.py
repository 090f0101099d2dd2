"""What was measured so far, in a file that only grows: a plan goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.utils import logging

from cahp_plugin.files import checked, from_plain
from cahp_plugin.plan.plan import LayerPlan

logger = logging.get_logger(__name__)


class Progress:
    """Measured layers by the path of their output projection.

    Args:
        path: The file; ``None`` keeps them in memory alone.
        bound: What they belong to: model, data, settings, versions. What a file holds for others is written anew.

    Attributes:
        layers: Path of an output projection -> what was measured.

    Raises:
        CheckpointError: The file is damaged.
    """

    def __init__(self, path: Path | None, bound: Mapping[str, Any]) -> None:
        self._path, self.layers = path, dict[str, LayerPlan]()
        if path is None:
            return
        first = json.dumps(bound, sort_keys=True)
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
        if lines[:1] == [first]:
            for line in lines[1:-1]:  # behind the last line break is nothing, or a line that was cut off
                layer = checked(path, functools.partial(_layer, line))
                self.layers[layer.path] = layer
            logger.info(f"{len(self.layers)} layers were measured before.")
        logger.info(f"What is measured goes to {path}: if this is stopped, the same command goes on from there.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([first, *map(_line, self.layers.values()), ""]), encoding="utf-8")

    def add(self, layer: LayerPlan) -> None:
        """Adds a layer, to the file too."""
        self.layers[layer.path] = layer
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(layer) + "\n")


def _layer(line: str) -> LayerPlan:
    return from_plain(LayerPlan, json.loads(line))


def _line(layer: LayerPlan) -> str:
    return json.dumps(dataclasses.asdict(layer))
