"""Layers that carry quantizers: thin subclasses of the user's own classes, which share their parameters.

A module is turned by assigning its class, so its name, its parameters and its state_dict keys stay what they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit.errors import MixbitError
from mixbit.quantizers import Quantizer, SampleRows

__all__ = [
    "QUANTIZERS",
    "SHIFTS",
    "QuantizedLayer",
    "as_float",
    "leave_fused_paths",
    "put_on",
    "quantized_class",
    "take_fused_paths",
    "take_off",
]

QUANTIZERS = ("weight_quantizer", "input_quantizer")
SHIFTS = ("weight_shift", "bias_shift")

_Convolve: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]


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
        bank, rows = self.weight_quantizer, self.weight_rows()
        if rows is None or bank is None:
            return self._shifted(weight if bank is None else bank(weight))
        if len(rows.found) > 1:
            raise MixbitError(
                f"{type(self).__name__} cannot have a weight bit-width a sample. Legal: convolutions and linear layers "
                "with PyTorch's own forward; give the weight of this layer the same bits in all samples."
            )
        return self._shifted(bank.with_row(weight, rows.found[0]))

    def weight_rows(self) -> SampleRows | None:
        """The row of every sample, where the weight has a bit-width a sample."""
        bank = self.weight_quantizer
        # What stands for a bank, such as a weight that was made once, knows no samples.
        return bank.rows if isinstance(bank, Quantizer) and not bank.bypass else None

    def over_rows(
        self, x: Tensor, weight: Tensor, rows: SampleRows, apply: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """`apply(x, weight)` for samples `(N, ...)` whose weights have a bit-width each, once for each that occurs."""
        bank = self.weight_quantizer
        assert bank is not None
        return rows.each(x, lambda part, row: apply(part, self._shifted(bank.with_row(weight, row))))

    def _shifted(self, quantized: Tensor) -> Tensor:
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
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name that callers may use)
        bias, rows = self.shift_bias(self.bias), self.weight_rows()  # type: ignore[arg-type]
        if rows is not None:
            x, run = self.quantize_input(input), cast("_Convolve", self._conv_forward)
            return self.over_rows(x, self.weight, rows, lambda part, weight: run(part, weight, bias))  # type: ignore[arg-type]
        weight = self.quantize_weight(self.weight)  # type: ignore[arg-type]
        return self._conv_forward(self.quantize_input(input), weight, bias)  # type: ignore[operator,no-any-return]


class _LinearForward(QuantizedLayer):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name that callers may use)
        bias, rows = self.shift_bias(self.bias), self.weight_rows()  # type: ignore[arg-type]
        if rows is not None:
            x = self.quantize_input(input)
            return self.over_rows(x, self.weight, rows, lambda part, weight: F.linear(part, weight, bias))  # type: ignore[arg-type]
        weight = self.quantize_weight(self.weight)  # type: ignore[arg-type]
        return F.linear(self.quantize_input(input), weight, bias)


class _AnyForward(QuantizedLayer):
    """For classes with a forward of their own: it runs with the quantized weight in the place of the float one."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if args:
            args = (self.quantize_input(args[0]), *args[1:])
        else:
            first = next(iter(kwargs))
            kwargs[first] = self.quantize_input(kwargs[first])
        weight, bias = self._parameters["weight"], self._parameters.get("bias")
        assert weight is not None
        self._parameters["weight"] = self.quantize_weight(weight)  # type: ignore[assignment]
        if self.bias_shift is not None:
            self._parameters["bias"] = self.shift_bias(bias)  # type: ignore[assignment]
        try:
            return super().forward(*args, **kwargs)
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
        if is_causal and attn_mask is None:
            raise MixbitError("is_causal=True without attn_mask. As in PyTorch it is a hint: give the mask, too.")
        batched, first = query.dim() == 3, bool(self.batch_first)
        q, k, v = self._project((query, key, value), batched, first)
        mask = _merge_masks(attn_mask, key_padding_mask, q, int(self.num_heads))  # type: ignore[arg-type]
        dropout = float(self.dropout) if self.training else 0.0  # type: ignore[arg-type]
        mixed, weights = _attend(q, k, v, mask, dropout, need_weights)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[operator]
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        out = out if batched and first else out.transpose(0, 1) if batched else out.squeeze(0)
        return out, weights if weights is None or batched else weights.squeeze(0)

    def _project(self, inputs: tuple[Tensor, Tensor, Tensor], batched: bool, first: bool) -> list[Tensor]:
        """Query, key and value through their thirds of the weight; a tensor that is given twice is quantized once."""
        weights = self.quantize_weight(self.in_proj_weight).chunk(3)  # type: ignore[arg-type]
        bias = self.shift_bias(self.in_proj_bias)  # type: ignore[arg-type]
        biases = bias.chunk(3) if bias is not None else (None,) * 3
        read: dict[int, Tensor] = {}
        for one in inputs:
            if id(one) not in read:
                read[id(one)] = self.quantize_input(_to_batch_first(one, batched, first))
        parts = (F.linear(read[id(i)], w, b) for i, w, b in zip(inputs, weights, biases, strict=True))
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
    weights = F.dropout(torch.softmax(logits if mask is None else logits + mask, dim=-1), dropout)
    return weights @ v, weights


