"""Images of one class each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from cahp_plugin.data.columns import LABEL_COLUMNS
from cahp_plugin.data.media import read_image, unreadable
from cahp_plugin.errors import DataError
from cahp_plugin.tasks.base import Options
from cahp_plugin.tasks.examples import Examples
from cahp_plugin.tasks.processors import media_rows
from cahp_plugin.tasks.text_classification import TextClassification


class ImageClassification(TextClassification):
    """One class for an image; images are read and prepared batch by batch."""

    name = "image-classification"
    about = "one class for an image"
    auto = "AutoModelForImageClassification"
    processor = "AutoImageProcessor"
    suffixes = ("ForImageClassification", "ForImageClassificationWithTeacher")
    main_input = "pixel_values"
    text_columns = (("image",), ("img",))
    label_columns = (*LABEL_COLUMNS, "fine_label", "coarse_label")

    def encode(self, data: Any, model: Any, processor: Any, options: Options) -> Examples:
        """See the base class."""
        columns = self.columns(data, options)
        (image,) = columns.text
        labels = self.read_labels(data, columns.label, model.config) if columns.label else [0] * len(data)
        bad = unreadable(data, image)
        if bad:
            told = "; ".join(str(row) for row in bad[:5])
            raise DataError(f"{len(bad)} of {len(data)} images can't be read: {told}.")
        encoded, collate = media_rows(data, image, labels), Images(processor, image)
        return Examples(self, encoded, collate, [1] * len(labels), labels, range(len(labels)))


class Images:
    """Makes batches of images by the model's processor.

    Args:
        processor: The processor.
        column: Name of the images' column, for messages.
    """

    def __init__(self, processor: Any, column: str) -> None:
        self._processor, self._column = processor, column

    def __call__(self, rows: list[Mapping[str, Any]]) -> dict[str, Any]:
        """Reads and prepares the images of the rows."""
        images = [read_image(row["media"], f"Column {self._column!r}, row {row['row']}") for row in rows]
        pixels = self._processor(images=images, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels, "labels": torch.tensor([row["labels"] for row in rows])}
