"""The table of supported architectures, and how to add to it."""

from cahp_plugin.units import table as _table  # noqa: F401 - fills the registry
from cahp_plugin.units.head_map import head_entries, head_map
from cahp_plugin.units.layers import AttentionLayer, attention_layers
from cahp_plugin.units.spec import AttentionSpec, register_architecture, supported_architectures
from cahp_plugin.units.state import kept_state

__all__ = [
    "AttentionLayer",
    "AttentionSpec",
    "attention_layers",
    "head_entries",
    "head_map",
    "kept_state",
    "register_architecture",
    "supported_architectures",
]
