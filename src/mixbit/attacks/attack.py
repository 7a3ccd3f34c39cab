"""What all attacks share: settings, the way in and out, and what comes of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor

from mixbit._settings import Count, check, check_value
from mixbit.attacks._entries import Access, names
from mixbit.attacks._norms import Norm, norm_of
from mixbit.attacks._objectives import is_wrong
from mixbit.attacks._streams import Streams
from mixbit.attacks._target import Target
from mixbit.errors import MixbitError
from mixbit.inference import Predictor, check_inputs

__all__ = ["Access", "Attack", "Found", "check_logits", "need_access", "need_classes"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """What an attack came to, image by image.

    Attributes:
        points: the last word of the attack `(N, ...)`, within the bounds. An image that was wrong from the beginning is
            as it was; where no adversarial point was found, an attack within a ball gives the worst point that it saw,
            and an attack that seeks the nearest point gives the image itself.
        right: whether the network had the image right `(N,)`.
        success: whether it had the image right, and has the point wrong `(N,)`.
        queries: points of which the image got logits or a class `(N,)`, int64.
        gradients: gradients that it got `(N,)`, int64.
        by: name of the attack that broke each image, of an attack that is made of several; otherwise empty.
    """

    points: Tensor
    right: Tensor
    success: Tensor
    queries: Tensor
    gradients: Tensor
    by: tuple[str, ...] = ()

    @classmethod
    def joined(cls, parts: Sequence[Found]) -> Found:
        """Join what came of several batches of images, in their order."""
        tensors = ("points", "right", "success", "queries", "gradients")
        both = {name: torch.cat([getattr(part, name) for part in parts]) for name in tensors}
        return cls(**both, by=tuple(name for part in parts for name in part.by))


class Attack(ABC):
    """An attack: a frozen dataclass whose fields are its settings. Subclasses say how right images are perturbed.

    All attacks are untargeted, and work on logits, in the unit of the Predictor's input space.
    """

    name: ClassVar[str]
    access: ClassVar[Access]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __post_init__(self) -> None:
        check(self, room=f"attack {self.name!r}")

    @property
    @abstractmethod
    def norm(self) -> Norm:
        """The norm that it bounds or makes small."""

    @property
    def radius(self) -> float | None:
        """The bound on the norm, in the unit of the input space; None of an attack that seeks the nearest point."""
        return None

    @property
    def least_classes(self) -> int:
        """How many classes the network must have."""
        return 2

    def run(
        self,
        predictor: Predictor,
        x: Tensor,
        y: Tensor,
        *,
        seed: int = 0,
        images: Sequence[int] | None = None,
        queries: int | None = None,
    ) -> Found:
        """Attack a batch of images, those that the network has right.

        Args:
            predictor: the network; one with gradients where `access` is "gradients".
            x: images `(N, ...)` within the bounds of the Predictor's space; attacked in float32, which points are in.
            y: labels `(N,)`, whole numbers of any width.
            seed: of all that is random.
            images: number of each image in its data set, which its random numbers hang on; None for 0 to N - 1.
            queries: points that an image may ask for; an attack whose images may ask for no more ends with what it has.

        Raises:
            MixbitError: no gradients, images that are not within the bounds, labels that are not classes of the
                network, a radius that no input space of these bounds has, or logits that are not finite.
        """
        numbers = range(len(x)) if images is None else images
        self.check(predictor, x, y, seed=seed, images=numbers, queries=queries)
        x, y = predictor.space.clip(x.detach().to(torch.float32)), y.to(torch.int64)  # rounding may leave the bounds
        with torch.no_grad():
            first = predictor.logits(x)
        check_logits(predictor, first)
        need_classes(self, predictor, first.shape[1])
        _check_labels(predictor, first, y)
        right = ~is_wrong(first, y)
        rows = right.nonzero().squeeze(1)
        target = Target(predictor, y[rows], queries)
        points, asked, gradients = x.clone(), *torch.zeros(2, len(x), dtype=torch.int64)
        success, by = torch.zeros_like(right), [""] * len(x)
        if len(rows):
            streams = Streams(seed, self.name, [int(numbers[row]) for row in rows.tolist()])
            points[rows] = self._perturb(target, points[rows], target.y, streams)
            asked[rows], gradients[rows] = target.queries, target.gradients
            with torch.no_grad():  # whatever the attack believes: this is what counts
                success[rows] = is_wrong(predictor.logits(points[rows]), target.y)
            for row, name in zip(rows.tolist(), target.by, strict=True):
                by[row] = name if success[row] else ""
        return Found(points=points, right=right, success=success, queries=asked, gradients=gradients, by=tuple(by))

    @abstractmethod
    def _perturb(self, target: Target, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        """Points `(N, ...)` for images that the network has right, see `Found.points`.

        Args:
            target: answers for row i of `x`, and counts.
            x: at least one image.
            y: their labels.
            streams: row i has the random numbers of `x[i]`.
        """

    def check(
        self,
        predictor: Predictor,
        x: Tensor,
        y: Tensor,
        *,
        seed: int = 0,
        images: Sequence[int] | None = None,
        queries: int | None = None,
    ) -> None:
        """Raise unless `run` with the same arguments can begin; the network itself is not asked.

        Raises:
            MixbitError: see `run`; labels and logits are looked at there.
        """
        need_access(self, predictor)
        images = range(len(x)) if images is None else images
        who = f"attack {self.name!r}"
        check_inputs(x, who)
        _check_numbers(who, x, y, images)
        check_value("seed", seed, int, room=who)
        if queries is not None:
            check_value("queries", queries, Count, room=who)
        bounds = predictor.space.bounds
        if bounds is None:
            raise MixbitError(
                f"{who} needs to know where inputs may lie, and the space of {predictor.name} has no bounds. Give "
                "InputSpace(bounds=(least, largest)); of pixels it is InputSpace.of_images."
            )
        low, high = bounds
        x = x.detach()
        if not torch.equal(predictor.space.clip(x), x):  # in the precision of x: 0.1 of float32 is above 0.1
            least, largest = float(x.min()), float(x.max())
            raise MixbitError(
                f"{who} got inputs from {least:g} to {largest:g}, legal is {low:g} to {high:g}, the "
                f"bounds of {predictor.name}. Give them in the unit of its space, not normalised."
            )
        most = float(norm_of(torch.full((1, x[0].numel()), high - low), self.norm))
        if self.radius is not None and not 0 < self.radius <= most:
            raise MixbitError(
                f"{who}: a radius of {self.radius:g} in {self.norm} is illegal. Legal: above 0, at most {most:g}, the "
                f"size of the input space {low:g} to {high:g}."
            )


def need_access(attack: Attack, predictor: Predictor) -> None:
    """Raise if a Predictor has no gradients and the attack needs them.

    Raises:
        MixbitError: it has none; with the attacks that need none.
    """
    if attack.access == "gradients" and not predictor.differentiable:
        fit = ", ".join([*names(access="scores"), *names(access="labels")])
        raise MixbitError(
            f"attack {attack.name!r} needs gradients, and {predictor.name} has none: its arithmetic is integers. "
            f"Legal: {fit}; or attack the float or the fake-quantized network and try the points on this one; or give "
            "TwinPredictor(this one, a network with gradients)."
        )


def need_classes(attack: Attack, predictor: Predictor, classes: int) -> None:
    """Raise if a network has fewer classes than the attack needs.

    Raises:
        MixbitError: it has; with the attacks that need two.
    """
    if classes < attack.least_classes:
        raise MixbitError(
            f"attack {attack.name!r} needs {attack.least_classes} classes or more, and {predictor.name} has {classes}: "
            "its loss is a ratio of the largest logits. Take 'apgd' with the cross-entropy, or 'fab'."
        )


def check_logits(predictor: Predictor, logits: Tensor) -> None:
    """Raise unless a network's logits are those of a classification, and finite.

    Raises:
        MixbitError: another shape, one class, or NaN or infinity.
    """
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise MixbitError(
            f"{predictor.name} gives logits of shape {tuple(logits.shape)}. Legal: (N, C) with two classes or more; an "
            "attack is on one class an input. Of a map of classes, attack the part of the network that ends in one."
        )
    if not bool(torch.isfinite(logits).all()):
        raise MixbitError(f"{predictor.name} gives logits with NaN or infinity. Check the network.")


def _check_numbers(who: str, x: Tensor, y: Any, images: Sequence[Any]) -> None:
    """Raise unless each image has a label and a number."""
    whole = isinstance(y, Tensor) and not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
    if not whole or y.shape != x.shape[:1] or len(images) != len(x):
        labels = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise MixbitError(
            f"{who} got {len(x)} images, labels {labels} and {len(images)} numbers of images. Legal: a whole number an "
            "image for each, labels in a tensor."
        )
    for one in images:
        whole = isinstance(one, Integral) or (isinstance(one, Tensor) and not one.is_floating_point())
        if not whole or not 0 <= int(one) < 2**63:
            raise MixbitError(
                f"{who}: images has {one!r}. Legal: whole numbers of 0 or more, each image's place in its data set."
            )


def _check_labels(predictor: Predictor, logits: Tensor, y: Tensor) -> None:
    if int(y.min()) < 0 or int(y.max()) >= logits.shape[1]:
        raise MixbitError(
            f"labels from {int(y.min())} to {int(y.max())}, and {predictor.name} has {logits.shape[1]} classes. Legal: "
            f"0 to {logits.shape[1] - 1}."
        )
