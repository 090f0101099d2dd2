"""Images and texts in one space (CLIP): exported, not yet fed by a command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cahp_plugin.data.columns import Columns
from cahp_plugin.tasks.base import Options, Task
from cahp_plugin.tasks.losses import divergence_of_classes, of_classes


class ZeroShotImageClassification(Task):
    """Which text goes with an image."""

    name = "zero-shot-image-classification"
    about = "images and texts in one space: export only"
    auto = "AutoModelForZeroShotImageClassification"
    suffixes = ("CLIPModel",)
    metrics = ("accuracy",)
    compared = "the texts, for each image"
    outputs = {  # noqa: RUF012
        "logits_per_image": {0: "image_batch_size", 1: "text_batch_size"},
        "logits_per_text": {0: "text_batch_size", 1: "image_batch_size"},
        "text_embeds": {0: "text_batch_size"},
        "image_embeds": {0: "image_batch_size"},
    }

    def columns(self, data: Any, options: Options) -> Columns:
        """Has none: see :meth:`encode`."""
        raise self.unfed()

    def losses(self, output: Any, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """See the base class."""
        return of_classes(output.logits_per_image, labels)

    def divergence(self, ours: Any, theirs: Any, inputs: Mapping[str, Any], labels: Any) -> Tensor:
        """See the base class."""
        return divergence_of_classes(ours.logits_per_image, theirs.logits_per_image)
