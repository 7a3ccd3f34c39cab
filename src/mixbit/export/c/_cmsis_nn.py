"""Which layers CMSIS-NN computes to the same integers, and how it is called for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixbit.export.c import _scratch
from mixbit.export.c._calls import SCRATCH, At, Blob, Call, Context, Printed, _reach
from mixbit.export.c._cmsis_checkout import Checkout
from mixbit.export.c._storage import Stored
from mixbit.integer import graph as g
from mixbit.integer.arithmetic import Array, factor

__all__ = ["HandedOver", "hand_over"]

_LINEAR = "arm_fully_connected_per_channel_s8"
_CALLED = {
    "mixbit_cmsis_conv": ("arm_convolve_wrapper_s8", "arm_convolve_wrapper_s8_get_buffer_size"),
    "mixbit_cmsis_depthwise": ("arm_depthwise_conv_wrapper_s8", "arm_depthwise_conv_wrapper_s8_get_buffer_size"),
    "mixbit_cmsis_linear": (_LINEAR,),
}
_SIZES = ("_height", "_width", "_channels")
_INT32 = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOver:
    """What of a network CMSIS-NN computes."""

    path: str
    """Folder of the checkout of CMSIS-NN."""
    rounding: str
    """`single` or `double`, of all layers that it computes."""
    layers: tuple[str, ...]
    kept: dict[str, str]
    """Every other layer with weights -> why mixbit's own kernel computes it."""
    sources: tuple[str, ...]
    """Files that are compiled, below `Source` of the checkout."""


def hand_over(
    context: Context, checkout: Checkout, printed: Iterable[tuple[g.Op, Printed]]
) -> tuple[HandedOver, dict[str, Printed]]:
    """Choose the layers, and say how they are called.

    CMSIS-NN is compiled with one rounding: once, if that is what every layer asks for that would fit, else twice.

    Args:
        context: of the network.
        checkout: of the user.
        printed: operations and how mixbit's own kernels are called for them.

    Returns:
        The choice; and for each layer that is handed over, by its output, the new call.
    """
    weighted = [(op, one) for op, one in printed if isinstance(op, g.Weighted)]
    kept = {op.output: reason for op, one in weighted if (reason := next(_reasons(context, checkout, op, one), None))}
    fitting = [op for op, _ in weighted if op.output not in kept]
    rounding = "single" if fitting and all(op.rounding == "single" for op in fitting) else "double"
    kept |= {
        op.output: "it rounds once, others twice, and CMSIS-NN rounds all alike"
        for op in fitting
        if op.rounding != rounding
    }
    calls = {op.output: _printed(context, op, one) for op, one in weighted if op.output not in kept}
    functions = {name for one in calls.values() for name in _CALLED[one.calls[0].function]}
    found = HandedOver(
        path=str(checkout.path),
        rounding=rounding,
        layers=tuple(op.name for op, _ in weighted if op.output in calls),
        kept={op.name: kept[op.output] for op, _ in weighted if op.output in kept},
        sources=checkout.sources(functions & checkout.defined.keys()),
    )
    return found, calls


# ------------------------------------------------------------------------------------------------ what does not fit


def _reasons(context: Context, checkout: Checkout, op: g.Weighted, printed: Printed) -> Iterator[str]:
    if op.weight_bits != 8:
        yield f"weights of {op.weight_bits} bits"
    if context.graph.tensors[op.output].grid is None:
        yield "its accumulators are the output of the network"
        return
    x, y = context.tensors[op.x], context.tensors[op.output]
    yield from _storage_reasons(context, op, x, y)
    if op.rounding not in ("single", "double"):
        yield f"rounding {op.rounding!r}"
    yield from _range_reasons(context, op, x, y)
    settings = printed.calls[0].fields
    if isinstance(op, g.Linear):
        if _LINEAR not in checkout.defined:
            yield f"this version of CMSIS-NN has no {_LINEAR}"
        if settings["inner"] != 1:
            yield "its features are not the last dimension"
        if max(settings["features"], settings["outputs"], settings["outer"]) >= 2**16:
            yield "a dimension of 65536 or more"
    if isinstance(op, g.Conv):
        yield from _shape_reasons(op, settings)


def _storage_reasons(context: Context, op: g.Weighted, x: Stored, y: Stored) -> Iterator[str]:
    if op.x in context.folded:
        yield "it requantizes its input while it reads"
    elif 16 in (x.bits, y.bits):
        yield "activations of 16 bits"
    elif x.bits != 8 or y.bits != 8:
        yield f"activations are packed to {min(x.bits, y.bits)} bits"
    if not -128 <= x.zero <= 127:
        yield f"the zero point of its input ({x.zero}) is outside of int8"


def _range_reasons(context: Context, op: g.Weighted, x: Stored, y: Stored) -> Iterator[str]:
    """CMSIS-NN adds the zero point to each input, and one rounding needs a binary digit more than ours."""
    if op.shift:
        yield "its accumulators are shifted"
    sums = np.abs(op.weight.astype(np.int64)).reshape(len(op.weight), -1).sum(axis=1)
    bias = np.abs(op.bias.astype(np.int64))
    if int((bias + 255 * sums).max(initial=0)) >= _INT32:
        yield "its accumulators could leave int32 when the zero point is added to each input"
    factors = np.abs(np.asarray(factor(context.graph.unit(op), y.grid.scale, op.rounding), np.float64))
    if (
        op.rounding == "single"
        and float(np.max((bias + _reach(x.grid) * sums) * factors, initial=0)) >= _INT32 // 2 - 1
    ):
        yield "its results could leave 31 bits before they are rounded"


