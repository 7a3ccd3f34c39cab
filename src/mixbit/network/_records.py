"""The plain objects that capture returns: they hold names and numbers, no module and no weight."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from mixbit import _io
from mixbit.errors import MixbitError, did_you_mean

LayerKind = Literal["conv1d", "conv2d", "linear", "attention_in_proj"]

FORMAT, VERSION = "mixbit-network", 2
_CHECKED: dict[str, Any] = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One operation with weights that can be quantized.

    Shapes are those of one sample, without the batch dimension.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _CHECKED

    name: str
    """Module name, e.g. `layer1.0.conv1`; packed attention projections are called `<module>.in_proj`."""
    kind: LayerKind
    parameter: str
    """Name of the weight in `model.named_parameters()`."""
    weight_shape: tuple[int, ...]
    groups: int
    macs: int
    """Multiply-accumulates of one sample, exact."""
    macs_limpq: int
    """MACs as LIMPQ's released code counts them (output area truncated as a product)."""
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    input_tensor: str
    """Name of the `Tensor` that the layer reads."""
    output_tensor: str
    input_signed: bool
    """Whether the input can be negative; a signed quantizer is needed if so."""

    @property
    def weights(self) -> int:
        """Number of weights, without bias."""
        return math.prod(self.weight_shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One activation buffer of the captured schedule (element-wise results and views share their source's buffer)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _CHECKED

    name: str
    shape: tuple[int, ...]
    """Shape of one sample."""
    first_step: int
    """Index into `Network.steps` of the step that writes it (inputs: 0)."""
    last_step: int
    """Index of the last step that reads it (outputs of the network: the last step)."""
    readers: tuple[str, ...]
    """Names of the quantizable layers that read it."""
    read_elsewhere: bool
    """Whether anything but a quantizable layer reads it (an add, a pool, the caller)."""

    @property
    def numel(self) -> int:
        """Elements of one sample."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """An add or a concat, and the layers whose outputs meet in it."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _CHECKED

    name: str
    kind: Literal["add", "concat"]
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A module or call that will not be quantized, and why."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _CHECKED

    name: str
    reason: str
    macs: int = 0
    """Multiply-accumulates of one sample that stay in float; they are part of `Network.other_macs`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatParameter:
    """A parameter that is no layer's: it stays in float32, and every cost counts it so."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _CHECKED

    name: str
    """Its name in `model.named_parameters()`; of a buffer that is used as a weight, the module that reads it."""
    size: int
    """Number of its elements."""
    reason: str
    macs: int = 0
    """Multiply-accumulates of one sample that it takes part in; they are part of `Network.other_macs`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Layers in execution order, the tensors between them, and what was left out."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _CHECKED

    layers: tuple[Layer, ...]
    tensors: tuple[Tensor, ...]
    steps: tuple[str, ...]
    """The schedule: one name for every operation that writes a tensor, in captured order."""
    joins: tuple[Join, ...]
    skipped: tuple[Skipped, ...]
    other_macs: int
    """MACs of one sample outside the layers: attention's two products, and whatever was skipped."""
    float_parameters: tuple[FloatParameter, ...] = ()
    """What no choice of bits reaches, each parameter once. Biases of layers and batch norms that are folded into them
    are not among these, nor is what the example does not reach."""

    @property
    def float_size(self) -> int:
        """Elements of all `float_parameters`."""
        return sum(one.size for one in self.float_parameters)

    @property
    def float_macs(self) -> int:
        """MACs of one sample with `float_parameters`; the rest of `other_macs` are products without parameters."""
        return sum(one.macs for one in self.float_parameters)

    @property
    def macs(self) -> int:
        """All multiply-accumulates of one sample: those of the layers and `other_macs`.

        >>> Network(layers=(), tensors=(), steps=(), joins=(), skipped=(), other_macs=800).macs
        800
        """
        return sum(layer.macs for layer in self.layers) + self.other_macs

    @property
    def fingerprint(self) -> str:
        """`sha256:` and 16 hex digits of the layers' names, kinds, weight shapes and groups.

        Two models of one structure have one fingerprint, whatever their weights, input size or batch.

        >>> empty = Network(layers=(), tensors=(), steps=(), joins=(), skipped=(), other_macs=0)
        >>> empty.fingerprint
        'sha256:4f53cda18c2baa0c'
        """
        structure = [[layer.name, layer.kind, list(layer.weight_shape), layer.groups] for layer in self.layers]
        text = json.dumps(structure, separators=(",", ":"), ensure_ascii=True)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def layer(self, name: str) -> Layer:
        """The layer of that name.

        Raises:
            MixbitError: there is none; the message offers the nearest name.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        names = [layer.name for layer in self.layers]
        skipped = next((f" It was skipped: {s.reason}." for s in self.skipped if s.name == name), "")
        raise MixbitError(
            f"unknown layer {name!r}.{did_you_mean(name, names)}{skipped} Legal: one of the {len(names)} names in"
            " network.layers (`mixbit inspect` prints them)."
        )

    def ties(self) -> tuple[tuple[str, ...], ...]:
        """All layer names, grouped by the tensor they read; groups and members in execution order.

        Layers of one group can share one quantized copy of their input: hardware gives them one activation bit-width.

        Returns:
            Every layer is in exactly one group; a layer that shares its input with no other is a group of one.

        >>> import torch
        >>> from torch import nn
        >>> from mixbit.network import capture
        >>> block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> capture(block, torch.randn(1, 5, 8)).ties()
        (('self_attn.in_proj',), ('self_attn.out_proj',), ('linear1',), ('linear2',))
        """
        groups: dict[str, list[str]] = {}
        for layer in self.layers:
            groups.setdefault(layer.input_tensor, []).append(layer.name)
        return tuple(tuple(group) for group in groups.values())

    def to_json(self) -> str:
        """The network as versioned JSON text; `from_json` reads it back to an equal object.

        >>> empty = Network(layers=(), tensors=(), steps=(), joins=(), skipped=(), other_macs=0)
        >>> Network.from_json(empty.to_json()) == empty
        True
        """
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Network:
        """Read what `to_json` wrote.

        Raises:
            MixbitError: no JSON, another format, a newer version, a missing or unknown key, or a value of a wrong type.
        """
        return _io.as_record(
            _envelope(text), cls, where="The network file", remedy="Write it again with network.to_json()."
        )


def _envelope(text: str) -> dict[str, Any]:
    """The network's own keys, once format and version were found to be ours."""
    body = _io.parse_json(text, where="The network file")
    found = body.get("format") if isinstance(body, dict) else type(body).__name__
    if found != FORMAT:
        raise MixbitError(f"not a network file: format is {found!r}, legal is {FORMAT!r}. Give what to_json wrote.")
    version = body.get("version")
    if version != VERSION:
        raise MixbitError(f"network file of version {version!r}, this mixbit reads {VERSION}. Capture the model again.")
    return {key: value for key, value in body.items() if key not in ("format", "version")}
