"""Bits by map size: the control that topological entropy has to beat, for it is close to a function of map size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mixbit._settings import Bits, Seed, check
from mixbit.errors import MixbitError
from mixbit.methods._baseline import ladder, make_scores
from mixbit.methods.registry import register
from mixbit.network import Layer
from mixbit.policy import LayerScores, Program, Scores
from mixbit.sensitivity.perturbation import searched_layers
from mixbit.task import Task

__all__ = ["MapSize", "map_side"]


@register("map-size", "log side length of a layer's output map as importance", source="ours", cost="none")
@dataclass(frozen=True, slots=True, kw_only=True)
class MapSize:
    """Importance of a layer: `ln` of the side length of its output map; harm at b bits: importance times `4^-b`.

    `4^-b` is the power of quantization noise, as in the concave program of `topological-entropy`, whose harm has the
    entropy of the maps in the place of the logarithm. A layer without a map (see `map_side`) gets the median importance
    of the others and is listed in the settings under `without_map`.

    Attributes:
        bits: candidate bit-widths, those of `topological-entropy`.
        coupled: weight and activation of a layer take the same bits.
        first_last: also score the first and the last layer.
        seed: unused; every method has one.
    """

    bits: tuple[Bits, ...] = (8, 7, 6, 5, 4, 3, 2)
    coupled: bool = True
    first_last: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        """Read the shapes; nothing is measured.

        Raises:
            MixbitError: no layer has a map.
        """
        layers = searched_layers(task.network, first_last=self.first_last)
        sides = {layer.name: map_side(layer) for layer in layers}
        known = {name: math.log(side) for name, side in sides.items() if side is not None and side > 1}
        if not known:
            raise MixbitError("map-size: no searched layer has a map of more than one pixel. Use the method 'uniform'.")
        usual = median(known.values())
        importance = {name: known.get(name, usual) for name in sides}
        curves = {name: {b: weight * 4.0**-b for b in ladder(self.bits)} for name, weight in importance.items()}
        missing = [f"{name}: {_why(sides[name])}, median importance {usual:.4g}" for name in sides if name not in known]
        return make_scores(
            task.network,
            self,
            method="map-size",
            layers={name: LayerScores(dict(curve), dict(curve)) for name, curve in curves.items()},
            program=Program(coupled=self.coupled),
            found={"importance": importance, "without_map": missing},
        )


def map_side(layer: Layer) -> int | None:
    """Side length of the square that holds a layer's output map, or None where there is no map.

    An output `(C, H, W)` has the longer of H and W. N tokens, `(N, C)`, stand on a square of `ceil(sqrt(N))`, as
    topological entropy lays them. A vector and a sequence have none.

    >>> from types import SimpleNamespace
    >>> shapes = [("conv2d", (16, 8, 6)), ("linear", (197, 64)), ("linear", (10,)), ("conv1d", (4, 100))]
    >>> [map_side(SimpleNamespace(kind=kind, output_shape=shape)) for kind, shape in shapes]
    [8, 15, None, None]
    """
    if layer.kind == "conv2d":
        return max(layer.output_shape[-2:])
    if layer.kind != "conv1d" and len(layer.output_shape) == 2:
        return math.isqrt(layer.output_shape[0] - 1) + 1
    return None


def _why(side: int | None) -> str:
    return "no map" if side is None else "a map of one pixel"
