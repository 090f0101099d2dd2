"""What changes about a module that has lost units, for attention as classes mixed in before its own.

The module keeps its type for ``isinstance``, its parameters and their names. Most need nothing as long as a head is
left: they read their number of heads off an attribute or off the tensors. Without heads, attention adds the bias of
its output projection and nothing else. ``Linear(0, n)`` would compute that, but transformers reshapes to zero heads on
the way there, which fails, and ONNX dislikes tensors of size 0.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cahp_plugin.units.linear import in_width, out_width, weight_of

_CACHES = ("cache", "past_key_values", "past_key_value", "layer_past")  # transformers 5.40 on, 4.57 on, before
_OTHER_STATES = ("key_value_states", "encoder_hidden_states")


class BiasOnly(nn.Module):
    """Output projection of a layer without heads or neurons: its bias for every token.

    A ``weight`` without input channels, of shape ``(out_features, 0)``, is saved with the model: plain
    ``from_pretrained``, which builds the layer with all its heads, then raises instead of drawing weights at random.

    Args:
        projection: The output projection that it replaces: a linear layer.
    """

    in_features = 0
    bias: nn.Parameter | None

    def __init__(self, projection: Any) -> None:
        super().__init__()
        self.out_features = out_width(projection)
        self.register_parameter("bias", projection.bias)
        # A buffer: data parallel training would wait for the gradient of a parameter that nothing uses.
        self.register_buffer("weight", weight_of(projection).detach().new_empty(self.out_features, 0))

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the bias at every place of ``inputs`` ``(..., any)``: shape ``(..., out_features)``."""
        shape = (*inputs.shape[:-1], self.out_features)
        if self.bias is None:
            return inputs.new_zeros(shape)
        return self.bias.expand(shape).clone()  # Falcon adds to it in place

    def _load_from_state_dict(
        self, state: Any, prefix: str, metadata: Any, strict: bool, missing: Any, *rest: Any
    ) -> None:
        super()._load_from_state_dict(state, prefix, metadata, strict, missing, *rest)
        missing[:] = [key for key in missing if key != f"{prefix}weight"]  # not there in older states, and empty

    def extra_repr(self) -> str:
        """Describes the module in ``print(model)``."""
        return f"out_features={self.out_features}, bias={self.bias is not None}"


class NoUnits(nn.Module):
    """What is left of the projection into a layer's units when none is left: an output of no channels.

    It has a ``weight`` without elements, no part of its state, for models that look at those of their parts.

    Args:
        projection: The linear layer that it replaces.
    """

    bias = None

    def __init__(self, projection: Any) -> None:
        super().__init__()
        self.weight = torch.empty(0, in_width(projection), dtype=projection.weight.dtype, device="cpu")

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns ``inputs`` ``(..., any)`` without channels: shape ``(..., 0)``."""
        return inputs[..., :0]


class Adapter:
    """Base of the mixins.

    Attributes:
        original_class: Class of the module before.
        places: Original indices of the heads present.
        output_path: Path of the output projection in the module, where the module applies it; else empty.
        map_index: Place of the attention map in what the module returns.
    """

    original_class: type[nn.Module]
    places: tuple[int, ...]
    output_path: str
    map_index: int

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call of ``forward`` by name, whichever way they were given."""
        bound = inspect.signature(self.original_class.forward).bind_partial(self, *args, **kwargs).arguments
        rest = bound.pop("kwargs", {})
        return {name: value for name, value in {**bound, **rest}.items() if name != "self"}

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, type(self).__bases__, self.__dict__


_CLASSES: dict[tuple[type[Adapter], type[nn.Module]], type[Any]] = {}


def adapt(module: Any, mixin: type[Adapter], *, places: Sequence[int], output_path: str, map_index: int) -> None:
    """Mixes ``mixin`` in before a module's class, in place; an earlier mixin goes."""
    original = module.original_class if isinstance(module, Adapter) else type(module)
    if getattr(vars(module).get("forward"), "__self__", None) is module:
        vars(module).pop("forward")  # transformers 4.57 leaves the old one there where maps were asked for
    module.__class__ = _adapted_class(mixin, original)
    module.places, module.output_path, module.map_index = tuple(places), output_path, map_index


