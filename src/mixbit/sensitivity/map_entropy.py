"""Topological entropy of the layers of a model, measured on images that stream through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mixbit import _effort
from mixbit.errors import MixbitError
from mixbit.network import Layer, LayerMap, LayerMaps
from mixbit.topology import (
    Blind,
    Graph,
    Missing,
    Weighting,
    birth_share,
    channel_entropies,
    layer_entropy,
    map_births,
    noise_births,
)

__all__ = ["Births", "MapEntropy", "MapOptions", "Measured", "measure"]

Births = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class MapOptions:
    """How maps become entropies; the words are those of `mixbit.topology`.

    Attributes:
        graph: what the vertices of a map are.
        fill: value of padding; None: -inf for maps, 0 for tokens.
        class_token: False leaves the first token out.
        min_size: smallest side that is scored: of the padded map, or of a lattice of pixels.
        null_channels: most channels of noise for the control of one size.
        seed: of the noise.
    """

    graph: Graph = "unit"
    missing: Missing = "drop"
    blind: Blind = "sensitive"
    weighting: Weighting = "prop"
    v_max: int | None = None
    miller_madow: bool = False
    fill: float | None = None
    class_token: bool = True
    min_size: int = 5
    null_channels: int = 16
    seed: int = 0

    def entropy(self, births: Births) -> float:
        """Entropy of a layer from its births (images, channels)."""
        per_channel = channel_entropies(births, missing=self.missing, blind=self.blind, miller_madow=self.miller_madow)
        return layer_entropy(per_channel, weighting=self.weighting)

    def births(self, values: npt.NDArray[np.float32]) -> Births:
        """Births of maps (images, channels, h, w) or tokens (images, channels, N)."""
        return map_births(values, tokens=values.ndim == 3, graph=self.graph, fill=self.fill, v_max=self.v_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapEntropy:
    """What was measured of one layer.

    Attributes:
        te: topological entropy, in nats.
        null: the same of noise maps of that size.
        size: side of the square map; of a lattice of pixels its longer side.
        shape: (rows, columns) of what was measured, padding included.
        channels: how many were measured, all of them.
        births: share of (image, channel) pairs with a birth.
        blind: channels with a birth in less than a tenth of the images.
        tensor: the operation whose result was read.
        after: what stands between the layer and it.
    """

    layer: str
    te: float
    null: float
    size: int
    shape: tuple[int, int]
    channels: int
    births: float
    blind: int
    tensor: str
    after: tuple[str, ...]


@dataclass(slots=True)
class Measured:
    """All layers with an entropy, the reasons of those without, and what it took.

    Attributes:
        layers: in execution order.
        without: layer -> why it has no entropy.
        maps: how many maps were read.
        bytes_peak: most memory that maps took at one time: one layer's, of one batch.
    """

    layers: dict[str, MapEntropy] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)
    maps: int = 0
    bytes_peak: int = 0


@dataclass(frozen=True, slots=True)
class _Reader:
    """How a layer's tensor becomes maps (images, channels, h, w) or tokens (images, channels, N)."""

    shape: tuple[int, ...]
    """(h, w) or (N,), without padding."""
    channels: int
    read: Callable[[Tensor], Tensor]

    def sides(self, graph: Graph) -> tuple[int, int]:
        """Rows and columns of the map, padding included."""
        if len(self.shape) == 2 and graph == "grid":
            return self.shape[0], self.shape[1]
        side = max(self.shape) if len(self.shape) == 2 else math.isqrt(self.shape[0] - 1) + 1
        return side, side


def measure(
    maps: LayerMaps,
    layers: Sequence[Layer],
    images: Sequence[Tensor],
    options: MapOptions,
    advance: Callable[[int, str], None] = lambda _steps, _text: None,
) -> Measured:
    """Topological entropy of the layers, each with its control.

    Of each map only its birth time is kept: four bytes a channel and image. A layer's maps of one batch are all that is
    ever held, beside what the forward pass itself needs.

    Args:
        maps: the model.
        layers: which layers.
        images: batches (n, ...) on the model's device.
        options: see `MapOptions`.
        advance: told after every batch.

    Raises:
        MixbitError: activations that are not numbers; the message names the layer.
    """
    found = Measured()
    readers = _readers(maps, layers, options, found.without)
    births: dict[str, list[Births]] = {name: [] for name in readers}
    for batch in images:
        if not maps.reason:  # a replayed graph calls no module
            _effort.count_forward(len(batch))
        maps.run(batch, partial(_see, readers, births, found, options))
        advance(1, "")
    null = cache(partial(_null, options, sum(len(batch) for batch in images)))
    for name, parts in births.items():
        reader = readers[name]
        control = null(reader.shape, min(reader.channels, options.null_channels))
        found.layers[name] = _summary(maps.maps[name], reader, np.concatenate(parts), control, options)
    return found


