"""ARQ: bits by reinforcement learning whose reward is the certified radius of the smoothed network.

Yang, Zhao, Ugare, Singh and Misailovic, "ARQ: A Mixed-Precision Quantization Framework for Accurate and Certifiably
Robust DNNs" (arXiv:2410.24214). Built from what it is built from: HAQ's agent, randomized smoothing, and incremental
certificates; its full text and its code were not to be had.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mixbit import _batch
from mixbit._progress import progress_bar
from mixbit._settings import Count, Positive, check
from mixbit.attacks import InputGrid
from mixbit.certification import (
    Certificate,
    Certified,
    Incremental,
    Smoothing,
    anchor,
    certify_incrementally,
    need_cover,
)
from mixbit.certification.incremental import Anchor, facts, need_certified
from mixbit.certification.smoothing import predictions
from mixbit.cost import Budget
from mixbit.data import IndexedSplit, Part, clean_of
from mixbit.data.order import generator
from mixbit.errors import MixbitError
from mixbit.inference import TorchPredictor
from mixbit.integer.arithmetic import Grid
from mixbit.ledger import Ledger, content_of
from mixbit.methods._baseline import ladder
from mixbit.methods._episodes import Episodic, Search
from mixbit.methods._tuning import tuning
from mixbit.methods._walk import Walk
from mixbit.methods.registry import register
from mixbit.policy import Policy, Terms
from mixbit.quantization import QuantizeConfig, calibrate, quantize, quantized_layers
from mixbit.quantizers import Quantizer
from mixbit.sensitivity.measuring import contents
from mixbit.task import Task

__all__ = ["Arq"]

_OWN_NOISE = 1 << 62
"""Noise of a search is none that a certificate of the same seed has."""
_DRAW = 23
_POINTS = 100 * 0.1
"""HAQ's reward of a share: a tenth for each point."""
_NEAR = 1e-9
_NAMES = {"radius": "average_radius", "certified": "certified_accuracy", "noisy": "noisy_accuracy"}


