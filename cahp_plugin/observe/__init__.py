"""What a model does on a calibration set, seen through hooks and summed up. Nothing here changes a model."""

from cahp_plugin.observe.batches import PreparedBatches, prepare_batches
from cahp_plugin.observe.masks import only_kept, unit_masks
from cahp_plugin.observe.observation import Observation, observe

__all__ = ["Observation", "PreparedBatches", "observe", "only_kept", "prepare_batches", "unit_masks"]
