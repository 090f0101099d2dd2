"""The part of a context that answers a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from cahp_plugin.errors import DataError
from cahp_plugin.tasks.base import TOKENS, Options, Task, first_tokens, real_tokens
from cahp_plugin.tasks.examples import Examples
from cahp_plugin.tasks.losses import divergence_of_classes, of_spans
from cahp_plugin.tasks.text import Padding, check_texts, length_limit, taken_apart

logger = logging.get_logger(__name__)

_LONGEST_ANSWER = 30
_CANDIDATES = 20


class QuestionAnswering(Task):
    """A span of the context; long contexts are read in windows that overlap by a quarter.

    As in the scripts for SQuAD of transformers: of the best starts and ends of all windows, the pair of the highest
    sum that is in the context, in order and at most 30 tokens long. Where some questions have no answer, the first
    token stands for none.
    """

    name = "question-answering"
    about = "the part of a context that answers a question"
    auto = "AutoModelForQuestionAnswering"
    suffixes = ("ForQuestionAnswering",)
    text_columns = (("question", "context"),)
    label_columns = ("answers", "answer")
    metrics = ("f1_words", "exact_match")
    compared = "the first and the last token of the answer"
    outputs = {"start_logits": TOKENS, "end_logits": TOKENS}  # noqa: RUF012
    own_loss = False

    def encode(self, data: Any, model: Any, processor: Any, options: Options) -> Examples:
        """See the base class."""
        if not getattr(processor, "is_fast", False):
            raise DataError(
                f"{type(processor).__name__} does not say where a token is; answers need a fast tokenizer."
            )
        columns = self.columns(data, options)
        check_texts(data, columns.text)
        question, context = columns.text
        answers = _read_answers(data, columns.label, context) if columns.label else [[] for _ in range(len(data))]
        limit, cut = length_limit(processor, model, options.max_length), 0
        room = limit - processor.num_special_tokens_to_add(pair=True)
        if room < 2:
            raise DataError(f"`max_length` is {limit}: that leaves no token for a question and one for its context.")

        def encoded(batch: dict[str, Any], indices: list[int]) -> dict[str, list[Any]]:
            nonlocal cut
            # Room for the context is what the question leaves: at most half of the tokens go to a question.
            asked = [_cut(processor, text, room // 2) for text in batch[question]]
            cut += sum(own != text for own, text in zip(asked, batch[question], strict=True))
            found = processor(
                asked,
                batch[context],
                truncation="only_second",
                max_length=limit,
                stride=room // 4,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )
            rows = [indices[sample] for sample in found.pop("overflow_to_sample_mapping")]
            offsets, labels = [], []
            for position, (row, places) in enumerate(zip(rows, found.pop("offset_mapping"), strict=True)):
                ids = found.sequence_ids(position)
                own = [list(place) if part == 1 else [-1, -1] for place, part in zip(places, ids, strict=True)]
                offsets.append(own)
                labels.append(_span(own, *answers[row][0]) if answers[row] else [0, 0])
            return {**{name: found[name] for name in found}, "labels": labels, "row": rows, "offsets": offsets}

        examples, rows, lengths, told = taken_apart(data, encoded, limit)
        if cut:
            logger.warning(f"{cut} of {len(data)} questions are longer than {room // 2} tokens and were cut.")
        references = [[text for _, text in found] for found in answers]
        extra = {"contexts": data.with_format(None)[context]}
        return Examples(self, examples, _Padding(processor, model), lengths, references, rows, told=told, extra=extra)

    def losses(self, output: Any, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """See the base class."""
        return of_spans(_real(output.start_logits, inputs), _real(output.end_logits, inputs), labels)

    def outcomes(self, output: Any, features: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any]) -> list[Any]:
        """For each window: its row, score and characters of its best answer, and the score of there being none."""
        found = []
        starts, ends = output.start_logits.float().cpu(), output.end_logits.float().cpu()
        shifts = first_tokens(inputs).tolist()
        for feature, start, end, shift in zip(features, starts, ends, shifts, strict=True):
            places = torch.as_tensor(feature["offsets"])
            window = slice(shift, shift + len(places))
            best = _best(start[window], end[window], places)
            found.append([feature["row"], *best, float(start[shift] + end[shift])])
        return found

    def predictions(self, examples: Examples, outcomes: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """See the base class."""
        contexts, references = examples.extra["contexts"], list(examples.references)
        may_be_none = any(not reference for reference in references)
        best: dict[int, list[Any]] = {}
        for row, (context, score, first, last, none) in zip(examples.rows, outcomes, strict=True):
            known = best.setdefault(row, [-1e30, "", 1e30])
            if score > known[0]:
                known[:2] = score, contexts[context][first:last]
            known[2] = min(known[2], none)  # none of the windows has an answer
        texts = ["" for _ in references]
        for row, (score, text, none) in best.items():
            texts[row] = "" if may_be_none and none > score else text
        return texts, references

    def divergence(self, ours: Any, theirs: Any, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """See the base class."""
        pairs = ((ours.start_logits, theirs.start_logits), (ours.end_logits, theirs.end_logits))
        first, last = (divergence_of_classes(*(_real(logits, inputs) for logits in pair)) for pair in pairs)
        return first + last


def _real(logits: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """Logits of which padding has none: an example's loss does not depend on the others of its batch."""
    return logits.float().masked_fill(~real_tokens(inputs).to(logits.device), -1e4)


