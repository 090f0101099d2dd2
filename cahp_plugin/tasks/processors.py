"""What makes a model's inputs: tokenizers, and the processors of images and speech."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cahp_plugin.errors import CheckpointError

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model")
_ERRORS = (OSError, ValueError, KeyError, TypeError, ImportError)


def load_processor(name: str, auto: str = "AutoTokenizer", **options: Any) -> Any:
    """Loads the tokenizer of a checkpoint or of an exported folder, or its processor of images or speech.

    Args:
        name: Folder or Hub id.
        auto: Name of the ``Auto`` class.
        **options: For its ``from_pretrained``.

    Raises:
        CheckpointError: There is none that loads.
    """
    import transformers

    folder, what = Path(name), "tokenizer" if auto == "AutoTokenizer" else "processor"
    if what == "tokenizer" and folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        # Transformers 5 would make one with an empty vocabulary.
        raise CheckpointError(f"{name} has no tokenizer: no file {', '.join(_TOKENIZER_FILES)}.")
    try:
        return getattr(transformers, auto).from_pretrained(name, trust_remote_code=False, **options)
    except _ERRORS as error:
        raise CheckpointError(f"{name} has no {what} that loads ({auto}): {error}") from error


def media_rows(data: Any, column: str, labels: list[Any]) -> Any:
    """Images or recordings as they are stored (``media``), with their labels and the number of each row."""
    media = data.select_columns([column])
    media = media if column == "media" else media.rename_column(column, "media")
    return media.add_column("labels", labels).add_column("row", list(range(len(labels))))
