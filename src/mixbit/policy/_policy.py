"""Policy: the bits of every layer of one network, and where they come from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, cast

from mixbit import _io
from mixbit.cost import (
    Costs,
    LatencyTable,
    LayerBits,
    Macs,
    Pins,
    check_layer_names,
    cost_table,
    costs,
    float_costs,
    tabulated,
    uniform_bits,
)
from mixbit.errors import PolicyError, did_you_mean
from mixbit.policy._files import JSON, check_header, read_document
from mixbit.policy._pins import resolve_pins

if TYPE_CHECKING:
    from mixbit.network import Network

__all__ = ["Policy", "bits_digest"]

_NAMED = 5
"""Parameters in float32 that a note names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Bits of every layer of one network; the file of it is meant to be read and edited by people.

    >>> Policy(fingerprint="sha256:0123456789abcdef", layers={"fc": LayerBits(3, 4)}).layers["fc"].weight_bits
    3
    """

    FORMAT: ClassVar[str] = "mixbit-policy"
    VERSION: ClassVar[int] = 1

    fingerprint: str
    """`Network.fingerprint` of the network that it is for."""
    layers: dict[str, LayerBits]
    """Layer name -> bits, all layers, in execution order."""
    method: str = "by hand"
    seed: int | None = None
    macs: Macs = "exact"
    """How the MACs in `costs` and `budget` are counted."""
    budget: dict[str, str] = field(default_factory=dict)
    """Kind -> limit as the user wrote it, e.g. `{"bitops": "3x4"}`."""
    costs: dict[str, int | float] = field(default_factory=dict)
    """`mixbit.cost.cost_table`: bitops, weight_bytes, activation_bytes, and the same of the float32 network; latency_ns
    where there was a latency table, flash_bytes and ram_bytes where there was a memory table."""
    allocation: dict[str, JSON] = field(default_factory=dict)
    """How the solver ended: objective, bound, gap, slack, ...; empty for a policy that no solver made."""
    notes: list[str] = field(default_factory=list)
    """What a reader should know: pinned and tied layers, forbidden options, edits."""
    format: str = FORMAT
    version: int = VERSION

    @classmethod
    def uniform(
        cls,
        network: Network,
        weight_bits: int | None,
        activation_bits: int | None,
        pins: Pins | None = None,
        *,
        macs: Macs = "exact",
    ) -> Policy:
        """All layers at the same bits, but for `pins` (exact names; see `resolve_pins`).

        As in `mixbit.allocation.allocate`, None pins the first and the last layer at 8 bits, and `{}` pins nothing.

        Raises:
            PolicyError: bits are illegal, or a pin names an unknown layer.

        >>> import torch
        >>> from mixbit.network import capture
        >>> net = capture(torch.nn.Sequential(torch.nn.Linear(64, 10)), torch.zeros(1, 64))
        >>> policy = Policy.uniform(net, 3, 4, {})
        >>> policy.costs["bitops"], policy.costs["float_bitops"]        # 640 MACs * 3 * 4, and * 32 * 32
        (7680, 655360)
        """
        pins = resolve_pins(network) if pins is None else pins
        bits = LayerBits(weight_bits, activation_bits)
        names = {layer.name for layer in network.layers}
        for name in pins:
            if name not in names:
                raise PolicyError(f"The pin {name!r} is no layer of this network.{did_you_mean(name, names)}")
        layers = uniform_bits(network, bits, pins)
        return cls(
            fingerprint=network.fingerprint,
            layers=layers,
            method=f"uniform {bits}",
            macs=macs,
            costs=cost_table(network, layers, macs=macs),
            notes=([pin_note(pins)] if pins else []) + uncounted_notes(network),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the policy as JSON, atomically; one key a fact, layers last."""
        content = asdict(self)
        layers = content.pop("layers")
        head = {key: content.pop(key) for key in ("format", "version", "fingerprint", "method", "seed")}
        _io.write_json(path, {**head, **content, "layers": layers})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Policy:
        """Read a policy. Its costs are taken as they stand in the file; `check` compares them with the network.

        Raises:
            PolicyError: the file is missing, malformed, of another format, newer than this mixbit, or holds illegal
                bits.
        """
        from mixbit.policy._schema import PolicyFile

        found = read_document(path, PolicyFile, format=cls.FORMAT, version=cls.VERSION)
        content = {key: getattr(found, key) for key in PolicyFile.model_fields}
        layers = {name: LayerBits(bits.weight_bits, bits.activation_bits) for name, bits in found.layers.items()}
        return cls(**{**content, "layers": layers})

    def check(self, network: Network, latency: LatencyTable | None = None, found: Costs | None = None) -> Policy:
        """Make sure that this policy is one of `network`, and bring its costs up to date.

        Args:
            network: the captured network.
            latency: measured times. Without them the latency that the policy tells is kept as long as its other costs
                hold, and left out where they do not.
            found: what these bits cost on this network, if that was counted already, as the policy counts MACs.

        Returns:
            This policy; or, if its bits were edited since its costs were written (or the network was captured at
            another input size), a copy with fresh costs, a note that says so, and without the solver's results, which
            no longer hold.

        Raises:
            PolicyError: another model, an unknown or missing layer, illegal bits, another format or a newer version.
        """
        self.check_layers(network)
        if found is None:
            found = costs(network, self.layers, macs=self.macs, latency=latency)
        fresh = tabulated(found, float_costs(network, macs=self.macs, latency=latency), latency)
        if all(self.costs.get(name) == value for name, value in fresh.items()):
            # What was measured cannot be counted again, but is of these bits.
            kept = {name for name in self.costs if "latency_" in name or name in ("flash_bytes", "ram_bytes")}
            fresh |= {name: self.costs[name] for name in self.costs if name in kept - fresh.keys()}
        if fresh == self.costs:
            return self
        stale = [name for name, value in self.costs.items() if fresh.get(name) != value]
        if not stale:
            return replace(self, costs=fresh)
        note = f"costs recomputed for these bits and this input size: {', '.join(sorted(stale))} had other values"
        return replace(self, costs=fresh, allocation={}, notes=[*self.notes, note])

    def check_layers(self, network: Network) -> None:
        """What `check` asks of the network and the layers, without counting anything.

        Raises:
            PolicyError: as `check`.
        """
        check_header(self.format, self.version, format=self.FORMAT, version=self.VERSION, where="policy")
        check_fingerprint(network, self.fingerprint, self.layers, "policy")
        check_layer_names(network, self.layers, "The policy")
        check_bits(self.layers, "The policy")


