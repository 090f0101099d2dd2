"""What can be pruned: the table of architectures, the layers of a model, the set of units that stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cahp_plugin._lazy import lazy_names

if TYPE_CHECKING:
    from cahp_plugin.units.find import attention_layers, feed_forward_layers, layers_named, prunable_layers, resolve
    from cahp_plugin.units.kept import KeptSet
    from cahp_plugin.units.layers import AttentionLayer, FeedForwardLayer, PrunableLayer
    from cahp_plugin.units.record import head_entries, kept_set, neuron_entries
    from cahp_plugin.units.spec import AttentionSpec, FeedForwardSpec
    from cahp_plugin.units.state import kept_state
    from cahp_plugin.units.table import register_architecture, supported_architectures

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "layers": ["AttentionLayer", "FeedForwardLayer", "PrunableLayer"],
        "spec": ["AttentionSpec", "FeedForwardSpec"],
        "kept": ["KeptSet"],
        "find": ["attention_layers", "feed_forward_layers", "layers_named", "prunable_layers", "resolve"],
        "record": ["head_entries", "kept_set", "neuron_entries"],
        "state": ["kept_state"],
        "table": ["register_architecture", "supported_architectures"],
    },
)
