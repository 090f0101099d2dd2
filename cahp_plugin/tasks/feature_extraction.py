"""Sentence embeddings: how close they stay to the dense model's, and what they say of pairs."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.utils import cached_file, logging

from cahp_plugin.data.labels import encode_numbers
from cahp_plugin.errors import UnsupportedModelError
from cahp_plugin.files import write_text
from cahp_plugin.tasks.base import TOKENS, Options, Task, first_tokens, real_tokens
from cahp_plugin.tasks.examples import Examples
from cahp_plugin.tasks.text import Padding, check_texts, tokenized

logger = logging.get_logger(__name__)

#: File of sentence-transformers that says how tokens become a sentence.
POOLING = "1_Pooling/config.json"
_MODES = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_max_tokens": "max",
          "pooling_mode_lasttoken": "lasttoken"}  # fmt: skip


class FeatureExtraction(Task):
    """Embeddings of texts: the last hidden states pooled as sentence-transformers has it on record, or their mean.

    A pair of texts is two examples. The salience of heads is the gradient of the embedding along a direction that is
    drawn for each text: the loss, one less the cosine to the dense model's embedding, has no gradient there.

    Args:
        pooling: ``"mean"``, ``"cls"``, ``"max"`` or ``"lasttoken"``.
    """

    name = "feature-extraction"
    about = "sentence embeddings"
    auto = "AutoModel"
    suffixes = ("Model", "WithProjection")
    text_columns = (("sentence1", "sentence2"), ("query", "passage"), ("anchor", "positive"), ("text",), ("sentence",))
    label_columns = ("score", "similarity_score")
    labelled = False
    metrics = ("cosine",)
    compared = "the embedding: one less the cosine"
    outputs = {"last_hidden_state": TOKENS}  # noqa: RUF012
    own_loss = False

    def __init__(self, pooling: str = "mean") -> None:
        self.pooling = pooling

    def fits(self, class_name: str, config: Any) -> bool:
        """See the base class."""
        return super().fits(class_name, config) and not class_name.endswith(("PreTrainedModel", "CLIPModel"))

    def of(self, model: Any) -> Task:
        """See the base class."""
        return _with(pooling_of(str(getattr(model, "name_or_path", ""))))

    def settle(self, model: Any) -> None:
        """See the base class."""
        bare = any(self.fits(cls.__name__, model.config) for cls in type(model).__mro__)
        if not bare or model.get_output_embeddings() is not None:
            raise UnsupportedModelError(
                f"{type(model).__name__} has a head of its own, and {self.name} takes a model without one. Load the "
                f"checkpoint with `{self.auto}`, or leave `task` out: the model's class tells it."
            )

    def encode(self, data: Any, model: Any, processor: Any, options: Options) -> Examples:
        """See the base class."""
        if getattr(model, "main_input_name", "input_ids") != "input_ids" or hasattr(model, "decoder"):
            raise UnsupportedModelError(
                f"{type(model).__name__} gives no embedding of a text; {self.name} is for encoders and decoders of "
                "texts."
            )
        columns = self.columns(data, options)
        check_texts(data, columns.text)
        scores = encode_numbers(data, columns.label) if len(columns.text) == 2 and columns.label else []
        texts = [text for pair in zip(*(data.with_format(None)[name] for name in columns.text), strict=True)
                 for text in pair]  # fmt: skip
        rows = [row for row in range(len(data)) for _ in columns.text]
        texts = type(data).from_dict({"text": texts})
        encoded, lengths, told = tokenized(texts, ["text"], processor, model, options.max_length)
        references: Sequence[Any] = scores or [None] * len(data)
        return Examples(self, encoded, Padding(processor, model), lengths, references, rows, told=told)

    def embed(self, output: Any, inputs: Mapping[str, Any]) -> Tensor:
        """Embeddings of a batch, ``(batch, hidden size)``, fp32."""
        states = output.last_hidden_state.float()
        real = real_tokens(inputs).to(states.device)
        if self.pooling == "cls":
            return states[torch.arange(len(states)), first_tokens(inputs).to(states.device)]
        if self.pooling == "lasttoken":
            return states[torch.arange(len(states)), real.shape[1] - 1 - real.flip(1).int().argmax(dim=1)]
        if self.pooling == "max":
            return states.masked_fill(~real[..., None], -torch.inf).amax(dim=1)
        return states.masked_fill(~real[..., None], 0).sum(dim=1) / real.sum(dim=1, keepdim=True)

    def losses(self, output: Any, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """One less the cosine to the labels, the dense model's embeddings; 0 without these."""
        found = self.embed(output, inputs)
        return _distance(found, found.detach() if labels is None else labels)

    def salience_losses(self, output: Any, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """See the base class."""
        found = self.embed(output, inputs)
        ids = inputs["input_ids"].cpu() * real_tokens(inputs).cpu()
        directions = [
            torch.randn(found.shape[1], generator=torch.Generator().manual_seed(int(own.sum()))) for own in ids
        ]
        return (found * functional.normalize(torch.stack(directions), dim=1).to(found.device)).sum(dim=1)

    def needs_targets(self, examples: Examples) -> bool:
        """See the base class."""
        return examples.targets is None

    def save_beside(self, folder: Path) -> None:
        """See the base class."""
        (folder / POOLING).parent.mkdir(exist_ok=True)
        record = {key: mode == self.pooling for key, mode in _MODES.items()}
        write_text(folder / POOLING, json.dumps(record, indent=2) + "\n")

    def target(self, output: Any, inputs: Mapping[str, Any]) -> Tensor:
        """See the base class."""
        return self.embed(output, inputs)

    def outcomes(self, output: Any, features: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any]) -> list[Any]:
        """See the base class."""
        return self.embed(output, inputs).tolist()

    def predictions(self, examples: Examples, outcomes: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The cosine of each pair; of single texts, their embeddings."""
        found: list[list[Tensor]] = [[] for _ in examples.references]
        for row, embedding in zip(examples.rows, outcomes, strict=True):  # in the order of their lengths, perhaps
            found[row].append(torch.tensor(embedding))
        if max(map(len, found)) == 1:
            return super().predictions(examples, outcomes)
        cosines = [_cosine(*own) if len(own) == 2 else None for own in found]
        return cosines, list(examples.references)

    def divergence(self, ours: Any, theirs: Any, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """See the base class."""
        return _distance(self.embed(ours, inputs), self.embed(theirs, inputs))

    def metrics_of(self, examples: Examples) -> tuple[str, ...]:
        """The rank correlation with scores first, where pairs have some."""
        return self.metrics if examples.references[0] is None else ("spearman", *self.metrics)


_with = functools.lru_cache(FeatureExtraction)


def _cosine(first: Tensor, second: Tensor) -> float:
    return functional.cosine_similarity(first, second, dim=0).item()


def _distance(ours: Tensor, theirs: Tensor) -> Tensor:
    return 1 - functional.cosine_similarity(ours, theirs.to(ours.device, ours.dtype))


@functools.lru_cache(maxsize=64)
def pooling_of(name: str) -> str:
    """How sentence-transformers has it on record that a model's tokens are pooled; their mean where it has not.

    Args:
        name: Folder or Hub id of the model.
    """
    record = _record(name, POOLING)
    modes: list[Any] = [mode for key, mode in _MODES.items() if record.get(key)] or [record.get("pooling_mode")]
    if modes == [None]:
        logger.info("How tokens are pooled to a sentence is not on record (1_Pooling/config.json): the mean is taken.")
        return "mean"
    if len(modes) > 1 or modes[0] not in _MODES.values():
        raise UnsupportedModelError(
            f"{name}: {POOLING} pools tokens by {', '.join(map(str, modes))}; known are {', '.join(_MODES.values())}, "
            "one at a time."
        )
    return str(modes[0])


def _record(name: str, file: str) -> dict[str, Any]:
    quiet = dict.fromkeys(("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors"), False)
    try:
        path = cached_file(name, file, **quiet) if name else None
        found = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