class _Padding(Padding):
    """Windows with the first and the last token of the answer, moved where the padding is on the left."""

    def __call__(self, rows: list[Mapping[str, Any]]) -> dict[str, Any]:
        batch = super().__call__([{name: row[name] for name in row if name != "labels"} for row in rows])
        labels = torch.tensor([row["labels"] for row in rows])
        return batch | {"labels": labels + first_tokens(batch)[:, None]}


def _cut(tokenizer: Any, text: str, limit: int) -> str:
    """A question without what is beyond the limit; a letter may be several tokens."""
    places = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return text if len(places) <= limit else text[: places[limit - 1][1]]


def _span(offsets: Sequence[Sequence[int]], start: int, text: str) -> list[int]:
    """First and last token of an answer; the first token twice where the window does not hold it."""
    end = start + len(text)
    inside = [i for i, (first, last) in enumerate(offsets) if first >= 0 and first < end and last > start]
    whole = inside and offsets[inside[0]][0] <= start and offsets[inside[-1]][1] >= end
    return [inside[0], inside[-1]] if whole else [0, 0]


def _best(start: Tensor, end: Tensor, offsets: Tensor) -> tuple[float, int, int]:
    """Score of the best span in the context, and its first and its last character."""
    inside = offsets[:, 0] >= 0
    first = start.masked_fill(~inside, -1e9).topk(min(_CANDIDATES, len(start))).indices
    last = end.masked_fill(~inside, -1e9).topk(min(_CANDIDATES, len(end))).indices
    length = last[None] - first[:, None]
    good = inside[first][:, None] & inside[last][None] & (length >= 0) & (length < _LONGEST_ANSWER)
    scores = (start[first][:, None] + end[last][None]).masked_fill(~good, -1e9)
    row, column = divmod(int(scores.argmax()), len(last))
    return (
        float(scores[row, column]),
        int(offsets[first[row], 0].clamp(min=0)),
        int(offsets[last[column], 1].clamp(min=0)),
    )


def _read_answers(data: Any, column: str, context: str) -> list[list[tuple[int, str]]]:
    """Where each answer begins, and its text; empty for a question without one.

    Raises:
        DataError: A row holds something else, or an answer is not where it is said to be.
    """
    rows = data.with_format(None)
    found = []
    for row, (value, text) in enumerate(zip(rows[column], rows[context], strict=True)):
        where = f"Column {column!r}, row {row}"
        if isinstance(value, str):
            value = (
                {"text": [value], "answer_start": [text.find(value)]} if value else {"text": [], "answer_start": []}
            )
        if not isinstance(value, Mapping) or not {"text", "answer_start"} <= set(value):
            raise DataError(f"{where}: expected {{'text': [...], 'answer_start': [...]}} as in SQuAD, got {value!r}.")
        starts, texts = (value[key] or [] for key in ("answer_start", "text"))
        if not isinstance(starts, list) or not isinstance(texts, list) or len(starts) != len(texts):
            raise DataError(f"{where}: expected as many `answer_start` as `text`, as lists; got {value!r}.")
        for start, answer in zip(starts, texts, strict=True):
            there = isinstance(answer, str) and isinstance(start, int) and start >= 0
            if not there or text[start : start + len(answer)] != answer:
                raise DataError(
                    f"{where}: {answer!r} is not in the context at character {start}. Correct `answer_start`, or "
                    "leave the row out; a question without an answer has empty lists."
                )
        found.append([(start, answer) for start, answer in zip(starts, texts, strict=True) if answer.strip()])
    return found
