"""The measurements behind a latency table, block by block, with a file from which a killed build goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from mixbit.cost import LayerBits, Timing
from mixbit.errors import ExportError
from mixbit.integer.graph import IntegerGraph
from mixbit.latency._target import FloatModel, Measurement, Target, export_cpu
from mixbit.ledger import Ledger
from mixbit.network import Network

__all__ = ["REFERENCE", "WHOLE", "Bench", "Lower", "texts"]

REFERENCE = "reference"
"""Name in a block of the network that every block measures."""
WHOLE = "whole networks"
"""Name of the block without steps."""

Lower: TypeAlias = Callable[[Mapping[str, LayerBits]], IntegerGraph]
"""From the bits of every layer to the integer graph of the network at these bits."""


@dataclass(kw_only=True)
class Bench:
    """Measures block by block, and keeps every finished block in a file."""

    network: Network
    lower: Lower
    target: Target
    options: tuple[LayerBits, ...]
    repeats: int
    checks: Mapping[str, Mapping[str, LayerBits]]
    float_model: FloatModel | None
    partial: Path | None
    blocks: dict[str, dict[str, Measurement]] = field(default_factory=dict, init=False)
    """Name -> network -> what was measured."""
    float_failure: str | None = field(default=None, init=False)
    """Why the float32 network was not measured."""

    def __post_init__(self) -> None:
        """Take up what an earlier build with the same settings has measured."""
        facts = {
            "fingerprint": self.network.fingerprint,
            "input": [layer.input_shape for layer in self.network.layers],
            "target": self.target.name,
            "runtime": f"{self.target.runtime} {self.target.runtime_version}",
            "device": asdict(self.target.device),
            "cpu": export_cpu(self.target),
            "threads": self.target.threads,
            "batch": self.target.batch,
            "repeats": self.repeats,
            "options": [str(option) for option in self.options],
            "checks": {name: texts(bits) for name, bits in self.checks.items()},
            "float32": self.float_model is not None,
        }
        self._ledger = Ledger(self.partial, "measurements of a latency table", facts)
        for label in self._ledger:
            self._take(label, self._ledger.read(label, _Block))

    @property
    def widths(self) -> list[int | None]:
        """Activation bits, one block each."""
        return list(dict.fromkeys(option.activation_bits for option in self.options))

    @property
    def reference(self) -> LayerBits:
        """The option of the most bits."""
        return max(self.options, key=lambda option: (option.activation_bits or 32, option.weight_bits or 32))

    @cached_property
    def _reference_graph(self) -> IntegerGraph:
        return self._uniform(self.reference)

    def _uniform(self, option: LayerBits) -> IntegerGraph:
        """The network with all layers at one option."""
        return self.lower({layer.name: option for layer in self.network.layers})

    def profile(self, width: int | None) -> None:
        """All options of one activation width, and the reference beside them."""
        label = str(LayerBits(None, width))
        if label in self.blocks:
            return
        mine = [option for option in self.options if option.activation_bits == width]
        graphs = {str(one): self._uniform(one) for one in mine if one != self.reference}
        graphs[str(self.reference) if self.reference in mine else REFERENCE] = self._reference_graph
        self._keep(label, self.target.profile(graphs, self.repeats))

    def speed(self, label: str) -> int:
        """What the reference took in a block."""
        block = self.blocks[label]
        return (block.get(REFERENCE) or block[str(self.reference)]).whole.median

    def time_whole(self) -> None:
        """Networks to check the sums with, and the float32 network."""
        if WHOLE in self.blocks or not (self.checks or self.float_model):
            return
        networks = {f"check {name}": self.lower(bits) for name, bits in self.checks.items()}
        networks[REFERENCE] = self._reference_graph
        found = self._timed(networks)
        self._keep(WHOLE, {name: Measurement(whole=timing, steps=()) for name, timing in found.items()})

    def _timed(self, networks: Mapping[str, IntegerGraph]) -> dict[str, Timing]:
        """With the float32 network where the target runs it: a table is of use without."""
        if self.float_model is not None:
            try:
                return self.target.time({**networks, "float32": self.float_model}, self.repeats)
            except ExportError as error:
                self.float_failure = str(error)
        return self.target.time(networks, self.repeats)

    def _keep(self, label: str, networks: dict[str, Measurement]) -> None:
        block = _Block(networks=networks, float_failure=self.float_failure)
        self._ledger.put(label, asdict(block))
        self._take(label, block)

    def _take(self, label: str, block: _Block) -> None:
        self.blocks[label], self.float_failure = block.networks, block.float_failure


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """What was measured in turns."""

    networks: dict[str, Measurement]
    float_failure: str | None
    """Why the float32 network was not measured, as far as that is known by then."""


def texts(bits: Mapping[str, LayerBits]) -> dict[str, str]:
    """Bits of every layer as text, `W3A4`."""
    return {name: str(one) for name, one in bits.items()}
