"""Exact costs of a policy, in integers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from mixbit._bits import shared_bits
from mixbit.cost._bits import FLOAT_BITS, LayerBits, check_layer_names, width
from mixbit.errors import BudgetError, did_you_mean

if TYPE_CHECKING:
    from mixbit.cost._latency import LatencyTable
    from mixbit.cost._memory import MemoryTable
    from mixbit.network import Layer, Network, Tensor

__all__ = [
    "Costs",
    "Macs",
    "cost_table",
    "costs",
    "float_costs",
    "float_rest",
    "layer_macs",
    "tensor_bytes",
]

Macs: TypeAlias = Literal["exact", "limpq"]
"""How MACs are counted: exactly, or as LIMPQ's released code does (output area truncated as one product)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What one assignment of bits costs, of one sample."""

    bitops: int
    """Sum over layers of MACs * weight bits * activation bits; a MAC counts once. Products with parameters that stay in
    float32 count 1024 a MAC."""
    weight_bits: int
    """Sum over layers of weights * bits, and 32 for each element of the parameters that stay in float32. Biases of
    layers, scales, and batch norms that are folded into them are not counted."""
    activation_bytes: int
    """Bytes of the largest set of activation tensors that live at one step of the schedule."""
    peak_step: str
    """The (first) step at which that set lives; empty for a network without steps."""
    latency: int | None = None
    """What one run takes by a `LatencyTable`, in its unit (nanoseconds or instructions); None without a table."""
    flash_bytes: int | None = None
    """By a `MemoryTable`; None without one."""
    ram_bytes: int | None = None
    """By a `MemoryTable`; None without one."""

    @property
    def weight_bytes(self) -> int:
        """`weight_bits` in whole bytes, rounded up."""
        return -(-self.weight_bits // 8)


def costs(
    network: Network,
    layers: Mapping[str, LayerBits],
    *,
    macs: Macs = "exact",
    latency: LatencyTable | None = None,
    memory: MemoryTable | None = None,
) -> Costs:
    """Costs of giving each layer of `network` the bits in `layers`; float32 (None) counts as 32 bits.

    * BitOps = sum over layers of MACs * b_w * b_a, as LIMPQ and HAWQ-V3 count them, and 1024 for each MAC with
      parameters that stay in float32 (`network.float_macs`). Products without parameters, such as attention's two, stay
      in float as well, and are neither here nor in the float32 figure.
    * Weight bits = sum over layers of weights * b_w, and 32 for each of `network.float_size`: every parameter once,
      but for the biases of layers and what is folded into them.
    * Peak activation bytes = the largest sum, over the steps of the schedule, of the tensors that live then; see
      `tensor_bytes` for one tensor.
    * Latency = the sum over layers of what the table has for b_w and b_a, and all that it has for the rest.
    * Flash and RAM = what a `MemoryTable` says of a device's form of the network.

    Args:
        network: the captured network.
        layers: bits of every layer, by name.
        macs: "exact", or "limpq" to reproduce the counting of LIMPQ's released code.
        latency: measured times of this network.
        memory: flash and RAM of this network on a device.

    Raises:
        PolicyError: `layers` names an unknown layer or leaves one out.
        BudgetError: `macs` is neither of the two, or a table is of another network or lacks these bits.

    >>> from mixbit.network import Layer, Network, Tensor
    >>> fc = Layer(name="fc", kind="linear", parameter="fc.weight", weight_shape=(10, 64), groups=1, macs=640,
    ...     macs_limpq=640, input_shape=(64,), output_shape=(10,), input_tensor="x", output_tensor="y",
    ...     input_signed=True)
    >>> x = Tensor(name="x", shape=(64,), first_step=0, last_step=0, readers=("fc",), read_elsewhere=False)
    >>> y = Tensor(name="y", shape=(10,), first_step=0, last_step=0, readers=(), read_elsewhere=True)
    >>> net = Network(layers=(fc,), tensors=(x, y), steps=("fc",), joins=(), skipped=(), other_macs=0)
    >>> costs(net, {"fc": LayerBits(3, 4)})        # 640*3*4, 640*3, and 64*4/8 + 10*8/8
    Costs(bitops=7680, weight_bits=1920, activation_bytes=42, peak_step='fc',
        latency=None, flash_bytes=None, ram_bytes=None)
    """
    check_layer_names(network, layers, "The policy")
    bitops, weight_bits = float_rest(network)
    for layer in network.layers:
        bits = layers[layer.name]
        bitops += layer_macs(layer, macs) * width(bits.weight_bits) * width(bits.activation_bits)
        weight_bits += layer.weights * width(bits.weight_bits)
    peak, step = _peak(network, layers)
    time = None if latency is None else latency.check(network).cost(layers)
    flash, ram = (None, None) if memory is None else _on_device(network, layers, memory)
    return Costs(
        bitops=bitops,
        weight_bits=weight_bits,
        activation_bytes=peak,
        peak_step=step,
        latency=time,
        flash_bytes=flash,
        ram_bytes=ram,
    )


def float_rest(network: Network) -> tuple[int, int]:
    """BitOps and weight bits of the parameters that are no layer's, whatever the layers get.

    >>> from mixbit.network import FloatParameter, Network
    >>> token = FloatParameter(name="token", size=64, macs=640, reason="read by matmul")
    >>> float_rest(Network(layers=(), tensors=(), steps=(), joins=(), skipped=(), other_macs=640,
    ...     float_parameters=(token,)))                                             # 640 * 32 * 32, and 64 * 32
    (655360, 2048)
    """
    return network.float_macs * FLOAT_BITS * FLOAT_BITS, network.float_size * FLOAT_BITS


def _on_device(network: Network, layers: Mapping[str, LayerBits], memory: MemoryTable) -> tuple[int, int]:
    memory.check(network)
    return memory.flash(layers), memory.ram(network, layers)


def float_costs(network: Network, *, macs: Macs = "exact", latency: LatencyTable | None = None) -> Costs:
    """Costs of the float32 network: 1024 BitOps a MAC, 32 bits a weight, 4 bytes an activation.

    Its latency is what was measured of the whole float32 network, and None where the table has no such measurement.
    """
    found = costs(network, {layer.name: LayerBits(None, None) for layer in network.layers}, macs=macs)
    time = None if latency is None else latency.check(network).float32
    return found if time is None else replace(found, latency=time.median)


def cost_table(
    network: Network,
    layers: Mapping[str, LayerBits],
    *,
    macs: Macs = "exact",
    latency: LatencyTable | None = None,
    memory: MemoryTable | None = None,
) -> dict[str, int | float]:
    """The costs that a policy carries: those of `layers`, and those of the float32 network under `float_...`.

    With a latency table, `latency_ns` (or `latency_instructions`) is among them; with a memory table, `flash_bytes` and
    `ram_bytes`, which float32 has not.
    """
    found = costs(network, layers, macs=macs, latency=latency, memory=memory)
    return tabulated(found, float_costs(network, macs=macs, latency=latency), latency)


def tabulated(policy: Costs, float32: Costs, latency: LatencyTable | None) -> dict[str, int | float]:
    """The table of costs that are known already: those of the policy, and those of the float32 network.

    >>> one, full = (Costs(bitops=n, weight_bits=8 * n, activation_bytes=n, peak_step="fc") for n in (2, 64))
    >>> tabulated(one, full, None)["weight_bytes"], tabulated(one, full, None)["float_bitops"]
    (2, 64)
    """
    table: dict[str, int | float] = {}
    for prefix, found in (("", policy), ("float_", float32)):
        table[f"{prefix}bitops"] = found.bitops
        table[f"{prefix}weight_bytes"] = found.weight_bytes
        table[f"{prefix}activation_bytes"] = found.activation_bytes
        if latency is not None and found.latency is not None:
            table[f"{prefix}{latency.key}"] = found.latency
        if found.flash_bytes is not None and found.ram_bytes is not None:
            table |= {"flash_bytes": found.flash_bytes, "ram_bytes": found.ram_bytes}
    return table


def layer_macs(layer: Layer, macs: Macs) -> int:
    """MACs of one sample in the chosen counting.

    Raises:
        BudgetError: `macs` is neither "exact" nor "limpq".
    """
    if macs not in get_args(Macs):
        legal = get_args(Macs)
        raise BudgetError(f"macs={macs!r} is unknown. Legal: {', '.join(legal)}.{did_you_mean(str(macs), legal)}")
    return layer.macs_limpq if macs == "limpq" else layer.macs


def tensor_bytes(tensor: Tensor, reader_bits: Collection[int | None], shared: int = 8) -> int:
    """Bytes of one activation tensor of one sample.

    A tensor that one quantizable layer alone reads is kept at that layer's bits. A tensor that several layers read, or
    anything else, is kept once, at 8 or 16 bits (`shared`), or in float32 if a layer needs it in float32: the readers'
    step sizes differ after training, also at equal bits, so each of them requantizes what it reads.

    Args:
        tensor: the tensor.
        reader_bits: activation bits of the layers that read it; None is float32.
        shared: bits of tensors that are kept once: 16 in a network of which any layer reads more than 8 bits.

    >>> from mixbit.network import Tensor
    >>> x = Tensor(name="x", shape=(3, 5), first_step=0, last_step=1, readers=("a",), read_elsewhere=False)
    >>> tensor_bytes(x, [3])                                                      # 45 bits
    6
    >>> shared = Tensor(name="x", shape=(3, 5), first_step=0, last_step=1, readers=("a", "b"), read_elsewhere=False)
    >>> tensor_bytes(shared, [3, 3]), tensor_bytes(shared, [3, None])
    (15, 60)
    """
    if tensor.read_elsewhere or len(tensor.readers) != 1 or not reader_bits:
        return _bytes(tensor.numel, FLOAT_BITS if None in reader_bits else shared)
    return max(_bytes(tensor.numel, width(bits)) for bits in reader_bits)


def _bytes(numel: int, bits: int) -> int:
    return -(-numel * bits // 8)


def _peak(network: Network, layers: Mapping[str, LayerBits]) -> tuple[int, str]:
    """Largest live sum and its step; a network without a quantized activation keeps all tensors in float32."""
    if not network.steps:
        return 0, ""
    quantized = any(bits.activation_bits is not None for bits in layers.values())
    shared = shared_bits(bits.activation_bits for bits in layers.values())
    change = [0] * (len(network.steps) + 1)
    for tensor in network.tensors:
        bits = [layers[name].activation_bits for name in tensor.readers]
        size = tensor_bytes(tensor, bits, shared) if quantized else _bytes(tensor.numel, FLOAT_BITS)
        change[tensor.first_step] += size
        change[tensor.last_step + 1] -= size
    live = list(accumulate(change[:-1]))
    peak = max(live)
    return peak, network.steps[live.index(peak)]
