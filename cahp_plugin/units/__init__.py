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

__all__ = [
    "AttentionLayer",
    "AttentionSpec",
    "FeedForwardLayer",
    "FeedForwardSpec",
    "KeptSet",
    "PrunableLayer",
    "attention_layers",
    "feed_forward_layers",
    "head_entries",
    "kept_set",
    "kept_state",
    "layers_named",
    "neuron_entries",
    "prunable_layers",
    "register_architecture",
    "resolve",
    "supported_architectures",
]

_MODULES = {
    "find": ("attention_layers", "feed_forward_layers", "layers_named", "prunable_layers", "resolve"),
    "kept": ("KeptSet",),
    "layers": ("AttentionLayer", "FeedForwardLayer", "PrunableLayer"),
    "record": ("head_entries", "kept_set", "neuron_entries"),
    "spec": ("AttentionSpec", "FeedForwardSpec"),
    "state": ("kept_state",),
    "table": ("register_architecture", "supported_architectures"),
}
__getattr__, __dir__ = lazy_names(__name__, {name: module for module, names in _MODULES.items() for name in names})
