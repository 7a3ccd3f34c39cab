"""What a network takes of a device's flash and RAM, layer by layer and option by option: known before compiling."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mixbit._bits import shared_bits
from mixbit.cost._bits import LayerBits, check_layer_names
from mixbit.errors import BudgetError, did_you_mean

if TYPE_CHECKING:
    from mixbit.network import Network

__all__ = ["MemoryTable", "RamStep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RamStep:
    """One layer's turn on the device: the bytes that are needed then."""

    name: str
    constant: int
    """Scratch, and tensors whose bytes no choice of bits changes."""
    tensors: Mapping[str, Mapping[int, int]]
    """Tensor of the network -> bits at which it is read -> bytes of that copy."""

    def bytes_of(self, tensor: str, readers: Collection[int | None]) -> int:
        """Bytes of all copies of one tensor: one for each width at which it is read.

        Raises:
            BudgetError: a width that the device does not have.
        """
        found = self.tensors.get(tensor)
        return 0 if found is None else sum(_at(found, bits, tensor) for bits in set(readers))


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTable:
    """Bytes of flash by layer and bits, bytes of RAM by step and bits, of one network in one form.

    Made by `mixbit.export.c.memory_table` for C. Flash is a sum over layers, and over the widths of weights that are in
    use: each has code of its own. RAM is the largest sum over the steps.

    >>> table = MemoryTable(fingerprint="sha256:0123456789abcdef", target="C", weights={"fc": {4: 320, 8: 640}},
    ...     code={4: 100, 8: 70}, rest=2_000,
    ...     steps=(RamStep(name="fc", constant=64, tensors={"x": {4: 32, 8: 64}}),))
    >>> table.flash({"fc": LayerBits(4, 8)})
    2420
    """

    fingerprint: str
    """`Network.fingerprint` of the network that it is of."""
    target: str
    """The form that the network takes, e.g. `C, dsp kernels`."""
    weights: Mapping[str, Mapping[int, int]]
    """Layer -> bits of its weights -> bytes, with what rounding rows to whole bytes adds."""
    code: Mapping[int, int]
    """Bits of weights -> bytes of code that any layer of these bits needs; all of them share it."""
    rest: int
    """Flash of all else: other code, biases, factors, tables, settings."""
    steps: tuple[RamStep, ...]
    ram_margin: int = 0
    """RAM beyond the largest sum of a step, for tensors that cannot be placed without a gap."""
    layouts: Mapping[frozenset[tuple[str, int | None]], tuple[int, int]] = field(default_factory=dict)
    """Layers with their activation bits -> bytes of flash and of RAM that a layout with just these takes beyond what is
    counted. It stands in the place of `ram_margin`."""
    coded: frozenset[str] | None = None
    """Layers whose weights are read by the code of their width; None for all."""

    def check(self, network: Network) -> MemoryTable:
        """Make sure that the table is one of `network`, and return it.

        Raises:
            BudgetError: it is of another network.
        """
        if self.fingerprint != network.fingerprint:
            raise BudgetError(
                f"The memory table is of another network: its fingerprint is {self.fingerprint!r}, this network's is "
                f"{network.fingerprint!r}. Make one of this network: mixbit.export.c.memory_table."
            )
        check_layer_names(network, self.weights, "The memory table")
        return self

    def weight_bytes(self, layer: str, bits: int | None) -> int:
        """Flash of one layer's weights.

        Raises:
            BudgetError: the layer is unknown, or the device has no weights of these bits.
        """
        if layer not in self.weights:
            raise BudgetError(
                f"The memory table does not know the layer {layer!r}.{did_you_mean(layer, self.weights)} Make a table "
                "of this network: mixbit.export.c.memory_table."
            )
        return _at(self.weights[layer], bits, layer)

    def flash(self, layers: Mapping[str, LayerBits]) -> int:
        """Bytes of flash of a policy.

        Raises:
            BudgetError: as `weight_bytes`; or a layer reads more than 8 bits, of which no table knows.
        """
        _check_inputs(layers)
        weights = sum(self.weight_bytes(name, bits.weight_bits) for name, bits in layers.items())
        return self.rest + weights + self.code_bytes(self.widths(layers)) + self._layout(layers, (0, 0))[0]

    def with_layout_of(self, layers: Mapping[str, LayerBits]) -> MemoryTable:
        """The table for policies with just the activation bits of `layers`: their layout is counted to all."""
        flash, ram = self._layout(layers, (0, self.ram_margin))
        return replace(self, rest=self.rest + flash, ram_margin=ram, layouts={})

    def _layout(self, layers: Mapping[str, LayerBits], default: tuple[int, int]) -> tuple[int, int]:
        return self.layouts.get(_activations(layers), default) if self.layouts else default

    def laid_out(self, network: Network, layers: Mapping[str, LayerBits], flash: int, ram: int) -> MemoryTable:
        """The table with what the layout of a policy was found to take; other activation bits are not charged for it.

        Args:
            network: the captured network.
            layers: the policy's bits.
            flash: bytes of the layout. Less than the table says is not put down: it counts parts as the larger of two.
            ram: the same.

        >>> table = MemoryTable(fingerprint="", target="C", weights={"fc": {4: 320}}, code={}, rest=0,
        ...     steps=(RamStep(name="fc", constant=64, tensors={}),))
        >>> from mixbit.network import Layer, Network
        >>> fc = Layer(name="fc", kind="linear", parameter="fc.weight", weight_shape=(10, 64), groups=1, macs=640,
        ...     macs_limpq=640, input_shape=(64,), output_shape=(10,), input_tensor="x", output_tensor="y",
        ...     input_signed=True)
        >>> net = Network(layers=(fc,), tensors=(), steps=(), joins=(), skipped=(), other_macs=0)
        >>> found = table.laid_out(net, {"fc": LayerBits(4, 4)}, flash=320, ram=80)
        >>> found.ram(net, {"fc": LayerBits(4, 4)}), found.ram(net, {"fc": LayerBits(4, 8)})
        (80, 64)
        """
        bare = replace(self, layouts={}, ram_margin=0)
        known = self._layout(layers, (0, 0))
        charge = max(known[0], flash - bare.flash(layers)), max(known[1], ram - bare.ram(network, layers))
        return replace(self, layouts={**self.layouts, _activations(layers): charge})

    def needs_code(self, layer: str) -> bool:
        """Whether a layer needs the code of its width."""
        return self.coded is None or layer in self.coded

    def widths(self, layers: Mapping[str, LayerBits]) -> frozenset[int]:
        """Widths whose code a policy needs."""
        used = (bits.weight_bits for name, bits in layers.items() if self.needs_code(name))
        return frozenset(bits for bits in used if bits is not None)

    def code_bytes(self, widths: Iterable[int]) -> int:
        """Code of widths, each once."""
        return sum(self.code.get(bits, 0) for bits in set(widths))

    def ram(self, network: Network, layers: Mapping[str, LayerBits]) -> int:
        """Bytes of RAM of a policy.

        Raises:
            BudgetError: a side of a layer is in float32, or a layer reads more than 8 bits, of which no table knows.
        """
        _check_inputs(layers)
        readers: dict[str, set[int | None]] = {}
        for layer in network.layers:
            readers.setdefault(layer.input_tensor, set()).add(layers[layer.name].activation_bits)
        sums = (
            step.constant + sum(step.bytes_of(name, readers.get(name, ())) for name in step.tensors)
            for step in self.steps
        )
        return max(sums, default=0) + self._layout(layers, (0, self.ram_margin))[1]


def _check_inputs(layers: Mapping[str, LayerBits]) -> None:
    """With more than 8 bits in one place a network is laid out otherwise: shared tensors have 16 bits."""
    for name, bits in layers.items():
        if bits.activation_bits is not None and shared_bits([bits.activation_bits]) > 8:
            raise BudgetError(
                f"{name} reads {bits.activation_bits} bits. Memory tables are of inputs of up to 8 bits, so flash and "
                "ram cannot be limited: give it 8 bits or fewer, or see what mixbit export --to c says of the policy."
            )


def _activations(layers: Mapping[str, LayerBits]) -> frozenset[tuple[str, int | None]]:
    return frozenset((name, bits.activation_bits) for name, bits in layers.items())


def _at(found: Mapping[int, int], bits: int | None, name: str) -> int:
    if bits is None or bits not in found:
        raise BudgetError(
            f"{name} at {32 if bits is None else bits} bits has no form on the device, so flash and ram cannot be "
            f"limited. Legal: {', '.join(map(str, found))} bits; pin it at one of them."
        )
    return found[bits]
