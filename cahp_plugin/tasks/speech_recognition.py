"""Speech: a text from a recording."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.utils import logging

from cahp_plugin.data.media import read_audio
from cahp_plugin.tasks.base import Options
from cahp_plugin.tasks.examples import Examples
from cahp_plugin.tasks.processors import media_rows
from cahp_plugin.tasks.text import check_texts, length_limit
from cahp_plugin.tasks.text2text import DecoderPadding, Text2Text, cut_targets

logger = logging.get_logger(__name__)


class SpeechRecognition(Text2Text):
    """A text from a recording, by log-mel spectrograms; recordings are read batch by batch."""

    name = "automatic-speech-recognition"
    about = "encoder-decoders of speech: a text from a recording"
    auto = "AutoModelForSpeechSeq2Seq"
    processor = "AutoProcessor"
    suffixes = ("ForConditionalGeneration",)
    main_input = "input_features"
    text_columns = (("audio",), ("speech",), ("file",))
    label_columns = ("text", "sentence", "transcription", "transcript", "label")
    metrics = ("wer", "token_loss")
    more_metrics = ("chrf",)

    def encode(self, data: Any, model: Any, processor: Any, options: Options) -> Examples:
        """See the base class."""
        columns = self.columns(data, options)
        (audio,) = columns.text
        check_texts(data, [columns.label])
        targets = list(data.with_format(None)[columns.label])
        tokenizer, start = processor.tokenizer, model.config.decoder_start_token_id
        limit = length_limit(tokenizer, model, options.max_length)
        labels = cut_targets(tokenizer(text_target=targets, verbose=False)["input_ids"], tokenizer, targets, limit)
        # The start of the decoder's input is put in front of the labels by the model.
        labels = [ids[1:] if ids and ids[0] == start else ids for ids in labels]
        extractor = processor.feature_extractor
        lengths, cut = [], 0
        # All can be read, before any work.
        for row, found in enumerate(data.with_format(None).select_columns([audio])):
            samples = read_audio(found[audio], extractor.sampling_rate, f"Column {audio!r}, row {row}")
            cut += len(samples) > extractor.n_samples
            lengths.append(1 + len(labels[row]))
        told = ""
        if cut:
            told = f"{cut} of {len(data)} recordings are longer than {extractor.chunk_length} s and were cut."
            logger.warning(told)
        encoded = media_rows(data, audio, labels)
        width = int(model.get_output_embeddings().weight.shape[0])
        collate, extra = Recordings(processor, model, audio), {"tokenizer": tokenizer}
        return Examples(self, encoded, collate, lengths, targets, range(len(targets)), width, told, extra=extra)


class Recordings(DecoderPadding):
    """Makes batches of recordings by the model's processor.

    Args:
        processor: The processor, of a feature extractor and a tokenizer.
        model: Says what a decoder starts from.
        column: Name of the recordings' column, for messages.
    """

    def __init__(self, processor: Any, model: Any, column: str) -> None:
        super().__init__(processor.tokenizer, model)
        self._extractor, self._column = processor.feature_extractor, column

    def __call__(self, rows: list[Mapping[str, Any]]) -> dict[str, Any]:
        """Reads and prepares the recordings of the rows."""
        rate = self._extractor.sampling_rate
        found = [read_audio(row["media"], rate, f"Column {self._column!r}, row {row['row']}") for row in rows]
        features = self._extractor(found, sampling_rate=rate, return_tensors="pt")["input_features"]
        return self.with_targets({"input_features": features}, [row["labels"] for row in rows])