def _adapted_class(mixin: type[Adapter], original: type[nn.Module]) -> type[Any]:
    if (mixin, original) not in _CLASSES:
        names = {"original_class": original, "__module__": __name__}
        _CLASSES[mixin, original] = type(f"{mixin.__name__}{original.__name__}", (mixin, original), names)
    return _CLASSES[mixin, original]


def _rebuild(mixin: type[Adapter], original: type[nn.Module]) -> Any:
    return object.__new__(_adapted_class(mixin, original))


class Headless(Adapter):
    """An attention that attends to nothing, exactly."""

    _is_hf_initialized = True  # transformers would look for the projections to fill them at random

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Returns the projection's bias, in the form that the module returned its output."""
        given = self.arguments(args, kwargs)
        hidden: Any = next(iter(given.values()))
        self.remember(given, hidden)
        output = hidden[..., :0]
        if self.output_path:
            output = self.get_submodule(self.output_path)(output)  # type: ignore[attr-defined]
        return self.results(self.finish(hidden, output), hidden, given)

    def finish(self, hidden: Tensor, output: Tensor) -> Tensor:
        """What the module does behind the output projection."""
        return output

    def results(self, output: Tensor, hidden: Tensor, given: dict[str, Any]) -> tuple[Any, ...]:
        """Output and map. Transformers 5 leaves a layer that returns no map out of ``attentions``.

        That would shift the layers behind it; so where the others return maps (eager), this one returns a map of no
        heads.
        """
        config = getattr(self, "config", None)
        maps = None
        if config is not None and config._attn_implementation == "eager":
            keys = next((given[name] for name in _OTHER_STATES if given.get(name) is not None), hidden)
            maps = hidden.new_zeros(hidden.shape[0], 0, hidden.shape[1], keys.shape[1])
        return (output, *[None] * (self.map_index - 1), maps)

    def remember(self, given: dict[str, Any], hidden: Tensor) -> int:
        """Puts places without content into the cache, which counts the tokens seen by its first layer.

        Returns:
            Number of keys: tokens before and now.
        """
        cache = next((given[name] for name in _CACHES if given.get(name) is not None), None)
        tokens: int = hidden.shape[1]  # `int()` of it would be a constant in a traced graph
        if cache is None or any(given.get(name) is not None for name in _OTHER_STATES):
            return tokens
        cache = getattr(cache, "self_attention_cache", cache)
        blank = hidden.new_zeros(hidden.shape[0], 1, tokens, 1)
        options = {"cache_position": given["cache_position"]} if given.get("cache_position") is not None else {}
        keys, _ = cache.update(blank, blank, self.layer_idx, options)  # type: ignore[attr-defined]
        return keys.shape[-2]


class HeadlessWithNorm(Headless):
    """ALBERT, whose module adds the residual stream and normalises."""

    def finish(self, hidden: Tensor, output: Tensor) -> Tensor:
        """Dropout, addition, norm."""
        own: Any = self
        return own.LayerNorm(hidden + own.output_dropout(output))


class HeadlessWithStream(Headless):
    """Bloom, whose module adds the residual stream."""

    def results(self, output: Tensor, hidden: Tensor, given: dict[str, Any]) -> tuple[Any, ...]:
        """Output on the stream, and map."""
        return super().results(given["residual"] + output, hidden, given)


class SlicedBias(Adapter):
    """MPNet, whose layers are all handed the position bias of all heads."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Takes the present heads' part of the bias."""
        given = self.arguments(args, kwargs)
        if given.get("position_bias") is not None:
            given["position_bias"] = given["position_bias"][:, list(self.places)]
        return super().forward(**given)  # type: ignore[misc]


class SlicedAlibi(Adapter):
    """Bloom and Falcon, whose layers are all handed the slopes of all heads, ``(batch * heads, 1, keys)``."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Takes the present heads' part of the slopes, and of a mask that they have been added to (Falcon)."""
        given, places = self.arguments(args, kwargs), list(self.places)
        mask = given.get("attention_mask")
        if mask is not None and mask.dim() == 4 and mask.shape[1] > 1:
            given["attention_mask"] = mask[:, places]
        alibi = given.get("alibi")
        if alibi is not None and alibi.dim() == 4:  # (batch, heads, 1, keys)
            given["alibi"] = alibi[:, places]
        elif alibi is not None:
            batch = next(iter(given.values())).shape[0]
            given["alibi"] = alibi.unflatten(0, (batch, -1))[:, places].flatten(0, 1)
        return super().forward(**given)  # type: ignore[misc]


