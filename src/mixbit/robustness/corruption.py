"""Accuracy under common corruptions, by kind and severity, and the mean corruption error.

Hendrycks & Dietterich 2019 (arXiv:1903.12261), section 4: the error E of a model is measured at every kind c and
severity s of a corruption, and put in relation to that of a reference model:

    CE_c = sum_s E_(s,c) / sum_s E^ref_(s,c)        mCE = mean over c of CE_c
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, ClassVar

from torch import nn

from mixbit import _io
from mixbit.cost import LayerBits, costs
from mixbit.data import IndexedSplit, MixedQuality, Part, Quality, Split
from mixbit.data.corruption import (
    CLEAN,
    SEVERITIES,
    STANDARD_KINDS,
    Scale,
    check_severity,
    default_scale,
    level_of,
)
from mixbit.data.order import samples_of
from mixbit.errors import MixbitError, StaleRun
from mixbit.evaluation import evaluate
from mixbit.inference import Predictor
from mixbit.metric import ACCURACY, MetricInfo
from mixbit.network import Network
from mixbit.quantization import quantized_layers
from mixbit.task import Loss, Objective, cross_entropy

__all__ = ["BitUse", "CorruptionCell", "CorruptionReport", "evaluate_corruptions", "static_bits"]

_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class BitUse:
    """What a model used on the images of one cell, the mean over images; None where it is not known or in float."""

    weight_bits: float | None = None
    """Mean over the quantized layers."""
    activation_bits: float | None = None
    bitops: float | None = None
    """BitOps of one image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorruptionCell:
    """A model on images of one quality."""

    kind: str
    severity: int
    accuracy: float
    """Value of the task's metric, by default top-1 accuracy, 0 to 1."""
    loss: float
    bits: BitUse = BitUse()
    metric: MetricInfo = ACCURACY.info

    @property
    def error(self) -> float:
        """1 - accuracy, or of another share of one; a metric of which less is better is an error as it is.

        Raises:
            MixbitError: any other metric.
        """
        if self.metric.larger_is_better is False:
            return self.accuracy
        if self.metric.unit != "%":
            raise MixbitError(f"{self.metric.name!r} is no share of one, and no error either: there is no mCE of it.")
        return 1 - self.accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class CorruptionReport:
    """Accuracies of one model, clean and by kind and severity; of an interrupted evaluation, those known so far.

    >>> def report(clean: float, *errors: float) -> CorruptionReport:
    ...     cells = [CorruptionCell(kind="clean", severity=0, accuracy=1 - clean, loss=0.0)]
    ...     for s, error in enumerate(errors, start=1):
    ...         cells.append(CorruptionCell(kind="jpeg", severity=s, accuracy=1 - error, loss=0.0))
    ...     return CorruptionReport(kinds=("jpeg",), severities=(1, 2), seed=0, scale="cifar", samples=9,
    ...         cells=tuple(cells))
    >>> model, reference = report(0.1, 0.25, 0.35), report(0.1, 0.4, 0.4)
    >>> round(model.mean_error, 3)
    0.3
    >>> round(model.mean_corruption_error(reference), 3)             # 0.6 / 0.8
    0.75
    >>> round(model.relative_corruption_error(reference), 3)         # (0.6 - 0.2) / (0.8 - 0.2)
    0.667
    """

    FORMAT: ClassVar[str] = "mixbit-corruptions"
    VERSION: ClassVar[int] = 1

    kinds: tuple[str, ...]
    severities: tuple[int, ...]
    seed: int
    """Seed of the noise."""
    scale: Scale
    """Whose constants were taken: those of CIFAR-10-C or of ImageNet-C."""
    samples: int
    """Images behind every cell."""
    cells: tuple[CorruptionCell, ...] = ()

    @property
    def wanted(self) -> tuple[Quality, ...]:
        """All cells of a complete report: clean first, then kind by kind."""
        return (Quality(CLEAN), *(Quality(kind, severity) for kind in self.kinds for severity in self.severities))

    @property
    def missing(self) -> tuple[Quality, ...]:
        """The cells that are not known yet."""
        known = {Quality(cell.kind, cell.severity) for cell in self.cells}
        return tuple(quality for quality in self.wanted if quality not in known)

    def cell(self, kind: str, severity: int = 0) -> CorruptionCell:
        """The cell of a kind and severity.

        Raises:
            MixbitError: it is not known.
        """
        for found in self.cells:
            if (found.kind, found.severity) == (kind, severity):
                return found
        known = ", ".join(dict.fromkeys(found.kind for found in self.cells)) or "none"
        raise MixbitError(f"No cell {kind} {severity} in the report; its kinds are: {known}. Evaluate it first.")

    @property
    def metric(self) -> MetricInfo:
        """What all cells are values of."""
        return self.cells[0].metric if self.cells else ACCURACY.info

    @property
    def clean_accuracy(self) -> float:
        """Accuracy on the images as they are, 0 to 1."""
        return self.cell(CLEAN).accuracy

    def mean_accuracy_of(self, kind: str) -> float:
        """Mean accuracy over the severities of one kind, 0 to 1."""
        return fmean(self.cell(kind, severity).accuracy for severity in self.severities)

    @property
    def mean_accuracy(self) -> float:
        """Mean over kinds and severities, without the clean images, 0 to 1.

        Raises:
            MixbitError: cells are missing, here as in all means.
        """
        return fmean(self.mean_accuracy_of(kind) for kind in self._complete().kinds)

    @property
    def mean_error(self) -> float:
        """The unnormalised mean corruption error: the mean of the kinds' mean errors, of accuracies 1 - their mean."""
        return fmean(fmean(self.cell(k, s).error for s in self.severities) for k in self._complete().kinds)

    def mean_corruption_error(self, reference: CorruptionReport) -> float:
        """mCE, the mean over kinds of error by the reference's error; 1 is the reference (the paper writes 100 %).

        Args:
            reference: of another model, with the cells of this one; AlexNet in the paper.

        Raises:
            MixbitError: cells are missing, or the reference makes no error at all on a kind.
        """
        return self._in_relation(reference, clean=0.0, reference_clean=0.0)

    def relative_corruption_error(self, reference: CorruptionReport) -> float:
        """Relative mCE: as mCE, of the errors above those on clean images.

        Raises:
            MixbitError: cells are missing, or the reference loses nothing by a kind.
        """
        clean, other = self.cell(CLEAN).error, reference.cell(CLEAN).error
        return self._in_relation(reference, clean=clean, reference_clean=other)

    def _in_relation(self, reference: CorruptionReport, *, clean: float, reference_clean: float) -> float:
        ratios = []
        for kind in self._complete().kinds:
            own = sum(self.cell(kind, severity).error - clean for severity in self.severities)
            other = sum(reference.cell(kind, severity).error - reference_clean for severity in self.severities)
            if other == 0:
                raise MixbitError(f"The reference loses nothing by {kind}: no error to divide by. Leave {kind} out.")
            ratios.append(own / other)
        return fmean(ratios)

    def _complete(self) -> CorruptionReport:
        if self.missing:
            shown = ", ".join(f"{kind} {severity}" for kind, severity in self.missing[:_SHOWN])
            raise MixbitError(
                f"The report lacks {len(self.missing)} of {len(self.wanted)} cells: {shown}"
                f"{', ...' if len(self.missing) > _SHOWN else ''}. Go on with evaluate_corruptions(..., known=report)."
            )
        return self

    def to_json(self) -> str:
        """The report as versioned JSON text; `from_json` reads it back to an equal object."""
        content = {"format": self.FORMAT, "version": self.VERSION, **asdict(self)}
        return json.dumps(content, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> CorruptionReport:
        """Read what `to_json` wrote.

        Raises:
            MixbitError: no JSON, another format, a newer version, or a wrong value.
        """
        return _read(_io.parse_json(text, where="The corruption report"), "The text")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON, whole or not at all."""
        _io.write_text(path, self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CorruptionReport:
        """Read a report from a file.

        Raises:
            MixbitError: as `from_json`, or there is no such file.
        """
        return _read(_io.read_json(path), repr(str(path)))


def static_bits(model: nn.Module | Predictor, network: Network | None = None) -> BitUse:
    """Bits of a model whose bits do not depend on the input: those that its quantizers have selected.

    Args:
        model: quantized or not; a side that is in float counts as 32 bits, a model without quantizers as unknown, and
            so does a Predictor.
        network: what capture learned of it; without, BitOps stay unknown.
    """
    if not isinstance(model, nn.Module):
        return BitUse()
    layers = {
        name: LayerBits(
            None if layer.weight_quantizer is None else layer.weight_quantizer.selected,
            None if layer.input_quantizer is None else layer.input_quantizer.selected,
        )
        for name, layer in quantized_layers(model).items()
    }
    if not layers:
        return BitUse()
    everywhere = {} if network is None else {one.name: LayerBits(None, None) for one in network.layers}
    return BitUse(
        weight_bits=fmean(bits.weight_bits or 32 for bits in layers.values()),
        activation_bits=fmean(bits.activation_bits or 32 for bits in layers.values()),
        bitops=None if network is None else float(costs(network, everywhere | layers).bitops),
    )


def evaluate_corruptions(
    model: nn.Module | Predictor,
    split: Split,
    *,
    kinds: Sequence[str] = STANDARD_KINDS,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    scale: Scale | None = None,
    fraction: float = 1.0,
    batch_size: int = 256,
    loss: Loss | Objective = cross_entropy,
    measure_bits: Callable[[Any], BitUse] = static_bits,
    known: CorruptionReport | None = None,
    on_cell: Callable[[CorruptionReport], object] | None = None,
) -> CorruptionReport:
    """Accuracy of `model` on clean and on corrupted images, cell by cell.

    The noise of an image depends on `seed` and its index alone: all models that are compared see the same images.

    Args:
        model: on any device; its mode is put back; or whatever else gives logits, see `mixbit.inference.Predictor`.
        split: the clean test split, not a `MixedQuality`.
        kinds: corruptions, see `mixbit.data.corruption.KINDS`.
        severities: of every kind, out of 1 to 5.
        seed: of the noise.
        scale: whose constants; by image size if not given.
        fraction: take this share of the images, the same in every cell.
        batch_size: images at once.
        loss: see `mixbit.task.Loss`; or a task's `objective`, which brings its metric along.
        measure_bits: asked after every cell for the bits that were used. A model whose bits depend on its input counts
            them while it runs, and gives the mean since it was last asked.
        known: a report whose cells are taken over instead of being measured again; its other kinds are left out.
        on_cell: called with the report so far after every cell that was measured, e.g. to save it.

    Returns:
        The complete report.

    Raises:
        DataError: an unknown kind or severity, or a split whose images cannot be corrupted.
        StaleRun: `known` is of another seed, scale or number of images.
        MissingExtra: `jpeg` and `pixelate` need pillow.
    """
    clean = MixedQuality(split, (CLEAN,)).base  # refuses splits without bytes, and those that are corrupted already
    report = _empty(clean, kinds, severities, seed, scale, fraction)
    report = replace(report, cells=_taken_over(report, known))
    part = Part(clean, samples_of(len(clean), fraction, 0)) if fraction < 1 else clean
    for kind, severity in report.missing:
        shown = MixedQuality(part, (kind,), (severity or SEVERITIES[0],), seed=seed, scale=report.scale)
        found = evaluate(model, shown, batch_size=batch_size, loss=loss)
        cell = CorruptionCell(
            kind=kind,
            severity=severity,
            accuracy=found.value,
            loss=found.loss,
            bits=measure_bits(model),
            metric=found.info,
        )
        report = replace(report, cells=tuple(_ordered(report, (*report.cells, cell))))
        if on_cell is not None:
            on_cell(report)
    return report


def _empty(
    split: IndexedSplit,
    kinds: Sequence[str],
    severities: Sequence[int],
    seed: int,
    scale: Scale | None,
    fraction: float,
) -> CorruptionReport:
    """The report that will be, without cells; wrong arguments are found here, before anything is measured."""
    named = tuple(kind for kind in kinds if kind != CLEAN)  # clean is always measured
    if not named or len(set(named)) != len(named) or len(set(severities)) != len(severities) or not severities:
        raise MixbitError(f"kinds={list(kinds)}, severities={list(severities)}: name at least one, and none twice.")
    for kind in named:
        for severity in severities:
            check_severity(kind, severity)
    image, _ = next(split.batches(1))
    chosen = scale or default_scale(*image.shape[2:])
    level_of(named[0], severities[0], chosen)
    samples = len(samples_of(len(split), fraction, 0))
    return CorruptionReport(kinds=named, severities=tuple(severities), seed=seed, scale=chosen, samples=samples)


def _taken_over(report: CorruptionReport, known: CorruptionReport | None) -> tuple[CorruptionCell, ...]:
    if known is None:
        return ()
    for key in ("seed", "scale", "samples"):
        ours, theirs = getattr(report, key), getattr(known, key)
        if ours != theirs:
            raise StaleRun(
                f"The known corruption report has {key} {theirs!r}, this evaluation {ours!r}. "
                "Give the same settings, or begin anew without it."
            )
    return tuple(_ordered(report, known.cells))


def _ordered(report: CorruptionReport, cells: Sequence[CorruptionCell]) -> Iterator[CorruptionCell]:
    """Those cells that the report wants, in its order."""
    found = {Quality(cell.kind, cell.severity): cell for cell in cells}
    return (found[quality] for quality in report.wanted if quality in found)


def _read(content: Any, where: str) -> CorruptionReport:
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found != CorruptionReport.FORMAT:
        raise MixbitError(
            f"{where} is no corruption report: its format is {str(found)[:60]!r}, legal is {CorruptionReport.FORMAT!r}."
        )
    if content.get("version") != CorruptionReport.VERSION or isinstance(content.get("version"), bool):
        raise MixbitError(
            f"{where} is a corruption report of version {str(content.get('version'))[:60]}; this mixbit reads "
            f"{CorruptionReport.VERSION}. Evaluate again, or upgrade mixbit."
        )
    body = {key: value for key, value in content.items() if key not in ("format", "version")}
    return _io.as_record(body, CorruptionReport, where=f"{where}, a corruption report,", remedy="Evaluate again.")
