"""HAQ: bits by reinforcement learning, whose reward is the metric after quantization, under hard limits.

Wang, Liu, Lin, Lin and Han, "HAQ: Hardware-Aware Automated Quantization With Mixed Precision" (CVPR 2019), and its
released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mixbit._settings import Count, Positive, check
from mixbit.cost import Budget
from mixbit.data import hold_out
from mixbit.methods._baseline import ladder
from mixbit.methods._episodes import Episodic, Search
from mixbit.methods._tuning import tuning
from mixbit.methods._walk import Walk
from mixbit.methods.registry import register
from mixbit.metric import LOSS
from mixbit.policy import Policy, Terms
from mixbit.sensitivity.judging import Judge
from mixbit.task import Task

__all__ = ["Haq"]


@register(
    "haq",
    "an agent chooses bits layer by layer, rewarded by the metric",
    source="Wang et al., CVPR 2019",
    cost="forward",
    kind="policy",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Haq(Episodic):
    """An agent walks over the layers, and each action gives one side its bits; the reward comes at the end.

    What is over a limit is brought back under it before it is measured: limits are hard, and no part of the reward. The
    reward is `scale * (metric - metric of the float network)`, in points of the metric's unit and in its direction, on
    training images that are held out; a policy is measured once, and trains the agent each time that it comes up.

    `epochs=1` trains each policy shortly before it is judged, as the authors do.

    Attributes:
        bits: candidate bit-widths of weights and activations.
        episodes: of the search, 600 in the paper's code.
        warmup: first ones, whose actions are drawn evenly.
        noise_decay: see `mixbit.search.Ddpg`; 0.99 is the code's.
        action_map: which bits an action stands for, "floor" or "haq", see `mixbit.search.choice_of`.
        share_bits: one action for both sides of a layer, which halves an episode.
        within: how limits are kept: by the "wall" of the code, which lowers bits from the last layer to the first, or
            "project", the nearest policy by the exact solver.
        fill: raise bits again, from the first layer to the last, as long as limits hold.
        scale: of the reward, for each point.
        images: training images to measure on.
        calibration_images: further ones, for the steps of activations.
        epochs: of training before a policy is judged; none by default.
        train_images: training images that each of these epochs reads.
        lr: of that training.
        batch_size: images that go through the network together, in that training too.
        seed: of the agent, the choice of images and the training.
    """

    scale: Positive = 0.1
    images: Count = 1024
    calibration_images: Count = 256

    def __post_init__(self) -> None:
        check(self)
        ladder(self.bits)
        self.agent  # noqa: B018 (raises)

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
            MixbitError: a metric that is not finite, or of which it is not known which way is better.
            StaleRun: the run folder holds another search's episodes or measurements.
        """
        task.info.directed()
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
        return Search("haq", self, walk, _Judging(task, self), run).best(quiet=quiet)


class _Judging:
    """Rewards of policies by the task's metric."""

    def __init__(self, task: Task, settings: Haq) -> None:
        self._info, self._settings = task.info, settings
        count, tune = settings.images + settings.calibration_images, None
        if settings.epochs:
            share = min(count / len(task.train), 0.5)
            rest, held = hold_out(task.train, share, seed=settings.seed)
            tune, task = tuning(task, rest, settings), replace(task, train=held)
        self._judge = Judge(
            task,
            images=settings.images,
            calibration_images=settings.calibration_images,
            batch_size=settings.batch_size,
            seed=settings.seed,
            tune=tune,
        )
        own = ("images", "calibration_images", "seed", *(("epochs", "train_images", "lr", "batch_size") * bool(tune)))
        self.of: Mapping[str, Any] = self._judge.depends({name: getattr(settings, name) for name in own})

    @cached_property
    def floats(self) -> float:
        """The metric of the float network on the same images."""
        return self._judge.floats().value

    @property
    def on(self) -> str:
        """See `Judging`, as the others."""
        epochs = self._settings.epochs
        return self._judge.measured.on + (f" and {epochs} epochs of training" if epochs else "")

    def measure(self, policy: Policy) -> dict[str, float]:
        found = self._judge(policy)
        return {**found.values, LOSS.name: found.loss}

    def reward(self, found: Mapping[str, float]) -> float:
        metric = self._info
        return self._settings.scale * metric.scaled(metric.gain(found[metric.name], self.floats))

    def headline(self, found: Mapping[str, float]) -> str:
        metric = self._info
        return f"{metric.name} {metric.text(found[metric.name])}, {metric.text(self.floats)} in float,"