class SharedBias(Adapter):
    """T5's self-attention: the first layer computes the position bias of all heads, the others are handed it."""

    _bias: Any = None

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Takes the present heads' part of the bias, and hands on all of it."""
        own: Any = super()
        bias = kwargs.get("position_bias")
        if bias is not None:
            kwargs["position_bias"] = bias[:, list(self.places)]
            output = own.forward(hidden_states, *args, **kwargs)
            return output[0], bias, *output[2:]
        output = own.forward(hidden_states, *args, **kwargs)
        bias, self._bias = self._bias, None
        return output[0], _behind_mask(self, bias, hidden_states, kwargs.get("mask")), *output[2:]

    def compute_bias(self, *args: Any, **kwargs: Any) -> Tensor:
        """The present heads' part of the bias; all of it is put aside."""
        own: Any = super()
        self._bias = own.compute_bias(*args, **kwargs)
        return self._bias[:, list(self.places)]


def _behind_mask(module: Any, bias: Tensor, hidden: Tensor, mask: Tensor | None) -> Tensor:
    """The bias in the form that T5 hands on: on transformers 4.57 with the mask added, on 5 without."""
    bias = bias[:, :, -hidden.shape[1] :, :]
    if mask is None or hasattr(module, "scaling"):  # an attribute that came with transformers 5
        return bias
    return bias + mask[..., : bias.shape[-1]]


class HeadlessWithBias(Headless):
    """T5's self-attention without heads, which still hands on the position bias."""

    _bias: Any = None

    def results(self, output: Tensor, hidden: Tensor, given: dict[str, Any]) -> tuple[Any, ...]:
        """Output, bias and map."""
        bias, self._bias = self._bias, None
        return output, bias, super().results(output, hidden, given)[-1]

    def remember(self, given: dict[str, Any], hidden: Tensor) -> int:
        """As in the base; computes the bias too, where this is the layer that does."""
        own: Any = self
        keys = super().remember(given, hidden)
        self._bias = given.get("position_bias")
        if self._bias is None and own.has_relative_attention_bias:
            position = given.get("cache_position")
            if position is not None:  # transformers 4.57
                bias = own.compute_bias(keys, keys, device=hidden.device, cache_position=position)
            else:
                bias = own.compute_bias(keys, keys, device=hidden.device)
            self._bias = _behind_mask(self, bias, hidden, given.get("mask"))
        return keys


class OwnBias(Adapter):
    """T5's cross attention: its bias is the same for all heads, so each layer makes its own, as the first does."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Leaves the bias of other layers, which may have other numbers of heads, alone."""
        own: Any = super()
        output = own.forward(*args, **kwargs | {"position_bias": None})
        return output[0], None, *output[2:]


class OwnWidth(Adapter):
    """CLIP on transformers 4.57, which reshapes the heads' output to the hidden size."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        causal_attention_mask: Tensor | None = None,
        output_attentions: bool | None = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention of the heads present, by the same function as before."""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
        from transformers.models.clip.modeling_clip import eager_attention_forward

        own: Any = self
        masks = [mask for mask in (attention_mask, causal_attention_mask) if mask is not None]
        heads = (*hidden_states.shape[:-1], -1, own.head_dim)
        query, key, value = (
            projection(hidden_states).view(heads).transpose(1, 2)
            for projection in (own.q_proj, own.k_proj, own.v_proj)
        )
        name = own.config._attn_implementation
        attend = eager_attention_forward if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]
        output, maps = attend(
            self,
            query,
            key,
            value,
            sum(masks[1:], masks[0]) if masks else None,
            is_causal=own.is_causal,
            scaling=own.scale,
            dropout=own.dropout if own.training else 0.0,
            output_attentions=output_attentions,
        )
        return own.out_proj(output.flatten(2)), maps if output_attentions else None
