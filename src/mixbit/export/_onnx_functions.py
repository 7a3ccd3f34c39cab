"""ONNX functions of the exported files: the bodies that recur are written once, and a runtime inlines them.

Tensors are called `x`, `w`, `b`, `y` for input, weight, bias and output; `s` behind a name is its scale, `z` its zero
point, and `h` is a shape. Whatever has only constant inputs (unpacking, scales of biases) is folded when a session is
created. What is left is the pattern of quantize and dequantize nodes that runtimes fuse into integer kernels.

No function calls another, and as little as possible is computed: each level of calls and each node that is folded make
the creation of a session slower.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import TYPE_CHECKING

from mixbit.export._packing import PACKED_BITS, fields

if TYPE_CHECKING:
    from onnx import FunctionProto

__all__ = ["DOMAIN", "OPSET", "functions", "unpacker"]

DOMAIN = "mixbit"
OPSET = 21
"""ONNX operators as of this opset; ONNX Runtime 1.31 accepts 26, and BitwiseAnd on uint8 came with 18."""

_WINDOW = "strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations, group: int = @group"
_DEQUANTIZED = """
    d = DequantizeLinear (x, xs, xz)
    e = DequantizeLinear <axis = 0> (w, ws, wz)
    f = DequantizeLinear <axis = 0> (b, bs)"""
_CONVOLVED = f"""{_DEQUANTIZED}
    c = Conv <{_WINDOW}> (d, e, f)
    y = QuantizeLinear (c, ys, yz)"""
_BIAS_SCALE = "bs = Mul (xs, ws)"
_SCALED = """
    a = Add (c, b)
    f = Cast <to = 1> (a)
    y = Mul (f, s)"""
# Whole numbers of two bytes: casts of floats cut what is behind the point, those of integers what is above.
_BYTES = """
    k = Constant <value_float = 0.00390625> ()
    f = Mul (x, k)
    h = Cast <to = 2> (f)
    i = Cast <to = 6> (x)
    l = Cast <to = 2> (i)"""
# In float64, which holds 256 times an int32: `256 c + d + b` is exact, and rounded once.
_JOINED = """
    m = Cast <to = 11> (c)
    n = Constant <value = double {256.0}> ()
    o = Mul (m, n)
    p = Cast <to = 11> (d)
    q = Add (o, p)
    r = Cast <to = 11> (b)
    t = Add (q, r)
    u = Cast <to = 1> (t)
    y = Mul (u, s)"""

_BODIES = {
    "Conv": f"""
        Conv <strides, pads, dilations, group> (x, xs, xz, w, ws, wz, b, ys, yz) => (y) {{
            {_BIAS_SCALE} {_CONVOLVED}
        }}""",
    "QConv": f"""
        QConv <strides, pads, dilations, group> (x, xs, xz, w, ws, wz, b, bs, ys, yz) => (y) {{
            {_CONVOLVED}
        }}""",
    "Linear": f"""
        Linear (x, xs, xz, w, ws, wz, b) => (y) {{
            {_BIAS_SCALE} {_DEQUANTIZED}
            y = Gemm <transB = 1> (d, e, f)
        }}""",
    "QLinear": f"""
        QLinear (x, xs, xz, w, ws, wz, b, bs) => (y) {{
            {_DEQUANTIZED}
            y = Gemm <transB = 1> (d, e, f)
        }}""",
    # A convolution with a float32 output is fused by no runtime; this is what a fused one would compute.
    "FloatConv": f"""
        FloatConv <strides, pads, dilations, group> (x, xz, w, wz, b, s) => (y) {{
            c = ConvInteger <{_WINDOW}> (x, w, xz, wz)
            {_SCALED}
        }}""",
    "FloatLinear": f"""
        FloatLinear (x, xz, w, wz, b, s) => (y) {{
            v = Transpose <perm = [1, 0]> (w)
            c = MatMulInteger (x, v, xz, wz)
            {_SCALED}
        }}""",
    "WideConv": f"""
        WideConv <strides, pads, dilations, group> (x, hz, lz, w, wz, b, s) => (y) {{
            {_BYTES}
            c = ConvInteger <{_WINDOW}> (h, w, hz, wz)
            d = ConvInteger <{_WINDOW}> (l, w, lz, wz)
            {_JOINED}
        }}""",
    "WideLinear": f"""
        WideLinear (x, hz, lz, w, wz, b, s) => (y) {{
            {_BYTES}
            v = Transpose <perm = [1, 0]> (w)
            c = MatMulInteger (h, v, hz, wz)
            d = MatMulInteger (l, v, lz, wz)
            {_JOINED}
        }}""",
    # What the fused addition of 8-bit tensors computes: r is a ratio of scales, z all zero points in one number.
    "WideAdd": """
        WideAdd (x, xr, v, vr, z) => (y) {
            d = Cast <to = 11> (v)
            e = Mul (d, vr)
            f = Add (e, z)
            g = Cast <to = 1> (f)
            h = Cast <to = 11> (g)
            i = Cast <to = 11> (x)
            j = Mul (i, xr)
            k = Add (j, h)
            y = Cast <to = 1> (k)
        }""",
    "Add": """
        Add (x, xs, xz, v, vs, vz, ys, yz) => (y) {
            d = DequantizeLinear (x, xs, xz)
            e = DequantizeLinear (v, vs, vz)
            a = Add (d, e)
            y = QuantizeLinear (a, ys, yz)
        }""",
    # Adding zero makes one vectorized kernel of what is otherwise two passes through float32. The constant may not be
    # its own zero point: the runtime would give one of the two another rank, and back, whenever it runs.
    "Rescale": """
        Rescale (x, xs, xz, ys, yz) => (y) {
            v = Constant <value = uint8 {0}> ()
            s = Constant <value_float = 1.0> ()
            z = Constant <value = uint8 {0}> ()
            d = DequantizeLinear (x, xs, xz)
            e = DequantizeLinear (v, s, z)
            a = Add (d, e)
            y = QuantizeLinear (a, ys, yz)
        }""",
    # One kernel as well, a table of 256 entries. A bare pair of dequantize and quantize nodes would be merged with the
    # quantize node before it, which changes results.
    "Requantize": """
        Requantize (x, xs, xz, ys, yz) => (y) {
            d = DequantizeLinear (x, xs, xz)
            a = LeakyRelu <alpha = 1.0> (d)
            y = QuantizeLinear (a, ys, yz)
        }""",
    "GlobalPool": """
        GlobalPool (x, xs, xz, ys, yz) => (y) {
            d = DequantizeLinear (x, xs, xz)
            a = GlobalAveragePool (d)
            y = QuantizeLinear (a, ys, yz)
        }""",
    # The mean of a window as a depthwise convolution whose weights are 1; s is one over the number of taps.
    "Pool": """
        Pool <strides, pads, group, shape> (x, xs, xz, s, ys, yz) => (y) {
            h = Constant <value_ints: ints = @shape> ()
            w = ConstantOfShape <value = int8[1] {1}> (h)
            z = Constant <value = int8 {0}> ()
            d = DequantizeLinear (x, xs, xz)
            e = DequantizeLinear (w, s, z)
            c = Conv <strides: ints = @strides, pads: ints = @pads, group: int = @group> (d, e)
            y = QuantizeLinear (c, ys, yz)
        }""",
    "Ones": """
        Ones <shape> () => (w) {
            h = Constant <value_ints: ints = @shape> ()
            w = ConstantOfShape <value = uint8[1] {1}> (h)
        }""",
    # Gather copies single elements through memcpy; GatherElements has a typed loop.
    "Lookup": """
        Lookup (x, t, h) => (y) {
            f = Constant <value_ints = [-1]> ()
            r = Reshape (x, f)
            i = Cast <to = 6> (r)
            g = GatherElements <axis = 0> (t, i)
            y = Reshape (g, h)
        }""",
}


def unpacker(bits: int, *, signed: bool, cut: bool) -> str:
    """Name of the function that unpacks weights.

    Args:
        bits: 1 to 7.
        signed: whether it gives int8, or uint8 that starts at zero.
        cut: whether the last bytes hold more fields than there are weights.
    """
    return f"{'Int' if signed else 'Uint'}{bits}{'Cut' if cut else ''}"


def _unpack_body(bits: int, *, signed: bool, cut: bool) -> str:
    """Bytes of each field, shape, shift (uint8), then the offset (int32) if signed, then the count (int64) if cut.

    A field's planes become rows, the rows one after the other its values; fields are put together with shift and or.
    """
    widths = fields(bits)
    lines, low, total = [], 0, ""
    for at, width in enumerate(widths):
        lines += _field_lines(at, width, cut=cut)
        if at:
            lines.append(f"o{at} = Constant <value = uint8 {{{low}}}> ()")
            lines.append(f'l{at} = BitShift <direction = "LEFT"> (f{at}, o{at})')
            lines.append(f"t{at} = BitwiseOr ({total}, l{at})")
        total, low = f"t{at}" if at else "f0", low + width
    if signed:  # Sub knows no 8-bit types
        lines.append(f'u = BitShift <direction = "LEFT"> ({total}, s)')
        lines += ["i = Cast <to = 6> (u)", "j = Sub (i, z)", "w = Cast <to = 3> (j)"]
    else:
        lines.append(f'w = BitShift <direction = "LEFT"> ({total}, s)')
    inputs = [*(f"p{at}" for at in range(len(widths))), "h", "s", *(["z"] if signed else []), *(["n"] if cut else [])]
    name = unpacker(bits, signed=signed, cut=cut)
    return f"{name} ({', '.join(inputs)}) => (w) {{\n" + "\n".join(lines) + "\n}"


def _field_lines(at: int, width: int, *, cut: bool) -> list[str]:
    """`f`: the values of field number `at`, in the shape of the weights."""
    shifts = ", ".join(str(shift) for shift in range(0, 8, width))
    lines = [
        f"k{at} = Constant <value = uint8[{8 // width},1] {{{shifts}}}> ()",
        f"m{at} = Constant <value = uint8 {{{2**width - 1}}}> ()",
        f'a{at} = BitShift <direction = "RIGHT"> (p{at}, k{at})',
        f"b{at} = BitwiseAnd (a{at}, m{at})",
    ]
    if not cut:
        return [*lines, f"f{at} = Reshape (b{at}, h)"]
    return [
        *lines,
        f"q{at} = Constant <value_ints = [-1]> ()",
        f"r{at} = Constant <value_ints = [0]> ()",
        f"c{at} = Reshape (b{at}, q{at})",
        f"d{at} = Slice (c{at}, r{at}, n)",
        f"f{at} = Reshape (d{at}, h)",
    ]


def _bodies() -> dict[str, str]:
    found = dict(_BODIES)
    for bits, signed, cut in product(PACKED_BITS, (True, False), (True, False)):
        found[unpacker(bits, signed=signed, cut=cut)] = _unpack_body(bits, signed=signed, cut=cut)
    return found


def functions(names: Iterable[str]) -> list[FunctionProto]:
    """The functions of these names."""
    from onnx import parser

    bodies = _bodies()
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>\n'
    return [parser.parse_function(header + bodies[name]) for name in sorted(names)]