def _mixin(cls: type[nn.Module]) -> type[QuantizedLayer]:
    if issubclass(cls, nn.MultiheadAttention):
        return _AttentionForward
    if any(cls.forward is own.forward and cls._conv_forward is own._conv_forward for own in (nn.Conv1d, nn.Conv2d)):  # type: ignore[attr-defined]
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


def take_off(module: QuantizedLayer) -> None:
    """Give the module its own class back; its parameters were never touched."""
    for name in (*QUANTIZERS, *SHIFTS):
        delattr(module, name)
    module.__class__ = type(module).float_class  # type: ignore[attr-defined]


@contextmanager
def as_float(model: nn.Module) -> Iterator[None]:
    """The user's own classes for a while: the float network, with the weights that it has now."""
    turned = [(module, type(module)) for module in model.modules() if isinstance(module, QuantizedLayer)]
    try:
        for module, quantized in turned:
            module.__class__ = quantized.float_class  # type: ignore[attr-defined]
        yield
    finally:
        for module, quantized in turned:
            module.__class__ = quantized


_HOOK, _NESTED = "_mixbit_hook", "_mixbit_nested"


def leave_fused_paths(model: nn.Module) -> None:
    """Keep PyTorch's encoders, where they hold quantized layers, off the paths that read the float weights.

    In evaluation without gradients `nn.TransformerEncoderLayer` passes all weights to one fused operator, unless a
    module in it has a hook, which need not do anything; `nn.TransformerEncoder` packs padded batches for that operator.
    """
    for module in list(model.modules()):
        if not isinstance(module, nn.TransformerEncoderLayer | nn.TransformerEncoder):
            continue
        if not any(isinstance(part, QuantizedLayer) for part in module.modules()):
            continue
        if isinstance(module, nn.TransformerEncoder):
            if getattr(module, "use_nested_tensor", False):
                module.use_nested_tensor = False
                module.__dict__[_NESTED] = True
        elif _HOOK not in module.__dict__:
            module.__dict__[_HOOK] = module.register_forward_pre_hook(_do_nothing)


def take_fused_paths(model: nn.Module) -> None:
    """Undo what `leave_fused_paths` did."""
    for module in model.modules():
        hook = module.__dict__.pop(_HOOK, None)
        if hook is not None:
            hook.remove()
        if module.__dict__.pop(_NESTED, False):
            module.use_nested_tensor = True  # type: ignore[assignment]


def _do_nothing(_module: nn.Module, _inputs: object) -> None:
    """A function of a module, so that a model that holds it can be saved."""