@register(
    "arq",
    "an agent chooses bits layer by layer, rewarded by the certified radius",
    source="Yang et al., 2024",
    cost="forward",
    kind="policy",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Arq(Episodic):
    """HAQ's search, with a reward that is certified: how far noise on images of training is proven harmless.

    The float network is certified once, as the anchor: all of its answers to `n` noisy copies of each image are kept.
    Each policy is calibrated on noisy images, and shown the first `samples` of the same copies: what both networks
    agree in passes on. The reward is `kappa * (R - R0) / R0`, with the average certified radius `R` of the policy and
    `R0` of the anchor. Certificates of a search say which policy to take, and are none of the result: it was chosen by
    them. Make those with `mixbit certify`, on test images and with other noise.

    The network must stand noise, and the training images that calibrate must have it: name them `?noise=SIGMA`, or give
    a task whose training split is a `mixbit.data.NoisySplit`.

    Attributes:
        sigma: standard deviation of the noise, in the unit of the input space; None takes that of the training images,
            and another than theirs is refused.
        bits: see `Haq`, as all up to `share_bits`.
        episodes: see `Haq`.
        warmup: see `Haq`.
        noise_decay: of the agent's noise, see `Haq`.
        action_map: see `Haq`.
        share_bits: see `Haq`.
        within: see `Haq`.
        fill: see `Haq`.
        reward: "radius"; "certified", the certified accuracy at `radius` in place of the average radius, since an
            average counts easy images most; or "noisy", HAQ's reward of the accuracy under the same noise, a tenth for
            each point.
        radius: of "certified", in the unit of the input space; given with another reward it is only measured.
        kappa: of the reward.
        images: training images that judge, as many of each class as there are.
        n0: noisy copies that choose the anchor's class.
        n: copies that estimate its chance.
        samples: of these, those that each policy is shown.
        mode: "both" takes the better of two bounds, "irs" is that of the paper of incremental certificates, see
            `mixbit.certification.Incremental`.
        calibration_images: further training images, with noise, for the steps of activations.
        epochs: of training on noisy images before a policy is judged; none by default.
        train_images: see `Haq`.
        lr: of that training.
        batch_size: images, or noisy copies, that go through the network together.
        seed: of the agent, the choice of images, the noise and the training.
    """

    sigma: Positive | None = None
    reward: Literal["radius", "certified", "noisy"] = "radius"
    radius: Positive | None = None
    kappa: Positive = 1.0
    images: Count = 100
    n0: Count = 100
    n: Count = 1000
    samples: Count = 200
    mode: Literal["both", "irs"] = "both"
    calibration_images: Count = 512

    def __post_init__(self) -> None:
        check(self)
        ladder(self.bits)
        self.agent  # noqa: B018 (raises)
        if self.reward == "certified" and self.radius is None:
            raise MixbitError('reward="certified" is an accuracy at a radius, and there is none. Give radius.')
        if self.samples > self.n:
            raise MixbitError(f"samples={self.samples} are shown of n={self.n} copies. Legal: at most as many.")
        self.smoothing(1.0)

    def smoothing(self, sigma: float) -> Smoothing:
        """How the anchor is certified under that noise; of an image whose class is wrong no more is asked.

        Args:
            sigma: of the training images.

        Raises:
            MixbitError: copies that certify nothing.
        """
        return Smoothing(
            sigma=sigma,
            n0=self.n0,
            n=self.n,
            seed=self.seed ^ _OWN_NOISE,
            batch=self.batch_size,
            skip_wrong=self.reward != "noisy",
        )

    def search(
        self,
        task: Task,
        budget: Budget,
        *,
        terms: Terms = Terms(),  # noqa: B008 (frozen)
        run: Path | None = None,
        quiet: bool = False,
    ) -> Policy:
        """The policy of the largest reward; with a run folder a killed search goes on with the same episodes.

        Raises:
            InfeasibleBudget: no policy meets the budget; with the nearest feasible limits and the layers that block.
            MixbitError: training images without this noise, an input quantizer that cuts it, a network of which nothing
                can be certified, or one that gives no logits of classes.
            StaleRun: the run folder holds another search's episodes, anchors or measurements.
        """
        walk = Walk(
            task.network,
            budget,
            terms,
            self.bits,
            share_bits=self.share_bits,
            within=self.within,
            fill=self.fill,
            action_map=self.action_map,
        )
        judging = _Judging(task, self)
        judging.check_cover(walk)
        judging.certify_anchor(run, quiet=quiet)
        found = Search("arq", self, walk, judging, run).best(quiet=quiet)
        return replace(found, notes=[*found.notes, *judging.notes])


class _Judging:
    """Rewards of policies by certificates, made from those of the float network."""

    def __init__(self, task: Task, settings: Arq) -> None:
        self._task, self._settings = task, settings
        self.notes: list[str] = []
        clean, self._sigma = self._clean()
        self._smoothing = settings.smoothing(self._sigma)
        self._numbers, rest = balanced(clean.labels, settings.images, settings.seed)
        z, self._y = _batch.first_samples(Part(clean, self._numbers).batches(256), len(self._numbers))
        self._x: Tensor = task.space.clip(task.space.leave(z))
        noisy = Part(task.train, rest)  # type: ignore[arg-type]
        batches = noisy.batches(min(settings.calibration_images, 256), seed=settings.seed, shuffle=True)
        self._calibration = _batch.first_samples(batches, settings.calibration_images)[0]
        self._tune = tuning(task, noisy, settings) if settings.epochs else None
        self._anchors: tuple[Anchor, ...] = ()
        self.base = 0.0
        """What the reward is measured from: the same of the float network, by all of its copies."""
        own = ["calibration_images", "samples", "mode", "radius", "reward"]
        own += ["epochs", "train_images", "lr", "batch_size"] if settings.epochs else []
        of = {name: getattr(settings, name) for name in own}
        self._anchored = {**facts(self._smoothing), **contents(task.model, [(self._x, self._y)])}
        self.of: Mapping[str, Any] = {**self._anchored, **of, "calibration": content_of([self._calibration])}

    def _clean(self) -> tuple[IndexedSplit, float]:
        """The training images as they are without noise, and its sigma.

        Raises:
            MixbitError: they do not have the noise that the network shall stand.
        """
        clean, noise = clean_of(self._task.train)
        asked = self._settings.sigma
        if noise is None or (asked is not None and abs(noise - asked) > _NEAR):
            name, wanted = ("SIGMA", "") if asked is None else (f"{asked:g}", f"sigma={asked:g}, and ")
            has = "no noise" if noise is None else f"noise of {noise:g}"
            raise MixbitError(
                f"arq: {wanted}the training images that calibrate have {has}. Name the data with ?noise={name}, or "
                f"give a task whose training split is mixbit.data.NoisySplit(split, {name}, std)."
            )
        return clean, noise

    @property
    def on(self) -> str:
        """See `Judging`, as the others."""
        how, steps = self._settings, _batch.samples(self._calibration)
        trained = f" and {how.epochs} epochs of training" if how.epochs else ""
        return (
            f"{len(self._y)} training images, {how.samples} noisy copies of each, after calibration on {steps} noisy "
            f"others (seed {how.seed}){trained}"
        )

    # -- the anchor

    def certify_anchor(self, run: Path | None, *, quiet: bool) -> None:
        """Certificates of the float network, from the run folder or new.

        Raises:
            MixbitError: the reward could not tell policies apart, as nothing is certified.
        """
        path = None if run is None else run / "arq-anchors.jsonl"
        ledger = Ledger(path, "anchors of arq", self._anchored)
        known = {int(key): Anchor.from_json(ledger[key]) for key in ledger}
        with progress_bar("arq: anchor", len(self._y), done=len(known), quiet=quiet) as advance:

            def kept(one: Anchor) -> None:
                ledger.put(str(one.image), one.to_json())
                advance(1, "")

            self._anchors = anchor(
                self._predictor(self._task.model),
                self._x,
                self._y,
                self._smoothing,
                images=self._numbers.tolist(),
                known=known,
                done=kept,
            )
        self._check_anchor(self._certified([one.certificate(self._smoothing) for one in self._anchors]))

    def _check_anchor(self, certified: Certified) -> None:
        how = self._settings
        if how.reward != "noisy":
            need_certified(self._anchors, self._smoothing)
        said = [float((one.said[: how.samples] == one.label).mean()) for one in self._anchors if len(one.said)]
        found = self._figures(certified) if how.reward != "noisy" else {"noisy_accuracy": sum(said) / len(said)}
        self.base = found[self._name]
        if self.base <= 0:
            raise MixbitError(
                f"arq: the float network's {self._name} on {len(self._y)} training images is 0 under noise of "
                f"{self._sigma:g}, so that no policy is worth more than another. Train it under that noise first "
                f"(mixbit train with ?noise={self._sigma:g}), take a smaller sigma, more copies (n), or another reward."
            )
        for note in certified.notes(self._task.train.num_classes or int(self._y.max()) + 1):
            warnings.warn(f"arq: {note}", stacklevel=2)
            self.notes.append(note)
        self.notes.append(
            "certificates of a search choose its result, and are none of it: make those with mixbit certify, on test "
            "images"
        )

    # -- policies

    def check_cover(self, walk: Walk) -> None:
        """See that noise reaches the network, at the most bits that its input can have.

        Raises:
            MixbitError: its input quantizer cuts it.
        """
        most = walk.policy(walk.layers(np.full(len(walk.steps), len(walk.bits) - 1)))
        first = walk.network.layers[0]
        bank = quantized_layers(self._quantized(most))[first.name].input_quantizer
        if isinstance(bank, Quantizer) and first.input_shape == tuple(self._x.shape[1:]):
            ends = (int(bank.zero_points[0, 0]), int(bank.qmins[0]), int(bank.qmaxs[0]))
            grid = Grid(scale=float(bank.steps.detach()[0, 0]), zero_point=ends[0], qmin=ends[1], qmax=ends[2])
            need_cover(InputGrid(grid=grid, space=self._task.space), self._sigma)

    def _quantized(self, policy: Policy) -> nn.Module:
        """The float weights under a policy, calibrated on noisy images."""
        model, config = copy.deepcopy(self._task.model), QuantizeConfig()
        quantize(model, policy, self._task.network, config)
        calibrate(model, [self._calibration], config.activation_rule, seed=self._settings.seed)
        return model

    def _predictor(self, model: nn.Module) -> TorchPredictor:
        return TorchPredictor(model, self._task.space, output=self._task.objective.chosen)

    def measure(self, policy: Policy) -> dict[str, float]:
        how, model = self._settings, self._quantized(policy)
        if self._tune is not None:
            self._tune(model)
        predictor = self._predictor(model)
        if how.reward == "noisy":
            return {"noisy_accuracy": self._noisy_accuracy(predictor)}
        asked = Incremental(samples=how.samples, mode=how.mode, disparity="all" if how.mode == "irs" else "harmful")
        made = certify_incrementally(predictor, self._anchors, self._x, self._smoothing, asked)
        return self._figures(self._certified(made))

    def _noisy_accuracy(self, predictor: TorchPredictor) -> float:
        how = self._settings
        right = 0
        for row, one in zip(self._x, self._anchors, strict=True):
            for said in predictions(predictor, row, self._smoothing, one.image, "estimate", how.samples):
                right += int((said == one.label).sum())
        return right / (len(self._anchors) * how.samples)

    def _certified(self, made: Sequence[Certificate]) -> Certified:
        alpha = self._smoothing.alpha
        return Certified(sigma=self._sigma, alpha=alpha, certificates=tuple(made))

    def _figures(self, found: Certified) -> dict[str, float]:
        radius = self._settings.radius
        more = {} if radius is None else {"certified_accuracy": found.accuracy(radius).value}
        return {"average_radius": float(found.radii.mean()), "accuracy": found.accuracy(0).value, **more}

    # -- rewards

    @property
    def _name(self) -> str:
        return _NAMES[self._settings.reward]

    def reward(self, found: Mapping[str, float]) -> float:
        gain = found[self._name] - self.base
        return self._settings.kappa * (_POINTS * gain if self._settings.reward == "noisy" else gain / self.base)

    def headline(self, found: Mapping[str, float]) -> str:
        return f"{self._name.replace('_', ' ')} {found[self._name]:.4g}, {self.base:.4g} in float,"


def balanced(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Numbers of samples with as many of each class as there can be, drawn at random, and those of all others.

    Args:
        labels: `(N,)`.
        count: how many are drawn.
        seed: of the draw.

    Raises:
        MixbitError: none would be left.

    >>> chosen, rest = balanced(torch.tensor([0, 0, 0, 1, 1, 1, 0, 0]), 4, 0)
    >>> torch.tensor([0, 0, 0, 1, 1, 1, 0, 0])[chosen].sum(), len(rest)
    (tensor(2), 4)
    """
    if count >= len(labels):
        raise MixbitError(f"images={count} of {len(labels)} training images leave none to calibrate on. Give fewer.")
    order = torch.randperm(len(labels), generator=generator(_DRAW, seed))
    turns = torch.zeros(len(labels), dtype=torch.int64)
    for label in sorted(set(labels.tolist())):
        mine = order[labels[order] == label]
        turns[mine] = torch.arange(len(mine))  # each class has a first, a second, ...
    ranked = order[turns[order].argsort(stable=True)]
    return ranked[:count].sort().values, ranked[count:].sort().values