def _null(options: MapOptions, images: int, shape: tuple[int, ...], channels: int) -> float:
    """Entropy of noise of that shape; it depends on nothing that was measured."""
    births = noise_births(
        shape, images, channels, seed=options.seed, graph=options.graph, fill=options.fill, v_max=options.v_max
    )
    return options.entropy(births)


def _readers(
    maps: LayerMaps, layers: Sequence[Layer], options: MapOptions, without: dict[str, str]
) -> dict[str, _Reader]:
    readers = {}
    for layer in layers:
        found = _reader(layer, maps.maps.get(layer.name), options)
        if isinstance(found, str):
            without[layer.name] = found
        else:
            readers[layer.name] = found
    return readers


def _reader(layer: Layer, one: LayerMap | None, options: MapOptions) -> _Reader | str:
    """How to read a layer, or why it has no map."""
    if one is None:
        return "no module of that name was seen in a run"
    if one.batch_dim < 0:
        return f"the images of a batch are folded into another dimension of its output {one.shape}"
    reader = _spatial(layer, one, options)
    if reader is None:
        return f"its output {one.shape} has no two-dimensional map"
    return _unfit(reader, options) or reader


def _unfit(reader: _Reader, options: MapOptions) -> str | None:
    """Why no birth is looked for in a layer's maps, if so."""
    shape, lattice = reader.shape, options.graph == "grid"
    shown = "x".join(map(str, shape)) + (" tokens" if len(shape) == 1 else "")
    rows, columns = reader.sides(options.graph)
    if lattice and len(shape) == 1 and rows * columns != shape[0]:
        remedy = "; class_token=False leaves the first out" if options.class_token else ""
        return f"its {shown} fill no square lattice{remedy}"
    if not lattice and len(shape) == 2 and min(shape) < 2:
        return f"its maps are {shown}: one row or column has no circle"
    if min(rows, columns) < options.min_size:
        unit = "pixels a side" if lattice else "vertices"
        return f"its maps are {shown}: fewer than min_size={options.min_size} {unit}"
    return None


def _spatial(layer: Layer, one: LayerMap, options: MapOptions) -> _Reader | None:
    """Convolutions have channels first; linear layers have them last, behind a grid or a row of tokens."""
    shape = one.shape
    if layer.kind == "conv2d" and len(shape) == 3:
        return _Reader(shape[1:], shape[0], lambda t: t.movedim(one.batch_dim, 0))
    if layer.kind in ("linear", "attention_in_proj") and len(shape) == 3:
        return _Reader(shape[:2], shape[2], lambda t: t.movedim(one.batch_dim, 0).movedim(-1, 1))
    first = 0 if options.class_token else 1
    if layer.kind in ("linear", "attention_in_proj") and len(shape) == 2 and shape[0] > first:
        return _Reader((shape[0] - first,), shape[1], lambda t: t.movedim(one.batch_dim, 0).movedim(-1, 1)[..., first:])
    return None


def _see(
    readers: Mapping[str, _Reader],
    births: Mapping[str, list[Births]],
    found: Measured,
    options: MapOptions,
    name: str,
    tensor: Tensor,
) -> None:
    if name not in readers:
        return
    values = readers[name].read(tensor).to(device="cpu", dtype=torch.float32).contiguous().numpy()
    found.maps += values.shape[0] * values.shape[1]
    found.bytes_peak = max(found.bytes_peak, values.nbytes)
    try:
        births[name].append(options.births(values))
    except MixbitError as error:
        raise MixbitError(f"layer {name!r}: {error}") from error


def _summary(one: LayerMap, reader: _Reader, births: Births, null: float, options: MapOptions) -> MapEntropy:
    share, sides = birth_share(births), reader.sides(options.graph)
    return MapEntropy(
        layer=one.layer,
        te=options.entropy(births),
        null=null,
        size=max(sides),
        shape=sides,
        channels=reader.channels,
        births=float(share.mean()),
        blind=int((share < 0.1).sum()),
        tensor=one.tensor,
        after=one.after,
    )
