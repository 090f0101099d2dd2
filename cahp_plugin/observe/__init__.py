"""What a model does, seen through hooks: attention maps, head masks, salience. Nothing here changes a model."""

from cahp_plugin.observe.batches import PreparedBatches, prepare_batches
from cahp_plugin.observe.masks import head_masks, only_heads
from cahp_plugin.observe.observation import Observation, observe

__all__ = ["Observation", "PreparedBatches", "head_masks", "observe", "only_heads", "prepare_batches"]
