"""GMPQ-TE: bits by the topological entropy of feature maps (Li, Su, Ma, NeurIPS 2025; measure: Zhao, Zhang, ICLR 2022).

Images of one class run through the float network. Every channel of a layer's output is read as a weighted graph; the
step at which its first hole appears is its birth time. The entropy of birth times over the images, averaged over
channels, is the layer's topological entropy (TE), and layers with more of it get more bits.

The paper leaves much open. Every filling is a named setting, and next to each TE stands that of noise of the same size.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mixbit import _batch
from mixbit._progress import progress_bar
from mixbit._settings import LARGEST_COUNT, Bits, Count, Range, Seed, check
from mixbit.data import Split
from mixbit.errors import MixbitError
from mixbit.methods._baseline import ladder
from mixbit.methods._settings import plain_settings
from mixbit.methods.registry import register
from mixbit.network import LayerMaps, layer_maps
from mixbit.policy import LayerScores, Program, Scores
from mixbit.sensitivity.map_entropy import MapEntropy, MapOptions, Measured, measure
from mixbit.sensitivity.perturbation import searched_layers
from mixbit.task import Task
from mixbit.topology import Blind, Graph, Missing, Weighting

__all__ = ["TopologicalEntropy"]

ProgramName = Literal["concave", "paper", "ompq"]
Fallback = Literal["median", "eight"]
MapOf = Literal["activation", "output"]
Pad = Literal["absent", "zero"]


@register(
    "topological-entropy",
    "entropy of the first hole's birth in feature maps of one class",
    source="Li et al., NeurIPS 2025 (GMPQ-TE)",
    cost="forward",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class TopologicalEntropy:
    """GMPQ-TE's measure with three programs, and the control by noise.

    Attributes:
        bits: candidate bit-widths (our completion: 2 to 8).
        images: of one class, the paper's 128. Entropies grow with it, so compare at the same number.
        label: the class; None takes the lowest label with enough images, "mixed" takes images of all classes. Mixed
            images are drawn by `seed`, those of one class are its first in stored order.
        program: "concave" (our completion): harm `H * 4^-b`, the noise power of a quantizer. "paper": the linear
            programme `max sum H * b`, as harm `H * (b_max - b)`; it gives nearly all layers the most or the least bits.
            "ompq": the same with the mean of the importances from a layer to the end in place of H, solved with bits
            as real numbers, as OMPQ does, and rounded down, which is ours.
        coupled: weight and activation of a layer get the same bits; False: half the harm goes to each ("concave" only,
            our completion).
        isotonic: no layer gets fewer bits than one of lower TE: the paper's order constraint in the weak form (the
            strict form has no solution with more layers than bit-widths).
        map_of: "activation": what is read is the layer's output after its batch norm and activation, and after add
            and activation for the last convolution of a residual block (our completion); "output": before them.
        graph: "unit": rows and columns of a map are the vertices, as in the main text. "grid": its pixels are, joined
            to those beside, above and below them (our completion of the appendix's one vertex a pixel); nothing is
            padded, and tokens have to fill a square, which takes `class_token=False` where there is one.
        missing: images without a hole: "drop" or "bin0", a value of their own.
        blind: what a channel with holes in less than a tenth of the images gets; see `topology.channel_entropies`.
        layer_weight: weights of channels: "prop", "mean" or "softmax"; see `topology.layer_entropy`.
        v_max: births after this step count as none.
        miller_madow: correct the entropy's bias.
        pad: padding to a square: "absent" edges or "zero"s; None: absent for maps, zero for tokens (as the paper).
        class_token: whether the first token of a transformer is part of its grid.
        normalise: TE minus that of noise of the same size, not below 0, in place of TE (our option).
        min_size: layers with smaller maps are not measured (our completion; a hole needs 4, of pixels 3 by 3).
        fallback: layers without TE get the "median" of the others, or "eight" bits.
        resize: side to which the images are resized, bilinear; None: as they are.
        null_channels: most channels of noise for the control of one size.
        batch_size: images of one forward pass; it changes memory, not the result.
        first_last: also search the first and the last layer.
        seed: of the noise, and of mixed images.
    """

    bits: tuple[Bits, ...] = (8, 7, 6, 5, 4, 3, 2)
    images: Annotated[int, Range(least=2, most=LARGEST_COUNT)] = 128
    label: Seed | Literal["mixed"] | None = None
    program: ProgramName = "concave"
    coupled: bool = True
    isotonic: bool = False
    map_of: MapOf = "activation"
    graph: Graph = "unit"
    missing: Missing = "drop"
    blind: Blind = "sensitive"
    layer_weight: Weighting = "prop"
    v_max: Count | None = None
    miller_madow: bool = False
    pad: Pad | None = None
    class_token: bool = True
    normalise: bool = False
    min_size: Annotated[int, Range(least=4, most=LARGEST_COUNT)] = 5
    fallback: Fallback = "median"
    resize: Annotated[int, Range(least=1, most=4096)] | None = None
    null_channels: Count = 16
    batch_size: Count = 32
    first_last: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        ladder(self.bits)
        if not self.coupled and self.program != "concave":
            raise MixbitError(
                f"program {self.program!r} has one bit-width a layer, for weight and activation both. Set coupled=True,"
                " or program='concave'."
            )
        if self.graph == "grid" and self.pad is not None:
            raise MixbitError(f"pad is {self.pad!r}, but graph='grid' pads no map. Leave pad out, or set graph='unit'.")
        if self.fallback == "eight" and 8 not in self.bits:
            raise MixbitError(
                f"fallback='eight' needs 8 among the bits, which are {self.bits}. Add it, or use 'median'."
            )

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        """Measure the TE of every searched layer; `run` is not needed, a search is one forward pass of the images.

        Raises:
            MixbitError: too few images of the label, activations that are not numbers, or no layer with a map.
        """
        layers = searched_layers(task.network, first_last=self.first_last)
        model = copy.deepcopy(task.model).eval()
        label = self._label(task.train)
        device = task.example().device
        batches = [self._resized(x).to(device) for x in self._images(task.train, label)]
        maps = self._maps(model, batches[0])
        with progress_bar("topological entropy", len(batches), quiet=quiet) as advance:
            measured = measure(maps, layers, batches, self._options(), advance)
        importance = self._importance(measured, [layer.name for layer in layers])
        return Scores(
            fingerprint=task.network.fingerprint,
            method="topological-entropy",
            seed=self.seed,
            layers=self._scores(importance),
            settings=plain_settings(self) | {"topological_entropy": self._details(measured, label, maps)},
            program=Program(
                coupled=self.coupled,
                order=self._order(importance, measured),
                box=self.program == "ompq",
            ),
        )

    # ------------------------------------------------------------------------------------------------- images

    def _label(self, split: Split) -> int | None:
        """The class to take; None for a mixture."""
        if self.label == "mixed":
            return None
        counts = _count_labels(split, self.batch_size)
        if self.label is None:
            enough = [label for label, count in enumerate(counts) if count >= self.images]
            if not enough:
                most = max(range(len(counts)), key=counts.__getitem__)
                raise MixbitError(
                    f"no class of the training split has {self.images} images; label {most} has most, {counts[most]}. "
                    f"Set images={counts[most]} or less, or label='mixed'."
                )
            return enough[0]
        if not isinstance(self.label, int) or not 0 <= self.label < len(counts):
            raise MixbitError(
                f"label is {self.label!r}. Legal: 0 to {len(counts) - 1}, 'mixed', or None for the first that serves."
            )
        if counts[self.label] < self.images:
            raise MixbitError(
                f"the training split has {counts[self.label]} images of label {self.label}, images={self.images} were "
                "asked for. Ask for fewer, or take another label."
            )
        return self.label

    def _images(self, split: Split, label: int | None) -> Iterator[Tensor]:
        """Batches of the chosen images, `images` in all."""
        found: list[Tensor] = []
        for x, y in split.batches(max(self.batch_size, 64), seed=self.seed, shuffle=label is None):
            if not isinstance(x, Tensor):
                raise MixbitError(
                    f"the network takes {_batch.describe(x)}. Legal for topological entropy: one tensor of images."
                )
            found.extend(x if label is None else x[y == label])
            if len(found) >= self.images:
                break
        if len(found) < self.images:
            raise MixbitError(
                f"the training split has {len(found)} images, images={self.images} were asked for. Ask for fewer."
            )
        for start in range(0, self.images, self.batch_size):
            yield torch.stack(found[start : min(start + self.batch_size, self.images)])

    def _resized(self, x: Tensor) -> Tensor:
        if self.resize is None:
            return x
        return F.interpolate(x, size=(self.resize, self.resize), mode="bilinear", align_corners=False)

    def _maps(self, model: torch.nn.Module, batch: Tensor) -> LayerMaps:
        try:
            return layer_maps(model, batch[:2], follow=self.map_of == "activation")
        except RuntimeError as error:
            if self.resize is None:
                raise
            raise MixbitError(
                f"the network does not take images of {self.resize}x{self.resize} (resize={self.resize}): "
                f"{str(error).splitlines()[0]}. Leave resize out."
            ) from error

    def _options(self) -> MapOptions:
        return MapOptions(
            graph=self.graph,
            missing=self.missing,
            blind=self.blind,
            weighting=self.layer_weight,
            v_max=self.v_max,
            miller_madow=self.miller_madow,
            fill={None: None, "absent": -math.inf, "zero": 0.0}[self.pad],
            class_token=self.class_token,
            min_size=self.min_size,
            null_channels=self.null_channels,
            seed=self.seed,
        )

    # ------------------------------------------------------------------------------------------------- scores

    def _importance(self, measured: Measured, names: Sequence[str]) -> dict[str, float | None]:
        """What stands for H of every layer, in execution order; None is a fixed 8 bit."""
        if not measured.layers:
            first, reason = next(iter(measured.without.items()))
            raise MixbitError(
                f"none of {len(names)} layers has a map that can be scored; layer {first!r}: {reason}. Larger "
                "inputs (resize=...) make larger maps."
            )
        rows = measured.layers.values()
        values = {one.layer: max(one.te - one.null, 0.0) if self.normalise else one.te for one in rows}
        instead = None if self.fallback == "eight" else statistics.median(values.values())
        return {name: values.get(name, instead) for name in names}

    def _scores(self, importance: Mapping[str, float | None]) -> dict[str, LayerScores]:
        weights = _running_means(importance) if self.program == "ompq" else importance
        return {name: self._curves(value) for name, value in weights.items()}

    def _curves(self, value: float | None) -> LayerScores:
        if value is None:
            return LayerScores(weight={8: 0.0}, activation={8: 0.0})
        top = max(self.bits)
        harm = {b: value * (4.0**-b if self.program == "concave" else top - b) for b in self.bits}
        if self.coupled:
            return LayerScores(weight=harm, activation=dict.fromkeys(self.bits, 0.0))
        half = {b: one / 2 for b, one in harm.items()}
        return LayerScores(weight=half, activation=dict(half))

    def _order(self, importance: Mapping[str, float | None], measured: Measured) -> tuple[str, ...]:
        """Measured layers by falling importance."""
        if not self.isotonic:
            return ()
        scored = [name for name in importance if name in measured.layers]
        return tuple(sorted(scored, key=lambda name: -(importance[name] or 0.0)))

    def _details(self, measured: Measured, label: int | None, maps: LayerMaps) -> dict[str, Any]:
        rows = list(measured.layers.values())
        te, given = [one.te for one in rows], "8 bits" if self.fallback == "eight" else "the median of the others"
        return {
            "label": "mixed" if label is None else label,
            "layers": [_row(one) for one in rows],
            "fallback": [f"{name}: {reason}; it got {given}" for name, reason in measured.without.items()],
            "below_noise": [one.layer for one in rows if one.te < one.null],
            "graph": maps.reason or "exported",
            "spearman_with_noise": _spearman(te, [one.null for one in rows]),
            "spearman_with_size": _spearman(te, [float(math.prod(one.shape)) for one in rows]),
            "maps": measured.maps,
            "map_bytes_peak": measured.bytes_peak,
        }


def _count_labels(split: Split, batch_size: int) -> list[int]:
    """Images of every class; from the stored labels where the split has them, which decodes no image."""
    if split.num_classes is None:
        raise MixbitError(
            "the number of classes of the training split is not known, so no class can be chosen. Set "
            "label='mixed', or say it: mixbit.data.LoaderSplit(loader, num_classes=...)."
        )
    counts = torch.zeros(split.num_classes, dtype=torch.int64)
    stored = getattr(split, "labels", None)
    found = [stored] if isinstance(stored, Tensor) else (y for _, y in split.batches(batch_size))
    for labels in found:
        counts += torch.bincount(labels.to("cpu"), minlength=split.num_classes)
    return [int(count) for count in counts]


def _running_means(importance: Mapping[str, float | None]) -> dict[str, float | None]:
    """Mean of the importances from each layer to the end, as OMPQ weights its programme.

    >>> _running_means({"a": 1.0, "b": None, "c": 3.0})
    {'a': 2.0, 'b': None, 'c': 3.0}
    """
    total, count = 0.0, 0
    means: dict[str, float | None] = {}
    for name, value in reversed(list(importance.items())):
        if value is not None:
            total, count = total + value, count + 1
        means[name] = None if value is None else total / count
    return dict(reversed(list(means.items())))


def _row(one: MapEntropy) -> dict[str, Any]:
    plain = asdict(one)
    return {**plain, "shape": list(one.shape), "after": list(one.after), "normalised": one.te - one.null}


def _spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Rank correlation; None where one side is constant."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)
