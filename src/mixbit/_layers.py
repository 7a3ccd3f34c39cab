"""Layers that carry quantizers: thin subclasses of the user's own classes, which share their parameters.

A module is turned by assigning its class, so its name, its parameters and its state_dict keys stay what they were.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit.errors import MixbitError
from mixbit.quantizers import Quantizer

QUANTIZERS = ("weight_quantizer", "input_quantizer")
SHIFTS = ("weight_shift", "bias_shift")


class QuantizedLayer(nn.Module):
    """What all quantized layers have in common; either quantizer may be missing (that side stays in float).

    Bias correction of post-training quantization puts its numbers into two buffers, which come off with the
    quantizers: `weight_shift` `(C, 1, ...)` is added to the quantized weight, `bias_shift` `(C,)` to the bias.
    """

    weight_quantizer: Quantizer | None
    input_quantizer: Quantizer | None
    weight_shift: Tensor | None
    bias_shift: Tensor | None

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Classes made on the fly cannot be found by name: pickle the user's class, and turn it again."""
        return _blank, (type(self).float_class,), self.__dict__  # type: ignore[attr-defined]

    def quantize_input(self, x: Tensor) -> Tensor:
        """The input as the layer sees it."""
        return x if self.input_quantizer is None else self.input_quantizer(x)

    def quantize_weight(self, weight: Tensor) -> Tensor:
        """The weight as the layer uses it."""
        quantized: Tensor = weight if self.weight_quantizer is None else self.weight_quantizer(weight)
        return quantized if self.weight_shift is None else quantized + self.weight_shift

    def shift_bias(self, bias: Tensor | None) -> Tensor | None:
        """The bias as the layer uses it."""
        if self.bias_shift is None:
            return bias
        return self.bias_shift if bias is None else bias + self.bias_shift

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in SHIFTS:
            saved = state_dict.get(prefix + name)
            if saved is not None and getattr(self, name) is None:
                self.register_buffer(name, torch.zeros_like(saved))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _blank(cls: type[nn.Module]) -> nn.Module:
    quantized = quantized_class(cls)
    return quantized.__new__(quantized)


class _ConvForward(QuantizedLayer):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(self.quantize_input(x), self.quantize_weight(self.weight), self.shift_bias(self.bias))  # type: ignore[operator,arg-type,no-any-return]


class _LinearForward(QuantizedLayer):
    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.quantize_weight(self.weight), self.shift_bias(self.bias)  # type: ignore[arg-type]
        return F.linear(self.quantize_input(x), weight, bias)


class _AnyForward(QuantizedLayer):
    """For classes with a forward of their own: it runs with the quantized weight in the place of the float one."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        weight, bias = self._parameters["weight"], self._parameters.get("bias")
        assert weight is not None
        self._parameters["weight"] = self.quantize_weight(weight)  # type: ignore[assignment]
        if self.bias_shift is not None:
            self._parameters["bias"] = self.shift_bias(bias)  # type: ignore[assignment]
        try:
            return super().forward(self.quantize_input(x), *args, **kwargs)
        finally:
            self._parameters["weight"] = weight
            if self.bias_shift is not None:
                self._parameters["bias"] = bias


class _AttentionForward(QuantizedLayer):
    """`nn.MultiheadAttention` written out, since PyTorch's own never calls its output projection as a module."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`: `(N, L, E)` if `batch_first`, else `(L, N, E)`."""
        batched, first = query.dim() == 3, bool(self.batch_first)
        same = query is key and key is value
        query, key, value = (_to_batch_first(t, batched, first) for t in (query, key, value))
        q, k, v = self._project(query, query if same else key, query if same else value)
        mask = _merge_masks(attn_mask, key_padding_mask, q, int(self.num_heads))  # type: ignore[arg-type]
        dropout = float(self.dropout) if self.training else 0.0  # type: ignore[arg-type]
        mixed, weights = _attend(q, k, v, mask, dropout, need_weights)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[operator]
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        out = out if batched and first else out.transpose(0, 1) if batched else out.squeeze(0)
        return out, weights if weights is None or batched else weights.squeeze(0)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        weights = self.quantize_weight(self.in_proj_weight).chunk(3)  # type: ignore[arg-type]
        bias = self.shift_bias(self.in_proj_bias)  # type: ignore[arg-type]
        biases = bias.chunk(3) if bias is not None else (None,) * 3
        x = self.quantize_input(query)
        inputs = (x, x, x) if key is query else (x, self.quantize_input(key), self.quantize_input(value))
        parts = (F.linear(i, w, b) for i, w, b in zip(inputs, weights, biases, strict=True))
        heads = int(self.num_heads)  # type: ignore[arg-type]
        return [p.view(*p.shape[:2], heads, -1).transpose(1, 2) for p in parts]


