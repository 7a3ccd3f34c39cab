"""MPQ-CO: the quadratic form of the loss in the quantization error itself, from gradients of single samples
(arXiv 2110.06554).

Where the Hessian is taken as the mean of the outer products of `grad log p_y`, the rise of the loss by an error `dW` is
`dW . H dW / 2`, which is the mean of `((grad p_y . dW) / p_y)^2 / 2`. Unlike a trace it sees where the error points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mixbit import _batch
from mixbit._progress import progress_bar
from mixbit._settings import Bits, Count, Seed, check
from mixbit.cost import LayerBits
from mixbit.data import Batch
from mixbit.methods._baseline import ladder, make_scores
from mixbit.methods.registry import register
from mixbit.policy import LayerScores, Scores
from mixbit.quantizers import RuleName
from mixbit.sensitivity.curvature import Key, Mean, Taps, not_scored, sample, sample_gradients
from mixbit.sensitivity.perturbation import Perturbation
from mixbit.task import Task

__all__ = ["MpqCo"]


@register(
    "mpq-co", "squared slope of log p along the quantization error", source="Chen et al., ICCV 2021", cost="gradient"
)
@dataclass(frozen=True, slots=True, kw_only=True)
class MpqCo:
    """MPQ-CO: `(1 / 2N) * sum over samples of ((grad p_y . dW) / p_y)^2` for `dW = Q(W) - W`.

    `p_y` is the softmax probability of the sample's label, so `grad p_y / p_y` is minus the gradient of its cross
    entropy; that of the task's own loss is taken. The same with the error of the sample's own input of a layer is our
    completion. The paper solves the choice greedily; here it is solved exactly.

    Attributes:
        bits: candidate bit-widths of weights and inputs.
        activations: also score inputs (ours). False keeps every input at the most of `bits`.
        images: training images, one forward and one backward pass each.
        weight_rule: step sizes of weights; "minmax" clips nothing.
        activation_rule: step sizes of inputs.
        per_channel: one step size an output channel of weights.
        calibration_images: of the images, those that give step sizes of inputs.
        first_last: also score the first and the last layer.
        seed: of the images.
    """

    bits: tuple[Bits, ...] = (8, 6, 5, 4, 3, 2)
    activations: bool = True
    images: Count = 512
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
        perturbation = self._perturbation(task, _batch.join([x for x, _ in batches[: self.calibration_images]]))
        harm = self._harm(task, perturbation, batches, quiet)
        still = {max(self.bits): 0.0}
        layers = {
            layer.name: LayerScores(
                {bits: mean.value for bits, mean in harm[layer.name, "weight"].items()},
                {bits: mean.value for bits, mean in harm[layer.name, "activation"].items()}
                if self.activations
                else still,
            )
            for layer in perturbation.layers
        }
        return make_scores(
            task.network,
            self,
            method="mpq-co",
            layers=layers,
            found={
                "standard_errors": _errors(harm),
                "images_used": len(batches),
                "not_scored": not_scored(task, perturbation.layers, first_last=self.first_last),
            },
        )

    def _perturbation(self, task: Task, x: Tensor) -> Perturbation:
        return Perturbation(
            task,
            self.bits,
            self.bits if self.activations else (),
            x,
            first_last=self.first_last,
            per_channel=self.per_channel,
            weight_rule=self.weight_rule,
            activation_rule=self.activation_rule,
        )

    def _harm(
        self, task: Task, perturbation: Perturbation, batches: Sequence[Batch], quiet: bool
    ) -> dict[Key, dict[int, Mean]]:
        """Mean over samples of half the squared slope, of every tensor at every bit-width."""
        taps = Taps(perturbation, task.loss, ("weight", "activation") if self.activations else ("weight",))
        fixed = {name: self._weight_errors(perturbation, name) for name, side in taps.keys if side == "weight"}
        squares: dict[Key, list[Tensor]] = {key: [] for key in taps.keys}
        with progress_bar("gradients", len(batches), quiet=quiet) as advance:
            for one in sample_gradients(taps, batches):
                for key, gradient in one.gradients.items():
                    name, side = key
                    error = fixed[name] if side == "weight" else self._input_errors(perturbation, name, one.tensors)
                    slopes = error @ gradient.flatten()
                    squares[key].append(slopes.double().square().cpu() / 2)
                advance(1, "")
        return {
            key: {bits: Mean.of(column) for bits, column in zip(self.bits, torch.stack(rows).T.tolist(), strict=True)}
            for key, rows in squares.items()
        }

    @torch.no_grad()
    def _weight_errors(self, perturbation: Perturbation, name: str) -> Tensor:
        """`Q_b(W) - W`, one row a bit-width."""
        weight = perturbation.weight(name).detach()
        return torch.stack([(perturbation.quantized_weight(name, bits) - weight).flatten() for bits in self.bits])

    @torch.no_grad()
    def _input_errors(self, perturbation: Perturbation, name: str, tensors: Mapping[Key, Tensor]) -> Tensor:
        """The same of a sample's own input of the layer."""
        tensor, bank, rows = tensors[name, "activation"].detach(), perturbation.input_bank(name), []
        for bits in self.bits:
            with perturbation.chosen({name: LayerBits(None, bits)}):
                rows.append((bank(tensor) - tensor).flatten())
        return torch.stack(rows)


def _errors(harm: Mapping[Key, Mapping[int, Mean]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Standard errors as they go into a score file: layer -> side -> bits."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for (name, side), curve in harm.items():
        found.setdefault(name, {})[side] = {str(bits): mean.error for bits, mean in curve.items()}
    return found
