"""The quantizers of a model as one vector of unknowns: what is rounded by each, and how good the whole is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mixbit import _batch
from mixbit.errors import MixbitError
from mixbit.evaluation import Count
from mixbit.ptq._joint import Floats
from mixbit.ptq.bias import correct_bias
from mixbit.ptq.lp import Levels, Sketch, lp_step, widest_step
from mixbit.quantization import quantized_layers
from mixbit.quantizers import MidRise, Quantizer
from mixbit.task import Objective, Task

Images = list[tuple[Any, Any]]
"""Batches of inputs and targets."""


@dataclass(slots=True, kw_only=True)
class Site:
    """One quantizer, and the values that it rounds."""

    name: str
    bank: Quantizer
    levels: Levels
    rows: Tensor | None = None
    """Values of a weight `(C, n)`, as many rows as steps."""
    sketch: Sketch = field(default_factory=Sketch)
    """What the float network puts into an input."""

    def step(self, p: float | None) -> Tensor:
        """The step of least Lp error `(C,)`; None for the one of which nothing is clipped."""
        rows, weights = (self.rows, None) if self.rows is not None else self.sketch.rows()
        bits = self.bank.bits[0]
        found = widest_step(rows, bits, self.levels) if p is None else self._search(rows, bits, p, weights)
        return found.to(self.bank.steps.device)

    def _search(self, rows: Tensor, bits: int, p: float, weights: Tensor | None) -> Tensor:
        try:
            return lp_step(rows, bits, self.levels, p=p, weights=weights)
        except MixbitError as error:
            raise MixbitError(f"{self.name}: {error}") from error


def find_sites(model: nn.Module) -> list[Site]:
    """All quantizers of a model with one bit-width each, weights and inputs, in the order of its layers."""
    found = []
    for name, layer in quantized_layers(model).items():
        for side, bank in (("weight", layer.weight_quantizer), ("input", layer.input_quantizer)):
            if bank is not None:
                rows = _weight(layer).reshape(bank.channels, -1) if side == "weight" else None
                found.append(Site(name=f"{name} ({side})", bank=bank, levels=_levels(bank), rows=rows))
    return found


def _weight(layer: nn.Module) -> Tensor:
    found = layer.in_proj_weight if isinstance(layer, nn.MultiheadAttention) else layer.weight
    assert isinstance(found, Tensor)
    return found.detach()


def _levels(bank: Quantizer) -> Levels:
    if isinstance(bank, MidRise):
        return "midrise"
    return "signed" if bank.signed else "unsigned"


@torch.no_grad()
def observe(model: nn.Module, sites: Sequence[Site], images: Images) -> None:
    """Fill the sketches of all inputs in one pass of the images through the float network."""

    def see(site: Site, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        try:
            site.sketch.add(inputs[0])
        except MixbitError as error:
            raise MixbitError(f"{site.name}: {error}") from error

    handles = [s.bank.register_forward_pre_hook(partial(see, s)) for s in sites if s.rows is None]
    for site in sites:
        site.bank.bypass = True
    try:
        for x, _ in images:
            _batch.call(model, x)
    finally:
        for handle in handles:
            handle.remove()
        for site in sites:
            site.bank.bypass = False


@dataclass(frozen=True, slots=True)
class Score:
    """Loss and metric of a model on some images."""

    loss: float
    accuracy: float
    """Value of the task's metric, by default top-1 accuracy."""


class Judge:
    """Sets steps, and says how good the model then is; counts how often it was asked.

    Args:
        model: with quantizers on.
        sites: its quantizers.
        objective: of the task.
        correct: correct the weights' means whenever steps are set.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site], objective: Objective, *, correct: bool) -> None:
        self.model, self.sites, self.objective, self._correct = model, list(sites), objective, correct
        self.evaluations = 0

    @torch.no_grad()
    def set(self, steps: Sequence[Tensor]) -> None:
        """Give every quantizer its steps `(C,)`."""
        for site, step in zip(self.sites, steps, strict=True):
            site.bank.steps.copy_(step.view(1, -1))
            site.bank.ready.fill_(True)
        if self._correct:
            correct_bias(self.model)

    @torch.no_grad()
    def score(self, images: Images) -> Score:
        """Mean loss and the task's metric with the steps that are set."""
        self.evaluations += 1
        count = Count(next(self.model.parameters()).device)
        for x, y in images:
            count.add(self.objective, _batch.call(self.model, x), y, _batch.samples(x))
        found = count.local(self.objective)
        return Score(found.loss, found.value)

    def along(self, steps: Sequence[Tensor], images: Images) -> Callable[[Floats], float]:
        """The loss as a function of the logarithms by which the steps of each site are multiplied."""

        def loss(logs: Floats) -> float:
            self.set(scaled(steps, logs.tolist()))
            return self.score(images).loss

        return loss


def scaled(steps: Sequence[Tensor], logs: Sequence[float]) -> list[Tensor]:
    """Steps times factors, given by their logarithms."""
    return [step * math.exp(log) for step, log in zip(steps, logs, strict=True)]


def draw(task: Task, samples: int, others: int, *, batch_size: int, seed: int) -> tuple[Images, Images]:
    """Training images to calibrate on and others to select by, from one shuffled pass without augmentation.

    Where the split has too few for both, each gets its share.
    """
    total = samples + others
    if len(task.train) < total:
        samples = max(1, len(task.train) * samples // total)
        others = len(task.train) - samples
    count = samples + others
    batches = task.train.batches(min(count, 256), seed=seed, shuffle=True, augment=False)
    x, y = _batch.move(_batch.first_samples(batches, count), task.device)
    parts = (_batch.cut(x, y, _batch.samples(x), part) for part in (slice(samples), slice(samples, count)))
    first, second = (list(_batch.cut_all(*part, batch_size)) for part in parts)
    return first, second
