"""Post-training quantization by the Lp error of every tensor, then by the loss over all of them (LAPQ).

The steps are those of KURE's authors, who follow Nahshan et al. (arXiv 1911.07190): the steps of least Lp error for
three values of p; a parabola through the three results, whose best p is a fourth candidate; from the best of the four,
Powell's method and a pass of coordinate descent on the loss of the calibration images; and the best of all is kept.

The authors select by accuracy on the validation split, so their published figures are mildly optimistic. Here the test
split is never read: other training images than those of calibration are what is selected by.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor, nn

from mixbit._progress import progress_bar
from mixbit._settings import Count, Seed, check
from mixbit.errors import MixbitError
from mixbit.policy import Policy
from mixbit.ptq._joint import Watched, descend, powell
from mixbit.ptq._sites import Images, Judge, draw, find_sites, observe, scaled
from mixbit.quantization import QuantizeConfig, quantize
from mixbit.task import Task

__all__ = ["PTQConfig", "PTQResult", "Stage", "ptq"]

Method = Literal["minmax", "mse", "lp", "lapq"]
Grid = Literal["signed", "midrise"]
SelectBy = Literal["loss", "accuracy"]
Joint = Literal["powell", "coordinate", "both"]

_P_RANGE, _P_POINTS, _ITERATIONS = (1.0, 5.0), 50, 2
_PER_UNKNOWN = {"powell": 35, "coordinate": 9}  # evaluations, roughly, for the progress bar


@dataclass(frozen=True, slots=True, kw_only=True)
class PTQConfig:
    """Settings of post-training quantization.

    Attributes:
        method: "minmax" (nothing is clipped), "mse" (least squared error), "lp" (least Lp error, the best p), or "lapq"
            (from there on by the loss, all steps together).
        p: candidates of the exponent; more than two of them give a further one by `parabola`.
        parabola: also try the best p of a parabola through the candidates' results, between 1 and 5.
        joint: what "lapq" does: "powell" (two iterations), "coordinate" (one pass of descent) or "both", each from the
            best p.
        max_evaluations: evaluations of the loss for each of the two; None for no limit.
        grid: levels of weights: "signed" integers, which can be exported, or "midrise", the paper's.
        per_channel: one step an output channel for weights; the joint stage then moves those of a layer by one factor
            (our completion). The paper has one step a tensor.
        bias_correction: shift quantized weights to the means of the float ones, see `mixbit.ptq.correct_bias`.
        samples: training images of the layer-wise stage and of the joint loss.
        selection_samples: other training images, by which candidates are selected.
        select_by: "loss" or "accuracy" on them; the latter is the task's metric, whichever that is. The authors use
            accuracy; the loss tells more on few images (ours).
        batch_size: images that go through the network together.
        seed: of the choice of images.

    Raises:
        MixbitError: a setting is not legal.
    """

    method: Method = "lp"
    p: tuple[float, ...] = (2.0, 2.5, 3.0)
    parabola: bool = True
    joint: Joint = "both"
    max_evaluations: Count | None = None
    grid: Grid = "signed"
    per_channel: bool = False
    bias_correction: bool = False
    samples: Count = 512
    selection_samples: Count = 512
    select_by: SelectBy = "loss"
    batch_size: Count = 256
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        low, high = _P_RANGE
        if not self.p or len(set(self.p)) != len(self.p) or not all(low <= p <= high for p in self.p):
            raise MixbitError(
                f"p={self.p} is illegal. Legal: at least one number from {low:g} to {high:g}, none twice."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A candidate that was tried.

    Attributes:
        name: "minmax", "p=2", ..., "powell" or "coordinate".
        calibration_loss: mean loss on the calibration images; None but for "lapq", which is all that looks at it.
        loss: mean loss on the images that candidates are selected by.
        accuracy: the task's metric on them, by default top-1 accuracy, 0 to 1.
        evaluations: passes of either set of images through the network for this candidate.
    """

    name: str
    calibration_loss: float | None
    loss: float
    accuracy: float
    evaluations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PTQResult:
    """The model that `ptq` quantized, and what was tried on the way.

    Attributes:
        model: a quantized copy of the task's model, in evaluation mode.
        chosen: name of the stage that was kept.
        p: exponent of the layer-wise steps behind it; None for "minmax".
        steps: layer and side, e.g. "layer1.0.conv1 (weight)", -> step sizes, one or one a channel.
        stages: all candidates, in the order in which they were tried.
        evaluations: passes of calibration or selection images through the network, in all.
        notes: what stays in float, and why; what had to be done otherwise.
    """

    model: nn.Module
    chosen: str
    p: float | None
    steps: dict[str, list[float]]
    stages: tuple[Stage, ...]
    evaluations: int
    notes: tuple[str, ...]


