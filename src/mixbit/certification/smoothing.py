"""Randomized smoothing: what a network says most often of noisy copies of an image, and how far that is certain.

Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing" (ICML 2019). The smoothed
network `g(x)` gives the class that the network `f` gives most often to `x + e`, with `e` drawn from `N(0, sigma^2 I)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixbit._settings import Count, Positive, Seed, check
from mixbit.attacks import check_logits
from mixbit.certification._noise import Purpose, copies
from mixbit.certification.anytime import ConfidenceSequence
from mixbit.certification.bounds import Chance, chance_of, least_samples, lower_bound, radius_of
from mixbit.certification.certificate import Certificate
from mixbit.errors import MixbitError
from mixbit.inference import Predictor, check_inputs

__all__ = ["Smoothing", "certify", "checked_images", "most_radius", "predict", "predictions", "votes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothing:
    """How a network is smoothed and certified.

    Attributes:
        sigma: standard deviation of the noise, in the unit of the input space: of pixels in [0, 1].
        n0: samples that choose a class, 100 in the paper.
        n: samples that estimate its chance, 100 000 in the paper. A radius is at most `sigma Phi^-1(alpha^(1/n))`:
            3.2 sigma of 10 000 at an alpha of 0.001.
        alpha: chance that a certificate is wrong, 0.001 in the paper.
        seed: of the noise.
        batch: samples that go through the network together; nothing hangs on it but time and memory.
        radii: (ours) stop as soon as it is certain of each of these radii that it is certified, or that it will not be.
            The bound is then one that holds at all times, a confidence sequence, and `n` the most. None for all `n`.
        skip_wrong: whether no more is asked of an image whose chosen class is wrong. Certified accuracies and the
            average radius stay as they are.

    >>> Smoothing(sigma=0.5, n=5)
    Traceback (most recent call last):
        ...
    mixbit.errors.MixbitError: n=5 certifies nothing at alpha=0.001. Legal: 10 samples or more.
    """

    sigma: Positive
    n0: Count = 100
    n: Count = 10_000
    alpha: Chance = 0.001
    seed: Seed = 0
    batch: Count = 256
    radii: tuple[Positive, ...] | None = None
    skip_wrong: bool = False

    def __post_init__(self) -> None:
        check(self)
        least = least_samples(self.alpha)
        if self.n < least:
            raise MixbitError(f"n={self.n} certifies nothing at alpha={self.alpha:g}. Legal: {least} samples or more.")


def certify(
    predictor: Predictor,
    x: Tensor,
    y: Tensor,
    smoothing: Smoothing,
    *,
    images: Sequence[int] | None = None,
    done: Callable[[Certificate], None] | None = None,
) -> tuple[Certificate, ...]:
    """CERTIFY of the paper, image by image.

    Args:
        predictor: any network: in float, fake-quantized, or integers.
        x: images `(N, ...)` in the unit of its input space.
        y: labels `(N,)`.
        smoothing: how.
        images: number of each image in its data set, which its noise hangs on; None for 0 to N - 1.
        done: is given each certificate as soon as it is made.

    Raises:
        MixbitError: inputs that are no batch of finite numbers, or labels and images of another number.

    >>> from mixbit.testing.attacks import LinearPredictor
    >>> predictor = LinearPredictor(classes=2)
    >>> x = torch.full((1, 1, 4, 4), 0.5) + 0.01 * predictor.weight[:1] / predictor.weight[0].norm()
    >>> (found,) = certify(predictor, x, torch.tensor([0]), Smoothing(sigma=0.01, n=1000))
    >>> found.right, 0 < found.radius < float(predictor.distances(x, torch.tensor([0]), 2.0))
    (True, True)
    """
    numbers = checked_images(predictor, x, y, images)
    found = []
    for row, image, label in zip(x, numbers, y.tolist(), strict=True):
        chosen = int(votes(predictor, row, smoothing, image, "select", smoothing.n0).argmax())
        certificate = _estimated(predictor, row, smoothing, image, int(label), chosen)
        found.append(certificate)
        if done is not None:
            done(certificate)
    return tuple(found)


def _estimated(
    predictor: Predictor, x: Tensor, smoothing: Smoothing, image: int, label: int, chosen: int
) -> Certificate:
    """The chance of the chosen class, on samples of its own."""
    made = partial(Certificate, image=image, label=label, chosen=chosen)
    if smoothing.skip_wrong and chosen != label:
        return made(hits=0, samples=0, chance=0.0, radius=0.0, passes=smoothing.n0)
    if smoothing.radii is not None:
        hits, samples, chance = _until_certain(predictor, x, smoothing, image, chosen, smoothing.radii)
    else:
        hits, samples = int(votes(predictor, x, smoothing, image, "estimate", smoothing.n)[chosen]), smoothing.n
        chance = float(lower_bound(hits, samples, smoothing.alpha))
    radius = float(radius_of(chance, smoothing.sigma))
    return made(hits=hits, samples=samples, chance=chance, radius=radius, passes=smoothing.n0 + samples)


def _until_certain(
    predictor: Predictor, x: Tensor, smoothing: Smoothing, image: int, chosen: int, radii: Sequence[float]
) -> tuple[int, int, float]:
    """Hits, samples and bound once every radius is certified or out of reach, or samples are at their end."""
    needed = [float(chance_of(radius, smoothing.sigma)) for radius in radii]
    bounds = ConfidenceSequence(smoothing.alpha)
    for classes in predictions(predictor, x, smoothing, image, "estimate", smoothing.n):
        bounds.add(int((classes == chosen).sum()), len(classes))
        if all(bounds.low >= chance or bounds.high < chance for chance in needed):
            break
    return bounds.hits, bounds.samples, bounds.low


def predict(
    predictor: Predictor, x: Tensor, smoothing: Smoothing, *, images: Sequence[int] | None = None
) -> list[int | None]:
    """PREDICT of the paper: the smoothed network's class of each image, or None where it abstains.

    It abstains where the counts of the two most frequent classes could be those of equal chances: where a two-sided
    binomial test has a p-value above alpha.

    Args:
        predictor: see `certify`, as the others.
        x: see `certify`.
        smoothing: how; `n` samples.
        images: see `certify`.
    """
    numbers = checked_images(predictor, x, torch.zeros(len(x), dtype=torch.int64), images)
    found = []
    for row, image in zip(x, numbers, strict=True):
        counts = votes(predictor, row, smoothing, image, "fresh", smoothing.n)
        found.append(_most_frequent(counts, smoothing.alpha))
    return found


def _most_frequent(counts: NDArray[np.int64], alpha: float) -> int | None:
    """The most frequent class, or None where it may not be.

    >>> _most_frequent(np.array([552, 448]), 0.001), _most_frequent(np.array([447, 553]), 0.001)
    (None, 1)
    """
    from scipy.stats import binomtest

    first = int(counts.argmax())
    most, second = int(counts[first]), int(np.delete(counts, first).max(initial=0))
    return None if binomtest(most, most + second, 0.5).pvalue > alpha else first


def votes(
    predictor: Predictor, x: Tensor, smoothing: Smoothing, image: int, purpose: Purpose, count: int
) -> NDArray[np.int64]:
    """How many of so many noisy copies of an image are of each class `(C,)`; the memory does not grow with them."""
    total = np.zeros(1, dtype=np.int64)
    for classes in predictions(predictor, x, smoothing, image, purpose, count):
        found = np.bincount(classes, minlength=len(total))
        found[: len(total)] += total
        total = found
    return total


def predictions(
    predictor: Predictor, x: Tensor, smoothing: Smoothing, image: int, purpose: Purpose, count: int
) -> Iterator[NDArray[np.int64]]:
    """The class of each of `count` noisy copies of an image `(...)`, a batch at a time."""
    for first in range(0, count, smoothing.batch):
        now = min(smoothing.batch, count - first)
        points = copies(x, smoothing.sigma, smoothing.seed, image, purpose, first, now)
        with torch.no_grad():
            logits = predictor.logits(points)
        check_logits(predictor, logits)
        yield logits.argmax(1).cpu().numpy()


def checked_images(predictor: Predictor, x: Tensor, y: Tensor, images: Sequence[int] | None) -> list[int]:
    """Numbers of the images, where all fits together.

    Raises:
        MixbitError: it does not.
    """
    check_inputs(x, f"a certificate of {predictor.name}")
    numbers = list(range(len(x))) if images is None else [int(one) for one in images]
    if not len(x) == len(y) == len(numbers):
        raise MixbitError(
            f"{len(x)} images, {len(y)} labels and {len(numbers)} numbers of images. Legal: one of each for each."
        )
    if min(numbers) < 0 or max(numbers) >= 2**63:
        raise MixbitError(f"images from {min(numbers)} to {max(numbers)}. Legal: numbers of 0 or more.")
    return numbers


def most_radius(smoothing: Smoothing) -> float:
    """The largest radius that can be certified: with all samples hits, `sigma Phi^-1(alpha^(1/n))`.

    >>> round(most_radius(Smoothing(sigma=1.0, n=10_000)), 6)
    3.198578
    """
    return float(radius_of(math.exp(math.log(smoothing.alpha) / smoothing.n), smoothing.sigma))
