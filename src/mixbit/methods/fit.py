"""FIT: trace of the empirical Fisher matrix times the power of quantization noise (Zandonati et al., ICLR 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mixbit import _batch
from mixbit._progress import progress_bar
from mixbit._settings import Bits, Count, Seed, check
from mixbit.methods._baseline import ladder, make_scores
from mixbit.methods.registry import register
from mixbit.policy import LayerScores, Scores
from mixbit.quantizers import RuleName
from mixbit.sensitivity.curvature import (
    Key,
    Taps,
    fisher_traces,
    listed,
    measured_noise,
    not_scored,
    range_noise,
    sample,
    uniform_noise,
)
from mixbit.sensitivity.perturbation import Perturbation
from mixbit.task import Task

__all__ = ["Fit", "NoiseModel"]

NoiseModel = Literal["uniform", "measured", "range"]
"""`step^2 / 12`, the mean squared quantization error, or `((max - min) / (2^b - 1))^2` as in the public code."""


@register(
    "fit",
    "empirical Fisher trace times noise power",
    source="Zandonati et al., ICLR 2023, arXiv 2210.08502",
    cost="gradient",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """FIT: `Tr(F) * E[noise^2]` of the weight and of the input of every layer.

    `F` is the empirical Fisher matrix: the mean over samples of the outer product of a sample's own gradient, so its
    trace is the mean of the squared gradient norm. An error of power `p` an element moves the loss by about
    `Tr(F) * p / 2`; the half is the same everywhere. Both sides are in one unit, so no `alpha` balances them.

    Attributes:
        bits: candidate bit-widths of weights and inputs.
        images: training images, one forward and one backward pass each.
        noise: "uniform" takes `step^2 / 12`, with the step of each channel (ours); "measured" the mean squared
            quantization error (ours), which knows of clipping, and of the zeros behind a ReLU, that have no error;
            "range" `((max - min) / (2^b - 1))^2` of the whole tensor, as the public code.
        weight_rule: step sizes of weights; "minmax" clips nothing.
        activation_rule: step sizes of inputs.
        per_channel: one step size an output channel of weights.
        calibration_images: of the images, those that give step sizes and measured errors of inputs.
        first_last: also score the first and the last layer.
        seed: of the images.
    """

    bits: tuple[Bits, ...] = (8, 6, 5, 4, 3, 2)
    images: Count = 512
    noise: NoiseModel = "uniform"
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
        """Gradients of single samples on a copy of the model; `run` is not needed."""
        batches = sample(task, self.images, 1, self.seed)
        x = _batch.join([one for one, _ in batches[: self.calibration_images]])
        perturbation = self._perturbation(task, x)
        taps = Taps(perturbation, task.loss, ("weight", "activation"))
        with progress_bar("gradients", len(batches), quiet=quiet) as advance:
            traces = fisher_traces(taps, batches, advance)
        noise = self._noise(perturbation, taps.keys, x)
        scores = {key: {b: traces[key].value * power for b, power in noise[key].items()} for key in taps.keys}
        layers = {
            layer.name: LayerScores(scores[layer.name, "weight"], scores[layer.name, "activation"])
            for layer in perturbation.layers
        }
        return make_scores(
            task.network,
            self,
            method="fit",
            layers=layers,
            found={
                "traces": listed(perturbation.layers, traces),
                "images_used": len(batches),
                "not_scored": not_scored(task, perturbation.layers, first_last=self.first_last),
            },
        )

    def _noise(self, perturbation: Perturbation, keys: Sequence[Key], x: Any) -> dict[Key, dict[int, float]]:
        """Power of the error of every tensor at every bit-width."""
        if self.noise == "uniform":
            return uniform_noise(perturbation, keys)
        return (measured_noise if self.noise == "measured" else range_noise)(perturbation, keys, x)

    def _perturbation(self, task: Task, x: torch.Tensor) -> Perturbation:
        return Perturbation(
            task,
            self.bits,
            self.bits,
            x,
            first_last=self.first_last,
            per_channel=self.per_channel,
            weight_rule=self.weight_rule,
            activation_rule=self.activation_rule,
        )
