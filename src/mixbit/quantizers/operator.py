"""The fake-quantize operator: quantize and dequantize in float, so that gradients pass.

It is registered as `torch.ops.mixbit.fake_quantize`, so that eager mode, `torch.compile`, `torch.export` and the ONNX
exporter all see one node with explicit step size, zero point and integer range. Quantizers differ in how they choose
its arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mixbit.quantizers._native import block, kernels_of, library

__all__ = ["fake_quantize", "fuse_under_compile"]

torch.library.define(
    "mixbit::fake_quantize",
    "(Tensor x, Tensor step, Tensor zero_point, Tensor qmin, Tensor qmax, SymInt count) -> Tensor",
)
torch.library.define(
    "mixbit::fake_quantize_backward",
    "(Tensor grad, Tensor x, Tensor step, Tensor zero_point, Tensor qmin, Tensor qmax, SymInt count)"
    " -> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "mixbit::fake_quantize_backward_",
    "(Tensor(a!) grad, Tensor x, Tensor step, Tensor zero_point, Tensor qmin, Tensor qmax, SymInt count)"
    " -> (Tensor, Tensor)",
)


def fake_quantize(x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor, *, count: int = 0) -> Tensor:
    """Round `x` to the grid of `step` within `[qmin, qmax]` and back, with straight-through gradients.

    Forward `q = clamp(round(x / s) + z, qmin, qmax)`, `y = s * (q - z)`; rounding is half to even. Backward (LSQ,
    eq. 3, with the bounds as the paper writes them: an element on a bound counts as clipped):

    * `dy/dx = 1` inside the range, 0 outside;
    * `dy/ds = round(x / s) - x / s` inside, `q - z` outside;
    * `dy/dz = 0` inside, `-s` outside.

    The arithmetic is float32 also for bfloat16 tensors.

    Args:
        x: any shape, float32 or bfloat16.
        step: `(1,)`, or `(C,)` for one step a slice of `x` along its first dimension; positive float32.
        zero_point: like `step`, whole numbers.
        qmin: `(1,)`, lowest integer, e.g. -8.
        qmax: `(1,)`, highest integer, e.g. 7.
        count: the gradients of step and zero point are multiplied by `1 / sqrt(count * qmax)`; 0 leaves them as they
            are.

    Returns:
        A tensor like `x`.

    >>> one = torch.ones(1)
    >>> fake_quantize(torch.tensor([-1.3, -0.3, 0.12, 1.4]), 0.25 * one, 0 * one, -4 * one, 3 * one)
    tensor([-1.0000, -0.2500,  0.0000,  0.7500])
    """
    return torch.ops.mixbit.fake_quantize(x, step, zero_point, qmin, qmax, count)  # type: ignore[no-any-return]


def _per_slice(parameter: Tensor, x: Tensor) -> Tensor:
    """Reshape `(C,)` to `(C, 1, ...)` so that it broadcasts along the first dimension of `x`."""
    return parameter.view(-1, *[1] * (x.dim() - 1)) if parameter.numel() > 1 else parameter


def _forward(x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor, count: int) -> Tensor:
    s, z = _per_slice(step, x), _per_slice(zero_point, x)
    q = torch.minimum(torch.maximum(torch.round(x.float() / s) + z, qmin), qmax)
    return ((q - z) * s).to(x.dtype)


def _backward(
    grad: Tensor, x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    s, z = _per_slice(step, x), _per_slice(zero_point, x)
    up, v = grad.float(), x.float() / s
    inside = (v + z > qmin) & (v + z < qmax)
    # At the bounds the rounded value is the bound itself, so one clamp serves both cases of dy/ds.
    by_step = torch.minimum(torch.maximum(torch.round(v) + z, qmin), qmax) - z - torch.where(inside, v, 0.0)
    scale = torch.rsqrt(count * qmax) if count else torch.ones_like(qmax)
    grad_step = _sum_like(up * by_step, step) * scale
    grad_zero = _sum_like(torch.where(inside, 0.0, -s * up), zero_point) * scale
    return torch.where(inside, up, 0.0).to(grad.dtype), grad_step, grad_zero


def _sum_like(values: Tensor, parameter: Tensor) -> Tensor:
    if parameter.numel() == 1:
        return values.sum().view(1)
    return values.sum(dim=list(range(1, values.dim()))) if values.dim() > 1 else values


def _dense(x: Tensor) -> bool:
    """Whether storage holds the elements without gaps and with the first dimension outermost."""
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))


def _forward_cpu(x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor, count: int) -> Tensor:
    kernels = kernels_of(x.dtype)
    if kernels is None or not x.numel():
        return _forward(x, step, zero_point, qmin, qmax, count)
    x = x if _dense(x) else x.contiguous()
    y, channels = torch.empty_like(x), step.numel()
    kernels[0](
        x.data_ptr(), y.data_ptr(), step.data_ptr(), zero_point.data_ptr(), qmin.data_ptr(), qmax.data_ptr(),
        channels, x.numel() // channels,
    )  # fmt: skip
    return y


def _backward_cpu(
    grad: Tensor, x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = kernels_of(x.dtype)
    if kernels is None or not x.numel():
        return _backward(grad, x, step, zero_point, qmin, qmax, count)
    x = x if _dense(x) else x.contiguous()
    if grad.stride() != x.stride() or grad.dtype != x.dtype:
        grad = torch.empty_like(x).copy_(grad)
    grad_x = torch.empty_like(x)
    return grad_x, *_run_backward(kernels[1], grad, x, grad_x, step, zero_point, qmin, qmax, count)


def _backward_in_place(
    grad: Tensor, x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    grad_x, *sums = torch.ops.mixbit.fake_quantize_backward(grad, x, step, zero_point, qmin, qmax, count)
    grad.copy_(grad_x)
    return sums[0], sums[1]


def _backward_in_place_cpu(
    grad: Tensor, x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    kernels, alike = kernels_of(x.dtype), grad.stride() == x.stride() and grad.dtype == x.dtype
    if kernels is None or not x.numel() or not alike or not _dense(x):
        return _backward_in_place(grad, x, step, zero_point, qmin, qmax, count)
    return _run_backward(kernels[1], grad, x, grad, step, zero_point, qmin, qmax, count)


def _run_backward(
    kernel: Callable[..., None], grad: Tensor, x: Tensor, grad_x: Tensor, step: Tensor, zero_point: Tensor,
    qmin: Tensor, qmax: Tensor, count: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Fill `grad_x`, which may be `grad` itself, and return the gradients of step and zero point."""
    channels = step.numel()
    inner = x.numel() // channels
    grad_step, grad_zero = torch.empty_like(step), torch.empty_like(zero_point)
    partial = torch.empty(2 * channels * -(-inner // block()))
    kernel(
        grad.data_ptr(), x.data_ptr(), grad_x.data_ptr(), step.data_ptr(), zero_point.data_ptr(), qmin.data_ptr(),
        qmax.data_ptr(), channels, inner, count, partial.data_ptr(), grad_step.data_ptr(), grad_zero.data_ptr(),
    )  # fmt: skip
    return grad_step, grad_zero


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.count = inputs
    ctx.save_for_backward(*tensors)


def _autograd_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if torch.compiler.is_compiling() and grad.device.type == "cpu" and library() is not None:
        # The compiler drops the copy where nothing else reads `grad`: one tensor less to allocate and to write.
        grad_x = grad.clone()
        sums = torch.ops.mixbit.fake_quantize_backward_(grad_x, *ctx.saved_tensors, ctx.count)
        return grad_x, *sums, None, None, None
    grad_x, grad_step, grad_zero = torch.ops.mixbit.fake_quantize_backward(grad, *ctx.saved_tensors, ctx.count)
    return grad_x, grad_step, grad_zero, None, None, None


for _name, _reference, _cpu in (
    ("mixbit::fake_quantize", _forward, _forward_cpu),
    ("mixbit::fake_quantize_backward", _backward, _backward_cpu),
    ("mixbit::fake_quantize_backward_", _backward_in_place, _backward_in_place_cpu),
):
    torch.library.impl(_name, "CompositeExplicitAutograd", _reference)
    torch.library.impl(_name, "CPU", _cpu)


def _fake_forward(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _fake_backward(grad: Tensor, x: Tensor, step: Tensor, zero_point: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(x), torch.empty_like(step), torch.empty_like(zero_point)


def _fake_backward_in_place(grad: Tensor, x: Tensor, step: Tensor, zero_point: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(step), torch.empty_like(zero_point)


torch.library.register_fake("mixbit::fake_quantize", _fake_forward)
torch.library.register_fake("mixbit::fake_quantize_backward", _fake_backward)
torch.library.register_fake("mixbit::fake_quantize_backward_", _fake_backward_in_place)
torch.library.register_autograd("mixbit::fake_quantize", _autograd_backward, setup_context=_save_for_backward)


@cache
def fuse_under_compile() -> None:
    """Let `torch.compile` see through the operator where there is no compiled kernel for it, i.e. on GPUs.

    There its arithmetic then fuses with what surrounds it. On CPUs the kernels stay one node of the compiled graph:
    fused code was measured slower than they are. The choice is one for the whole process. Without this call a
    compiled model gives the same numbers; it is a call of its own since it imports the compiler, which takes over a
    second.
    """
    if library() is not None and not torch.cuda.is_available():
        return
    from torch._inductor.decomposition import register_decomposition

    register_decomposition(torch.ops.mixbit.fake_quantize.default)(_forward)
    register_decomposition(torch.ops.mixbit.fake_quantize_backward.default)(_backward)