def check_fingerprint(network: Network, fingerprint: str, names: Mapping[str, object], what: str) -> None:
    """Raise `PolicyError` if `fingerprint` is not that of `network`, with the first layer that differs, if one does."""
    if fingerprint == network.fingerprint:
        return
    legal = [layer.name for layer in network.layers]
    foreign = [name for name in names if name not in legal]
    if foreign:
        detail = f"its layer {foreign[0]!r} is not in this network.{did_you_mean(foreign[0], legal)}"
    elif len(names) < len(legal):
        detail = f"it has {len(names)} layers, this network has {len(legal)}."
    else:
        detail = "the layers have the same names, but other kinds, weight shapes or groups."
    raise PolicyError(
        f"This {what} was made for another model: {detail} Its fingerprint is {fingerprint!r}, this network's is "
        f"{network.fingerprint!r}. Make a new {what} for this network, or load the model that it was made for."
    )


def check_bits(layers: Mapping[str, LayerBits], what: str) -> None:
    """Raise `PolicyError` for a layer that has no bits."""
    for name, bits in layers.items():
        if not isinstance(cast(object, bits), LayerBits):
            raise PolicyError(f"{what}'s layer {name!r} holds {bits!r}. Legal: a LayerBits.")


def uncounted_notes(network: Network) -> list[str]:
    """What no choice of bits reaches: parameters in float32, counted so, and MACs without parameters, not counted."""
    found = []
    if network.float_size:
        names = [f"{one.name} ({one.reason})" for one in network.float_parameters]
        more = f" and {len(names) - _NAMED} more, see mixbit inspect" if len(names) > _NAMED else ""
        found.append(
            f"{len(names)} parameters of {network.float_size} elements stay in float32, counted at 32 bits: "
            f"{', '.join(names[:_NAMED])}{more}"
        )
    if uncounted := network.other_macs - network.float_macs:
        found.append(
            f"{uncounted} MACs outside the layers (products without parameters, as in attention) stay in float, "
            "uncounted"
        )
    return found


def pin_note(pins: Pins) -> str:
    """The pinned layers in one line.

    >>> pin_note({"conv1": LayerBits(8, 8), "fc": LayerBits(8, None)})
    'pinned: conv1 W8A8, fc W8A32'
    """
    return "pinned: " + ", ".join(f"{name} {bits}" for name, bits in pins.items())


def bits_digest(layers: Mapping[str, LayerBits]) -> str:
    """What policies of the same bits have in common, whatever else they say: 12 hex digits.

    >>> bits_digest({"fc": LayerBits(3, 4)}) == bits_digest({"fc": LayerBits(4, 3)})
    False
    """
    plain = {name: [one.weight_bits, one.activation_bits] for name, one in layers.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]