def _shape_reasons(op: g.Conv, settings: dict[str, Any]) -> Iterator[str]:
    padded, taps = any(map(any, op.padding)), int(np.prod(op.weight.shape[1:]))
    if op.groups > 1 and not op.is_depthwise:
        yield "a grouped convolution"
    if not op.is_depthwise and padded and np.prod(op.weight.shape[2:]) == 1:
        yield "a padded convolution of one tap"
    if taps >= 2**16 or max(value for name, value in settings.items() if name.endswith(_SIZES)) >= 2**15:
        yield "a dimension of 32768 or more"
    if op.is_depthwise:
        yield from _depthwise_reasons(settings)


def _depthwise_reasons(settings: dict[str, Any]) -> Iterator[str]:
    """CMSIS-NN's kernels write or read outside of their memory for these."""
    for side, pad in (("height", "pad_top"), ("width", "pad_left")):
        last = (settings[f"y_{side}"] - 1) * settings[f"stride_{side}"] - settings[pad]
        if settings[pad] >= settings[f"kernel_{side}"] or last >= settings[f"x_{side}"]:
            yield "a window that is padding alone"
    if settings["kernel_width"] == 3 and last + 2 > settings["x_width"]:
        yield "more than one column of padding on the right"


# ------------------------------------------------------------------------------------------------ calls


def _printed(context: Context, op: g.Weighted, own: Printed) -> Printed:
    x, y, settings = context.tensors[op.x], context.tensors[op.output], own.calls[0].fields
    multiplier, exponent = (_values(own, role).astype(np.int32) for role in ("multiplier", "exponent"))
    blobs = (
        Blob(role="weights", ctype="uint8_t", values=_weights(op, x).astype(np.int8).ravel().view(np.uint8)),
        Blob(role="bias", ctype="int32_t", values=op.bias.astype(np.int32)),
        Blob(role="multiplier", ctype="int32_t", values=multiplier),
        Blob(role="exponent", ctype="int32_t", values=exponent),
    )
    shape = _linear_shape(settings) if isinstance(op, g.Linear) else _conv_shape(settings)
    function, scratch = _function(op, shape)
    rows = settings["rows"]
    fields = {
        "weights": "@weights",
        "bias": "@bias",
        "multiplier": "@multiplier",
        "shift": "@exponent",
        "scratch_bytes": scratch,
        **shape,
        "x_offset": -x.zero,
        "y_offset": y.zero,
        "low": rows["low"],
        "high": rows["high"],
    }
    arguments = (At(op.x), At(op.output), SCRATCH)
    call = Call(function=function, struct="mixbit_cmsis_layer", fields=fields, arguments=arguments)
    return Printed(calls=(call,), blobs=blobs, scratch_bytes=scratch, macs=own.macs)


def _values(printed: Printed, role: str) -> Array:
    return next(blob.values for blob in printed.blobs if blob.role == role)


def _weights(op: g.Weighted, x: Stored) -> Array:
    """Channels last; a depthwise layer has those of its output last."""
    if isinstance(op, g.Linear):
        return op.weight[:, x.order] if len(x.shape) == 1 else op.weight
    return (
        np.moveaxis(op.weight[:, 0], 0, -1)
        if isinstance(op, g.Conv) and op.is_depthwise
        else np.moveaxis(op.weight, 1, -1)
    )


def _conv_shape(settings: dict[str, Any]) -> dict[str, int]:
    names = (*_SIZES, "_top", "_left")
    return {"batches": 1} | {name: value for name, value in settings.items() if name.endswith(names)}


def _linear_shape(settings: dict[str, Any]) -> dict[str, int]:
    ones = [f"{what}_{side}" for what in ("x", "y", "kernel", "stride", "dilation") for side in ("height", "width")]
    found = {"batches": settings["outer"], "x_channels": settings["features"], "y_channels": settings["outputs"]}
    return found | dict.fromkeys(ones, 1) | {"pad_top": 0, "pad_left": 0}


def _function(op: g.Weighted, shape: dict[str, int]) -> tuple[str, int]:
    """The function of ours that calls CMSIS-NN, and the bytes of scratch."""
    kernel = (shape["kernel_height"], shape["kernel_width"])
    if isinstance(op, g.Linear):
        return "mixbit_cmsis_linear", 0
    plain = (shape["dilation_height"], shape["dilation_width"]) == (1, 1)
    padding = (shape["pad_top"], shape["pad_left"])
    if isinstance(op, g.Conv) and op.is_depthwise:
        same = plain and shape["x_channels"] == shape["y_channels"]
        size = _scratch.cmsis_depthwise(kernel=kernel, channels=shape["x_channels"], padding=padding) if same else 0
        return "mixbit_cmsis_depthwise", size
    direct = plain and kernel == (1, 1) and padding == (0, 0)
    return "mixbit_cmsis_conv", 0 if direct else _scratch.cmsis_conv(kernel=kernel, channels=shape["x_channels"])
