"""What makes a model's inputs: tokenizers, and the processors of images and speech."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cahp_plugin.errors import CheckpointError

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model")
_ERRORS = (OSError, ValueError, KeyError, TypeError, ImportError)


def load_tokenizer(name: str, **options: Any) -> Any:
    """Loads the tokenizer of a checkpoint or of an exported folder.

    Args:
        name: Folder or Hub id.
        **options: For ``AutoTokenizer.from_pretrained``.

    Raises:
        CheckpointError: There is none that loads.
    """
    from transformers import AutoTokenizer

    folder = Path(name)
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        # Transformers 5 would make one with an empty vocabulary.
        raise CheckpointError(f"{name} has no tokenizer: no file {', '.join(_TOKENIZER_FILES)}.")
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{name} has no tokenizer that loads: {error}") from error


def load_processor(name: str, auto: str) -> Any:
    """Loads a processor of images or speech.

    Args:
        name: Folder or Hub id.
        auto: Name of the ``Auto`` class.

    Raises:
        CheckpointError: There is none that loads.
    """
    import transformers

    try:
        return getattr(transformers, auto).from_pretrained(name, trust_remote_code=False)
    except _ERRORS as error:
        raise CheckpointError(f"{name} has no processor that loads ({auto}): {error}") from error


def media_rows(data: Any, column: str, labels: list[Any]) -> Any:
    """Images or recordings as they are stored (``media``), with their labels and the number of each row."""
    media = data.select_columns([column])
    media = media if column == "media" else media.rename_column(column, "media")
    return media.add_column("labels", labels).add_column("row", list(range(len(labels))))
