"""Losses of networks that shall be certified: several noisy copies of an image, which are to agree.

The base network of randomized smoothing is trained on noisy images (Cohen et al., ICML 2019). Two further terms look at
`m` copies of an image together. Consistency regularisation (Jeong and Shin, NeurIPS 2020), with `p_i` the class
probabilities of copy `i` and `p` their mean:

    L = mean_i CE(p_i, y) + lambda * mean_i KL(p || p_i) + eta * H(p)

MACER (Zhai et al., ICLR 2020) makes the certified radius smooth and pushes it up where the class is right, with
`q = mean_i softmax(beta f(x + e_i))`:

    L = CE(p, y) + lambda * sigma / 2 * max(0, gamma - Phi^-1(q_y) + Phi^-1(max_{c != y} q_c))

the latter where `q_y` is the largest of `q`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mixbit._settings import NotNegative, Positive, check, read
from mixbit.data import NoisySplit, Part
from mixbit.errors import MixbitError, shown
from mixbit.task import Task
from mixbit.training.step import Step, StepContext, supervised_step

__all__ = ["NoiseConfig", "NoiseStep", "consistency", "noise_step", "soft_radius"]

Kind = Literal["consistency", "macer"]
_TINY = 1e-10
"""Below a probability, so that its logarithm is finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseConfig:
    """Which term is added to the loss on noisy copies. The defaults are those of the released codes.

    Attributes:
        loss: "consistency" or "macer".
        weight: lambda; None takes 10 up to a sigma of 0.25 and 5 above for consistency, as its code does on MNIST, and
            12 for MACER, as its code does on CIFAR-10 at a sigma of 0.25 with 16 copies.
        entropy: eta of consistency, 0.5 in its code.
        gamma: largest difference of normal quantiles that MACER still pushes up.
        beta: by which MACER sharpens the logits of its radius.
    """

    loss: Kind = "consistency"
    weight: NotNegative | None = None
    entropy: NotNegative = 0.5
    gamma: Positive = 8.0
    beta: Positive = 16.0

    def __post_init__(self) -> None:
        check(self, room="noise")

    @classmethod
    def from_setting(cls, value: Any) -> NoiseConfig | None:
        """From a training's `noise` setting: the name of a loss, or an object with the names above; false is none.

        >>> NoiseConfig.from_setting("macer").loss, NoiseConfig.from_setting({"weight": 3}).weight
        ('macer', 3)
        """
        if value is None or value is False:
            return None
        if isinstance(value, str):
            return read(cls, {"loss": value}, room="noise")
        if not isinstance(value, Mapping):
            raise MixbitError(
                f"noise={shown(value)} is no setting. Legal: consistency, macer, or an object, e.g. "
                '{"loss": "macer", "weight": 6}.'
            )
        return read(cls, value, room="noise")

    def strength(self, sigma: float) -> float:
        """Lambda at a sigma.

        >>> [NoiseConfig().strength(sigma) for sigma in (0.25, 0.5)], NoiseConfig(loss="macer").strength(0.5)
        ([10.0, 5.0], 12.0)
        """
        if self.weight is not None:
            return float(self.weight)
        return 12.0 if self.loss == "macer" else 10.0 if sigma <= 0.25 else 5.0


