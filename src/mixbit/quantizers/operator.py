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
from torch import library as torch_library

from mixbit.errors import MixbitError
from mixbit.quantizers._native import block, kernels_of, library

__all__ = ["fake_quantize", "fuse_under_compile"]

torch_library.define(
    "mixbit::fake_quantize",
    "(Tensor x, Tensor step, Tensor zero_point, Tensor qmin, Tensor qmax, SymInt count) -> Tensor",
)
torch_library.define(
    "mixbit::fake_quantize_backward",
    "(Tensor grad, Tensor x, Tensor step, Tensor zero_point, Tensor qmin, Tensor qmax, SymInt count)"
    " -> (Tensor, Tensor, Tensor)",
)
torch_library.define(
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

    The arithmetic is float32 whatever the dtypes are. Second derivatives are those of the straight-through estimator:
    inside the range the gradients of `x` and of the step depend on the upstream gradient alone.

    Args:
        x: any shape, strides and floating dtype; float32 and bfloat16 have kernels of their own on the CPU.
        step: `(1,)`, or `(C,)` for one step a slice of `x` along its first dimension; positive.
        zero_point: as many as `step`, whole numbers.
        qmin: `(1,)`, lowest integer, e.g. -8; or as many as `step`, so that slices (the samples of a batch, say) have
            bit-widths of their own.
        qmax: as many as `qmin`, highest integer, e.g. 7.
        count: the gradients of step and zero point are multiplied by `1 / sqrt(count * qmax)`; 0 leaves them as they
            are.

    Returns:
        A tensor like `x`, with its strides where those have no gaps.

    Raises:
        MixbitError: `x` is not of a floating dtype, or the lengths do not fit each other.

    >>> one = torch.ones(1)
    >>> fake_quantize(torch.tensor([-1.3, -0.3, 0.12, 1.4]), 0.25 * one, 0 * one, -4 * one, 3 * one)
    tensor([-1.0000, -0.2500,  0.0000,  0.7500])
    """
    return torch.ops.mixbit.fake_quantize(x, step, zero_point, qmin, qmax, count)  # type: ignore[no-any-return]


def _check(x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor) -> None:
    """What the kernels rely on; they see addresses, not shapes."""
    if not x.is_floating_point():
        raise MixbitError(f"x is of dtype {x.dtype}, which cannot be fake-quantized. Legal: a floating dtype.")
    channels = step.numel()
    if channels != 1 and (not x.dim() or channels != x.shape[0]):
        raise MixbitError(
            f"{channels} steps for a tensor of shape {tuple(x.shape)}. Legal: 1, or one for each of the slices along "
            f"the first dimension ({x.shape[0] if x.dim() else 1})."
        )
    if zero_point.numel() != channels:
        raise MixbitError(f"{zero_point.numel()} zero points for {channels} steps. Legal: as many.")
    if qmin.numel() != qmax.numel() or qmin.numel() not in (1, channels):
        several = f", or {channels} of each" if channels > 1 else ""
        raise MixbitError(f"{qmin.numel()} values of qmin and {qmax.numel()} of qmax. Legal: 1 of each{several}.")


def _per_slice(parameter: Tensor, x: Tensor) -> Tensor:
    """Reshape `(C,)` to `(C, 1, ...)`, float32, so that it broadcasts along the first dimension of `x`."""
    parameter = parameter.float()
    return parameter.reshape(-1, *[1] * (x.dim() - 1)) if parameter.numel() > 1 else parameter.reshape(-1)


def _forward(x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor, count: int) -> Tensor:
    _check(x, step, zero_point, qmin, qmax)
    s, z, low, high = (_per_slice(one, x) for one in (step, zero_point, qmin, qmax))
    q = torch.minimum(torch.maximum(torch.round(x.float() / s) + z, low), high)
    return _laid_out_like(((q - z) * s).to(x.dtype).reshape(x.shape), x)


def _backward(
    grad: Tensor, x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, step, zero_point, qmin, qmax)
    up, (inside, by_step, by_zero) = grad.float(), _slopes(x, step, zero_point, qmin, qmax)
    scale = _scale(qmax, count)
    grad_step = _sum_like(up * by_step, step) * scale
    grad_zero = _sum_like(up * by_zero, zero_point) * scale
    grad_x = torch.where(inside, up, 0.0).to(x.dtype).reshape(x.shape)
    return _laid_out_like(grad_x, x), _shaped_like(grad_step, step), _shaped_like(grad_zero, zero_point)


def _slopes(x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where `x` lies inside the range, `dy/ds` and `dy/dz`, element by element."""
    s, z, low, high = (_per_slice(one, x) for one in (step, zero_point, qmin, qmax))
    v = x.float() / s
    inside = (v + z > low) & (v + z < high)
    # At the bounds the rounded value is the bound itself, so one clamp serves both cases of dy/ds.
    by_step = torch.minimum(torch.maximum(torch.round(v) + z, low), high) - z - torch.where(inside, v, 0.0)
    return inside, by_step, torch.where(inside, 0.0, -s)


def _scale(qmax: Tensor, count: int) -> Tensor:
    """LSQ's gradient scale, one a range."""
    high = qmax.float().reshape(-1)
    return torch.rsqrt(count * high) if count else torch.ones_like(high)


def _sum_like(values: Tensor, parameter: Tensor) -> Tensor:
    if parameter.numel() == 1:
        return values.sum().view(1)
    return values.sum(dim=list(range(1, values.dim()))) if values.dim() > 1 else values


def _shaped_like(values: Tensor, parameter: Tensor) -> Tensor:
    return values.to(parameter.dtype).reshape(parameter.shape)


def _laid_out_like(values: Tensor, x: Tensor) -> Tensor:
    """The strides that compilers are told of: those of `torch.empty_like(x)`."""
    if values.stride() == x.stride():
        return values
    like = torch.empty_like(x)
    return values if values.stride() == like.stride() else like.copy_(values)


def _as_stored(x: Tensor, channels: int) -> Tensor:
    """`x`, or a copy whose storage holds the elements without gaps and, for several channels, one after the other."""
    if x.is_contiguous():
        return x
    whole = torch.empty_like(x).stride() == x.stride()  # only where there are no gaps and no overlaps
    if whole and (channels == 1 or x.stride(0) * x.shape[0] == x.numel()):
        return x
    return x.contiguous()


def _plain(parameter: Tensor) -> Tensor:
    """A parameter as the kernels read it: contiguous float32."""
    if parameter.dtype is torch.float32 and parameter.is_contiguous():
        return parameter
    return parameter.float().contiguous()


def _forward_cpu(x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor, count: int) -> Tensor:
    kernels = kernels_of(x.dtype)
    if kernels is None or not x.numel():
        return _forward(x, step, zero_point, qmin, qmax, count)
    _check(x, step, zero_point, qmin, qmax)
    channels = step.numel()
    stored = _as_stored(x, channels)
    y, parameters = torch.empty_like(stored), [_plain(one) for one in (step, zero_point, qmin, qmax)]
    places = (p.data_ptr() for p in (stored, y, *parameters))
    kernels[0](*places, channels, x.numel() // channels, int(qmin.numel() > 1))
    return y if stored is x else _laid_out_like(y, x)


def _backward_cpu(
    grad: Tensor, x: Tensor, step: Tensor, zero_point: Tensor, qmin: Tensor, qmax: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = kernels_of(x.dtype)
    if kernels is None or not x.numel():
        return _backward(grad, x, step, zero_point, qmin, qmax, count)
    _check(x, step, zero_point, qmin, qmax)
    stored = _as_stored(x, step.numel())
    if grad.stride() != stored.stride() or grad.dtype != x.dtype:
        grad = torch.empty_like(stored).copy_(grad)
    grad_x = torch.empty_like(stored)
    sums = _run_backward(kernels[1], grad, stored, grad_x, step, zero_point, qmin, qmax, count)
    return grad_x if stored is x else _laid_out_like(grad_x, x), *sums


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
    if kernels is None or not x.numel() or not alike or _as_stored(x, step.numel()) is not x:
        return _backward_in_place(grad, x, step, zero_point, qmin, qmax, count)
    _check(x, step, zero_point, qmin, qmax)
    return _run_backward(kernels[1], grad, x, grad, step, zero_point, qmin, qmax, count)


def _run_backward(
    kernel: Callable[..., None], grad: Tensor, x: Tensor, grad_x: Tensor, step: Tensor, zero_point: Tensor,
    qmin: Tensor, qmax: Tensor, count: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Fill `grad_x`, which may be `grad` itself, and return the gradients of step and zero point."""
    channels = step.numel()
    inner = x.numel() // channels
    # Type and place are said, since the process may have other defaults.
    sums = torch.empty(2, channels, dtype=torch.float32, device="cpu")
    partial = torch.empty(2 * channels * -(-inner // block()), dtype=torch.float32, device="cpu")
    parameters = [_plain(one) for one in (step, zero_point, qmin, qmax)]
    kernel(
        grad.data_ptr(), x.data_ptr(), grad_x.data_ptr(), *(p.data_ptr() for p in parameters), channels, inner,
        int(qmin.numel() > 1), count,
        partial.data_ptr(), sums[0].data_ptr(), sums[1].data_ptr(),
    )  # fmt: skip
    return _shaped_like(sums[0], step), _shaped_like(sums[1], zero_point)


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


def _second_derivative(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
    """Of the backward pass, by what reaches its three results: to `grad`, to the step and to the zero point.

    The slopes are constants but for `dy/ds = q - z` and `dy/dz = -s` outside the range, which have one mixed term.
    """
    grad, x, step, zero_point, qmin, qmax = ctx.saved_tensors
    by_x, by_step, by_zero = (one.float() for one in upstream)
    with torch.no_grad():
        inside, slope_step, slope_zero = _slopes(x, step, zero_point, qmin, qmax)
        scale = _scale(qmax, ctx.count)
    to_step, to_zero = (_per_slice(one.reshape(-1) * scale, x) for one in (by_step, by_zero))
    to_grad = torch.where(inside, by_x, 0.0) + slope_step * to_step + slope_zero * to_zero
    outside = torch.where(inside, 0.0, -grad.float())
    mixed_step, mixed_zero = _sum_like(outside * to_zero, step), _sum_like(outside * to_step, zero_point)
    return (
        to_grad.to(grad.dtype).reshape(grad.shape), None, _shaped_like(mixed_step, step),
        _shaped_like(mixed_zero, zero_point), None, None, None,
    )  # fmt: skip


for _name, _reference, _cpu in (
    ("mixbit::fake_quantize", _forward, _forward_cpu),
    ("mixbit::fake_quantize_backward", _backward, _backward_cpu),
    ("mixbit::fake_quantize_backward_", _backward_in_place, _backward_in_place_cpu),
):
    torch_library.impl(_name, "CompositeExplicitAutograd", _reference)
    torch_library.impl(_name, "CPU", _cpu)


def _fake_forward(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _fake_backward(grad: Tensor, x: Tensor, step: Tensor, zero_point: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(x), torch.empty_like(step), torch.empty_like(zero_point)


def _fake_backward_in_place(grad: Tensor, x: Tensor, step: Tensor, zero_point: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(step), torch.empty_like(zero_point)


torch_library.register_fake("mixbit::fake_quantize", _fake_forward)
torch_library.register_fake("mixbit::fake_quantize_backward", _fake_backward)
torch_library.register_fake("mixbit::fake_quantize_backward_", _fake_backward_in_place)
torch_library.register_autograd("mixbit::fake_quantize", _autograd_backward, setup_context=_save_for_backward)
torch_library.register_autograd("mixbit::fake_quantize_backward", _second_derivative, setup_context=_save_for_backward)


@cache
def fuse_under_compile() -> None:
    """Let `torch.compile` see through the operator where there is no compiled kernel for it, i.e. on GPUs.

    There its arithmetic then fuses with what surrounds it. On CPUs the kernels stay one node of the compiled graph.
    The choice is one for the whole process. Without this call a
    compiled model gives the same numbers; it is a call of its own since it imports the compiler, which takes over a
    second.
    """
    if library() is not None and not torch.cuda.is_available():
        return
    from torch._inductor.decomposition import register_decomposition

    register_decomposition(torch.ops.mixbit.fake_quantize.default)(_forward)
    register_decomposition(torch.ops.mixbit.fake_quantize_backward.default)(_backward)
