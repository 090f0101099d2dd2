"""What lies beside the graphs: the config, and all that a pipeline prepares its inputs with."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

from transformers.utils import logging

from cahp_plugin.export.source import Source
from cahp_plugin.prune.checkpoint import find_file

logger = logging.get_logger(__name__)

_PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")


def save_companions(source: Source, folder: Path, tokenizer: Any = None) -> None:
    """Saves what belongs to a source beside its graphs.

    The config, with the map of heads; the generation config, without a cache; the tokenizer; and the settings of the
    image processor or feature extractor.

    Args:
        source: What was exported.
        folder: Folder with the graphs.
        tokenizer: Saved in place of the source's own.
    """
    source.config.save_pretrained(folder)
    generates = source.task.two_graphs or source.task.name == "text-generation"
    if source.generation_config is not None and generates:
        settings = copy.deepcopy(source.generation_config)
        settings.use_cache = False
        settings.save_pretrained(folder)
    tokenizer = tokenizer if tokenizer is not None else source.tokenizer
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    source.task.save_beside(folder)
    if source.folder is not None and {"pixel_values", "input_features"} & set(source.parts[0].inputs):
        found = [path for name in _PREPROCESSORS if (path := find_file(source.folder, name, {}))]
        for path in found:
            shutil.copyfile(path, folder / Path(path).name)
        if not found:
            logger.warning(f"{source.folder} has no {_PREPROCESSORS[0]}; the exported folder has none either.")