def _to_batch_first(x: Tensor, batched: bool, first: bool) -> Tensor:
    if not batched:
        return x.unsqueeze(0)
    return x if first else x.transpose(0, 1)


def _merge_masks(attn_mask: Tensor | None, padding: Tensor | None, q: Tensor, heads: int) -> Tensor | None:
    """One additive mask `(N or 1, heads or 1, L, S)` of both, or None."""
    merged: Tensor | None = None
    if attn_mask is not None:
        merged = _additive(attn_mask, q)
        merged = merged.view(-1, heads, *merged.shape[1:]) if merged.dim() == 3 else merged[None, None]
    if padding is not None:
        padding = _additive(padding, q).view(q.shape[0], 1, 1, -1)
        merged = padding if merged is None else merged + padding
    return merged


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, need_weights: bool
) -> tuple[Tensor, Tensor | None]:
    if not need_weights:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout), None
    logits = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    weights = torch.softmax(logits if mask is None else logits + mask, dim=-1)
    return F.dropout(weights, dropout) @ v, weights


def why_not(module: nn.Module) -> str | None:
    """The reason why this module cannot carry quantizers, or None."""
    if isinstance(module, nn.MultiheadAttention):
        if not module._qkv_same_embed_dim or module.bias_k is not None or module.add_zero_attn:
            return "attention with separate key or value sizes, bias_k or add_zero_attn"
        return None
    if not isinstance(getattr(module, "_parameters", {}).get("weight"), nn.Parameter):
        return "its weight is no plain parameter (parametrized or already replaced)"
    return None


def _mixin(cls: type[nn.Module]) -> type[QuantizedLayer]:
    if issubclass(cls, nn.MultiheadAttention):
        return _AttentionForward
    if cls.forward in (nn.Conv1d.forward, nn.Conv2d.forward):
        return _ConvForward
    return _LinearForward if cls.forward is nn.Linear.forward else _AnyForward


_CLASSES: dict[type[nn.Module], type[QuantizedLayer]] = {}


def quantized_class(cls: type[nn.Module]) -> type[QuantizedLayer]:
    """The quantized subclass of a layer class, made once."""
    if cls not in _CLASSES:
        _CLASSES[cls] = type(
            f"Quantized{cls.__name__}", (_mixin(cls), cls), {"__module__": __name__, "float_class": cls}
        )
    return _CLASSES[cls]


def put_on(module: nn.Module, weight: Quantizer | None, inputs: Quantizer | None) -> None:
    """Turn `module` into its quantized subclass, with these quantizers as children."""
    if isinstance(module, QuantizedLayer):
        raise MixbitError("this layer carries quantizers already. Call mixbit.detach(model) first.")
    module.__class__ = quantized_class(type(module))
    for name, quantizer in zip(QUANTIZERS, (weight, inputs), strict=True):
        setattr(module, name, quantizer)
    for name in SHIFTS:
        module.register_buffer(name, None)
    if isinstance(module, nn.MultiheadAttention):
        # A hook, though it does nothing, keeps nn.TransformerEncoderLayer off the fused path that would read the
        # float weights.
        module._mixbit_hook = module.register_forward_pre_hook(lambda *_: None)  # type: ignore[assignment]


def take_off(module: QuantizedLayer) -> None:
    """Give the module its own class back; its parameters were never touched."""
    for name in (*QUANTIZERS, *SHIFTS):
        delattr(module, name)
    hook = module.__dict__.pop("_mixbit_hook", None)
    if hook is not None:
        hook.remove()
    module.__class__ = type(module).float_class  # type: ignore[attr-defined]