class NoiseStep:
    """A step of `mixbit.training.train` on batches of `NoisySplit(copies=m)`: all first copies, all second ones, ...

    All copies go through the network as one batch, so batch norm sees them together. Smoothing of labels and
    distillation stay in the part on labels; the teacher sees the same copies, but for MACER, whose probabilities are a
    mean over copies: there it sees the first one.

    Args:
        config: which term.
        sigma: of the noise, in the unit of the input space.
        copies: of each image.

    Raises:
        MixbitError: fewer than two copies; and at a step, outputs that are not one tensor `(N, C)`, or a batch that
            does not hold the copies of its images: those of a pass without augmentation have one copy of each.
    """

    def __init__(self, config: NoiseConfig, *, sigma: float, copies: int) -> None:
        if copies < 2:
            raise MixbitError(
                f"noise={config.loss} compares copies of an image, and the data have {copies} of each. Legal: 2 or "
                f"more. Name the data with ?noise={sigma:g}&copies=2."
            )
        self.config, self.sigma, self.copies = config, sigma, copies

    def __call__(self, context: StepContext, x: Any, y: Any) -> Tensor:
        """See `mixbit.training.Step`."""
        outputs = context.forward(x)
        logits = self._split(outputs)
        labels = self._labels(y, logits.shape[1])
        strength = self.config.strength(self.sigma)
        if self.config.loss == "consistency":
            apart, entropy = consistency(logits)
            loss = context.loss(x, outputs, y) + strength * apart + self.config.entropy * entropy
        else:
            mean = (logits.softmax(-1).mean(0) + _TINY).log()
            radius = soft_radius(logits, labels, beta=self.config.beta)
            short = (self.config.gamma - radius).clamp_min(0)
            short = torch.where(radius.isfinite(), short, torch.zeros_like(short)).mean()
            loss = context.loss(x[: len(labels)], mean, labels) + strength * self.sigma / 2 * short
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _split(self, outputs: Any) -> Tensor:
        """Logits `(m, N, C)` in float32."""
        if not isinstance(outputs, Tensor) or outputs.dim() != 2 or len(outputs) % self.copies:
            what = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise MixbitError(
                f"noise={self.config.loss} got outputs {what}. Legal: one tensor (N, classes), with N a multiple of "
                f"the {self.copies} copies."
            )
        return outputs.float().view(self.copies, -1, outputs.shape[1])

    def _labels(self, y: Tensor, images: int) -> Tensor:
        """Of the images; copies of one image have one label, and rows of other images would be taken for copies."""
        labels = y[:images]
        if not torch.equal(y, labels.repeat(self.copies)):
            raise MixbitError(
                f"noise={self.config.loss} got a batch of {len(y)} that does not hold {self.copies} copies of each of "
                f"{images} images. Legal: batches of NoisySplit(copies={self.copies}) with augment=True (the default)."
            )
        return labels


def consistency(logits: Tensor) -> tuple[Tensor, Tensor]:
    """`mean_i KL(p || p_i)` and the entropy `H(p)` of the mean probabilities, both means over images, in nats.

    Args:
        logits: of `m` copies of `N` images `(m, N, C)`.

    >>> agreed = torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]]])
    >>> [round(float(one), 4) for one in consistency(agreed)]
    [0.0, 0.6931]
    """
    each = logits.log_softmax(-1)
    mean = each.exp().mean(0)
    entropy = -(mean * (mean + _TINY).log()).sum(-1)
    cross = -(mean * each.mean(0)).sum(-1)
    return (cross - entropy).mean(), entropy.mean()


def soft_radius(logits: Tensor, y: Tensor, *, beta: float = 16.0) -> Tensor:
    """`Phi^-1(q_y) - Phi^-1(max_{c != y} q_c)`: twice the soft radius in sigmas `(N,)`.

    It is infinite where `q_y` is not the largest, and where it is 1 in float32: there is nothing to push.

    Args:
        logits: of `m` copies of `N` images `(m, N, C)`.
        y: labels `(N,)`.
        beta: by which logits are sharpened.

    >>> from statistics import NormalDist
    >>> logits = torch.tensor([[[0.9, 0.1]]]).log()
    >>> value = float(soft_radius(logits, torch.tensor([0]), beta=1.0))
    >>> abs(value - 2 * NormalDist().inv_cdf(0.9)) < 1e-5, float(soft_radius(logits, torch.tensor([1]), beta=1.0))
    (True, inf)
    """
    q = (beta * logits).softmax(-1).mean(0)
    own = q.gather(1, y[:, None]).squeeze(1)
    other = q.scatter(1, y[:, None], -1.0).max(1).values
    first = own > other
    # Where it is not asked for, a value in the middle keeps the gradient finite: infinity times nothing is NaN.
    sure = (own >= 1) | (other <= 0)
    asked = first & ~sure
    half = torch.full_like(own, 0.5)
    found = torch.special.ndtri(torch.where(asked, own, half)) - torch.special.ndtri(torch.where(asked, other, half))
    return torch.where(asked, found, torch.full_like(found, torch.inf))


def noise_step(task: Task, config: NoiseConfig | None) -> Step:
    """The step of a training with this setting; the usual one where there is none.

    Args:
        task: whose training images are noisy, or a part of such a split.
        config: which term.

    Raises:
        MixbitError: images without noise, or with one copy of each; or outputs of which a part counts.
    """
    if config is None:
        return supervised_step
    split = task.train
    while isinstance(split, Part):
        split = split.split
    if not isinstance(split, NoisySplit):
        raise MixbitError(
            f"noise={config.loss} needs noisy training images. Name the data with ?noise=SIGMA&copies=2, or give a "
            "mixbit.data.NoisySplit(copies=2)."
        )
    if task.objective.output is not None:
        raise MixbitError(f"noise={config.loss} needs a network whose outputs are class scores; this task has output=.")
    return NoiseStep(config, sigma=split.sigma, copies=split.copies)
