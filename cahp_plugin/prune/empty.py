"""Layers that lost all their heads: an attention that attends to nothing, exactly.

Without heads, attention adds the bias of its output projection and nothing else. ``Linear(0, n)`` would compute that,
but transformers reshapes to zero heads on the way there, which fails, and ONNX dislikes tensors of size 0.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cahp_plugin.architectures import AttentionLayer


class BiasOnly(nn.Module):
    """Output projection of a layer without heads: its bias for every token.

    Args:
        out_features: Width of the output, in channels.
        bias: The projection's bias, of shape ``(out_features,)``, or ``None``.
    """

    in_features = 0
    bias: nn.Parameter | None

    def __init__(self, out_features: int, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.out_features = out_features
        self.register_parameter("bias", bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the bias at every place of ``inputs`` ``(..., any)``: shape ``(..., out_features)``."""
        shape = (*inputs.shape[:-1], self.out_features)
        if self.bias is None:
            return inputs.new_zeros(shape)
        return self.bias.expand(shape)

    def extra_repr(self) -> str:
        """Describes the module in ``print(model)``."""
        return f"out_features={self.out_features}, bias={self.bias is not None}"


class _Headless:
    """Mixed in before the class of an attention module: same type for ``isinstance``, no attention any more."""

    original_class: type[nn.Module]
    output_path = ""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        hidden: Any = args[0] if args else kwargs.get("hidden_states", kwargs.get("query"))
        output = hidden[..., :0]
        if self.output_path:
            output = self.get_submodule(self.output_path)(output)  # type: ignore[attr-defined]
        # Transformers 5 leaves a layer that returns None out of `attentions`, which would shift the ones behind it; so
        # where the others return maps (eager), this one returns a map of no heads.
        config = getattr(self, "config", None)
        if config is None or config._attn_implementation != "eager":
            return output, None
        return output, hidden.new_zeros(hidden.shape[0], 0, hidden.shape[1], hidden.shape[1])

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, (self.original_class, self.output_path), self.__dict__


_CLASSES: dict[tuple[type[nn.Module], str], type[nn.Module]] = {}


def _headless_class(original: type[nn.Module], output_path: str) -> type[nn.Module]:
    if (original, output_path) in _CLASSES:
        return _CLASSES[original, output_path]
    names = {"original_class": original, "output_path": output_path, "__module__": __name__}
    _CLASSES[original, output_path] = cls = type(f"Headless{original.__name__}", (_Headless, original), names)
    return cls


def _rebuild(original: type[nn.Module], output_path: str) -> nn.Module:
    cls = _headless_class(original, output_path)
    return cls.__new__(cls)


def make_headless(layer: AttentionLayer) -> None:
    """Turns a layer into one without heads, in place.

    The query, key and value projections (and more of their kind) go; of the output projection the bias stays, under
    its old name.
    """
    core = layer.module("core")
    output: Any = layer.module("output")
    for path in layer.projections():
        parent, _, name = path.rpartition(".")
        delattr(layer.block.get_submodule(parent), name)
    parent, _, name = layer.spec.output.rpartition(".")
    setattr(
        layer.block.get_submodule(parent),
        name,
        BiasOnly(output.out_features, output.bias),
    )
    output_path = layer.spec.output if layer.spec.output_in_core else ""
    core.__class__ = _headless_class(type(core), output_path)