def ptq(task: Task, policy: Policy, config: PTQConfig = PTQConfig(), *, quiet: bool = False) -> PTQResult:
    """Quantize a copy of the task's model by `policy`, without training.

    The float model's inputs to every layer are seen once, on the calibration images. Step sizes of inputs and weights
    are then found tensor by tensor, and with "lapq" moved together. Batch norm stays as it is.

    Args:
        task: its model is not changed; only its training split is read.
        policy: layer -> bits; a side without bits stays in float.
        config: settings.
        quiet: no progress bar.

    Raises:
        PolicyError: the policy is of another model.
        MixbitError: a value that is not finite, or a policy that leaves everything in float.
    """
    model = copy.deepcopy(task.model).eval()
    kinds = QuantizeConfig(
        per_channel=config.per_channel,
        gradient_scale="none",
        weight_rule="minmax",
        weights="midrise" if config.grid == "midrise" else "lsq",
    )
    notes = [f"{one.name}: {one.reason}" for one in quantize(model, policy, task.network, kinds)]
    sites = find_sites(model)
    if not sites:
        raise MixbitError("the policy leaves every layer in float. Give at least one of them bits.")
    calibration, selection = draw(
        task, config.samples, config.selection_samples, batch_size=config.batch_size, seed=config.seed
    )
    observe(model, sites, calibration)
    judge = Judge(model, sites, task.objective, correct=config.bias_correction)
    search = _Search(judge, calibration, selection or calibration, config, quiet)
    best = search.run()
    judge.set(best.steps)
    if not selection:
        notes.append("the training split has one image: candidates were selected by what they were calibrated on")
    return PTQResult(
        model=model,
        chosen=best.stage.name,
        p=best.p,
        steps={site.name: step.flatten().tolist() for site, step in zip(sites, best.steps, strict=True)},
        stages=tuple(found.stage for found in search.found),
        evaluations=judge.evaluations,
        notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    stage: Stage
    steps: list[Tensor] = field(repr=False)
    p: float | None


class _Search:
    """All candidates, one after the other."""

    def __init__(self, judge: Judge, calibration: Images, selection: Images, config: PTQConfig, quiet: bool) -> None:
        self._judge, self._config, self._quiet = judge, config, quiet
        self._calibration, self._selection = calibration, selection
        self.found: list[_Candidate] = []

    def run(self) -> _Candidate:
        """The best of all."""
        for p in self._first():
            self._layer_wise(p)
        further = self._further()
        if further is not None:
            self._layer_wise(further)
        if self._config.method == "lapq":
            start = self._best()
            for name in ("powell", "coordinate"):
                if self._config.joint in (name, "both"):
                    self._together(name, start)
        return self._best()

    def _first(self) -> Sequence[float | None]:
        return {"minmax": (None,), "mse": (2.0,)}.get(self._config.method, self._config.p)

    def _further(self) -> float | None:
        """The best p of a parabola through the results so far, if it is a new one."""
        points = [(found.p, self._merit(found.stage)) for found in self.found if found.p is not None]
        if not self._config.parabola or len(points) < 3:
            return None
        p = best_of_parabola(points)
        return None if any(math.isclose(p, old, abs_tol=1e-3) for old, _ in points) else p

    def _layer_wise(self, p: float | None) -> None:
        steps = [site.step(p) for site in self._judge.sites]
        self._judge.set(steps)
        self._put("minmax" if p is None else f"p={p:.4g}", steps, p, before=self._judge.evaluations)

    def _together(self, name: str, start: _Candidate) -> None:
        before = self._judge.evaluations
        function = self._judge.along(start.steps, self._calibration)
        limit, unknowns = self._config.max_evaluations, len(start.steps)
        expected = _PER_UNKNOWN[name] * unknowns
        with progress_bar(name, min(limit or expected, expected), quiet=self._quiet) as advance:
            watched = Watched(function, unknowns, limit, lambda least: advance(1, f"loss {least:.4f}"))
            if name == "powell":
                powell(watched, _ITERATIONS)
            else:
                descend(watched)
        steps = scaled(start.steps, watched.best.tolist())
        self._judge.set(steps)
        self._put(name, steps, start.p, before=before)

    def _put(self, name: str, steps: list[Tensor], p: float | None, *, before: int) -> None:
        """Judge what is set, and remember it."""
        joint = self._config.method == "lapq"
        calibration = self._judge.score(self._calibration).loss if joint else None
        held_out = self._judge.score(self._selection)
        stage = Stage(
            name=name,
            calibration_loss=calibration,
            loss=held_out.loss,
            accuracy=held_out.accuracy,
            evaluations=self._judge.evaluations - before,
        )
        self.found.append(_Candidate(stage=stage, steps=steps, p=p))

    def _best(self) -> _Candidate:
        return max(self.found, key=lambda found: self._merit(found.stage))

    def _merit(self, stage: Stage) -> float:
        """Higher is better; a loss that is not finite is worst."""
        by_metric = self._config.select_by == "accuracy"
        merit = self._judge.objective.info.gain(stage.accuracy, 0.0) if by_metric else -stage.loss
        return merit if math.isfinite(merit) else -1e30


def best_of_parabola(points: Sequence[tuple[float, float]]) -> float:
    """The p between 1 and 5 (of 50) at which the parabola through `(p, merit)` is highest.

    >>> round(best_of_parabola([(2.0, 0.70), (2.5, 0.72), (3.0, 0.70)]), 1)
    2.5
    """
    p, merit = np.array(points).T
    tried = np.linspace(*_P_RANGE, _P_POINTS)
    return float(tried[np.argmax(np.polyval(np.polyfit(p, merit, 2), tried))])
