"""HAWQ-V2 and HAWQ-V3: average Hessian trace times squared quantization error (Dong et al., NeurIPS 2020; Yao et al.,
ICML 2021).

The loss rises by about `dW . H dW / 2` when a layer's weight moves by `dW`. With the average
eigenvalue in the place of all of them that is, up to a factor, `Omega = (Tr(H) / n) * ||Q(W) - W||^2`.
V2 asks the same of inputs; V3 gives a layer's weight and input the same bits and scores the weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mixbit import _batch
from mixbit._progress import progress_bar
from mixbit._settings import Bits, Count, Positive, Seed, check
from mixbit.methods._baseline import ladder, make_scores
from mixbit.methods._settings import plain_settings
from mixbit.methods.registry import register
from mixbit.network import Layer
from mixbit.policy import LayerScores, Program, Scores, Side
from mixbit.quantizers import RuleName
from mixbit.sensitivity.curvature import (
    Hutchinson,
    Key,
    Mean,
    Rows,
    Taps,
    elements,
    listed,
    measured_noise,
    not_scored,
    sample,
)
from mixbit.sensitivity.measuring import contents
from mixbit.sensitivity.perturbation import Perturbation
from mixbit.task import Task

__all__ = ["HawqV2", "HawqV3", "omega"]

STATE = "traces.jsonl"
COUNTS = ("images", "batch_size", "draws", "calibration_images")


def omega(average_trace: float, squared_error: float) -> float:
    """`(Tr(H) / n) * ||Q(t) - t||^2` of a tensor `t` of `n` elements; a trace below zero counts as zero.

    Args:
        average_trace: `Tr(H) / n`.
        squared_error: sum of squared quantization errors.

    The first layer of HAWQ-V3's released ResNet-18 arrays, 4 bits against 8:

    >>> round(omega(0.06857826, 6.7430) - omega(0.06857826, 0.0235), 6)
    0.460812
    """
    return max(average_trace, 0.0) * squared_error


@register("hawq-v2", "Hessian trace times quantization error", source="Dong et al., NeurIPS 2020", cost="curvature")
@dataclass(frozen=True, slots=True, kw_only=True)
class HawqV2:
    """HAWQ-V2: `Omega` of weights and of inputs; traces by Hutchinson's method.

    Attributes:
        bits: candidate bit-widths of weights and inputs.
        activations: also score inputs, by the Hessian of a sample's loss in its own input of the layer, averaged over
            samples. False keeps every input at the most of `bits`.
        monotone: only policies in which weights of smaller average trace have no more bits, as the paper's Pareto
            selection enumerates, and inputs of smaller average trace of their own no more either (our reading; they are
            free where inputs are not scored); else the exact optimum over all.
        images: training images that the traces are of, full batches only.
        batch_size: images of a draw. In smaller batches fewer images share a vector, so the same work has less noise.
        draws: at most so many, each of one batch and one vector a tensor; further draws go through the images again.
        tolerance: stop when a draw moves no tensor's mean trace by more than this part of it (PyHessian: 1e-3, on the
            whole network's trace).
        joint: one vector and one product for all tensors of a draw together; each trace has the noise of all of them.
        weight_rule: step sizes of weights; "minmax" clips nothing.
        activation_rule: step sizes of inputs.
        per_channel: one step size an output channel of weights.
        calibration_images: of the images, those that give step sizes and errors of inputs.
        first_last: also score the first and the last layer.
        seed: of images and vectors.
    """

    bits: tuple[Bits, ...] = (8, 6, 5, 4, 3, 2)
    activations: bool = True
    monotone: bool = False
    images: Count = 512
    batch_size: Count = 32
    draws: Count = 32
    tolerance: Positive = 1e-3
    joint: bool = False
    weight_rule: RuleName = "minmax"
    activation_rule: RuleName = "minmax"
    per_channel: bool = True
    calibration_images: Count = 64
    first_last: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        ladder(self.bits)

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        """Estimate the traces on a copy of the model and combine them with the errors of every bit-width."""
        found = _measure(task, self, ("weight", "activation") if self.activations else ("weight",), run, quiet)
        still = {max(self.bits): 0.0}
        layers = {
            layer.name: LayerScores(
                found.curve(layer, "weight"), found.curve(layer, "activation") if self.activations else still
            )
            for layer in found.layers
        }
        program = Program()
        if self.monotone:
            inputs = found.by_trace("activation") if self.activations else ()
            program = Program(order=found.by_trace("weight"), activation_order=inputs)
        return make_scores(
            task.network, self, method="hawq-v2", layers=layers, program=program, found=found.report(task, self)
        )


@register("hawq-v3", "HAWQ's weight scores, one bit-width a layer", source="Yao et al., ICML 2021", cost="curvature")
@dataclass(frozen=True, slots=True, kw_only=True)
class HawqV3:
    """HAWQ-V3's integer program: `Omega` of weights alone; weight and input of a layer have the same bits.

    Layers that read one tensor share its bits, and with them those of their weights: the first convolution of a block
    and its downsample convolution, as in the released code.

    Attributes as in `HawqV2`.
    """

    bits: tuple[Bits, ...] = (8, 4)
    images: Count = 512
    batch_size: Count = 32
    draws: Count = 32
    tolerance: Positive = 1e-3
    joint: bool = False
    weight_rule: RuleName = "minmax"
    per_channel: bool = True
    calibration_images: Count = 64
    first_last: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        ladder(self.bits)

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        """Estimate the traces on a copy of the model and combine them with the errors of every bit-width."""
        found = _measure(task, self, ("weight",), run, quiet)
        free = dict.fromkeys(self.bits, 0.0)
        layers = {layer.name: LayerScores(found.curve(layer, "weight"), dict(free)) for layer in found.layers}
        return make_scores(
            task.network,
            self,
            method="hawq-v3",
            layers=layers,
            program=Program(coupled=True),
            found=found.report(task, self),
        )


Settings = HawqV2 | HawqV3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """Traces and mean squared errors of the scored layers."""

    layers: tuple[Layer, ...]
    traces: Mapping[Key, Mean]
    noise: Mapping[Key, Mapping[int, float]]
    images: int
    """Of the batches that were drawn."""

    def curve(self, layer: Layer, side: Side) -> dict[int, float]:
        """`omega` at every bit-width."""
        count, trace = elements(layer, side), self.traces[layer.name, side].value
        return {bits: omega(trace / count, power * count) for bits, power in self.noise[layer.name, side].items()}

    def by_trace(self, side: Side) -> tuple[str, ...]:
        """Layers by falling average trace of that side."""
        average = {layer.name: self.traces[layer.name, side].value / elements(layer, side) for layer in self.layers}
        return tuple(sorted(average, key=lambda name: -average[name]))

    def report(self, task: Task, settings: Settings) -> dict[str, object]:
        """What goes into the settings of the scores beside those of the method."""
        draws = next(iter(self.traces.values())).count
        return {
            "traces": listed(self.layers, self.traces),
            "draws_made": draws,
            "images_used": self.images,
            "settled": draws < settings.draws,
            "negative_traces": [
                f"{name}, {side}: {mean.value:.4g}, counted as 0"
                for (name, side), mean in self.traces.items()
                if mean.value < 0
            ],
            "not_scored": not_scored(task, self.layers, first_last=settings.first_last),
        }


def _measure(task: Task, settings: Settings, sides: Sequence[Side], run: Path | None, quiet: bool) -> _Found:
    batches = sample(task, settings.images, settings.batch_size, settings.seed)
    x, _ = _batch.first_samples(((images, None) for images, _ in batches), settings.calibration_images)
    inputs = settings.bits if "activation" in sides else ()
    perturbation = Perturbation(
        task,
        settings.bits,
        inputs,
        x,
        first_last=settings.first_last,
        per_channel=settings.per_channel,
        weight_rule=settings.weight_rule,
        activation_rule=settings.activation_rule if isinstance(settings, HawqV2) else "minmax",
    )
    taps = Taps(perturbation, task.loss, sides)
    facts = {"fingerprint": task.network.fingerprint, "sides": list(sides), **plain_settings(settings)}
    rows = Rows(taps.keys, None if run is None else run / STATE, facts | contents(task.model, batches))
    hutchinson = Hutchinson(
        draws=settings.draws, tolerance=settings.tolerance, joint=settings.joint, seed=settings.seed
    )
    with progress_bar("Hessian traces", settings.draws, quiet=quiet) as advance:
        traces = hutchinson.traces(taps, batches, rows, advance)
    return _Found(
        layers=perturbation.layers,
        traces=traces,
        noise=measured_noise(perturbation, taps.keys, x),
        images=sum(_batch.samples(images) for images, _ in batches[: next(iter(traces.values())).count]),
    )
