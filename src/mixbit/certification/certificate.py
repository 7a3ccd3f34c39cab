"""What is guaranteed of each image, and of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixbit.attacks import Interval, interval_of_mean
from mixbit.certification.bounds import lower_bound, upper_bound
from mixbit.errors import MixbitError

__all__ = ["Certificate", "Certified"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Within `radius` of the image, in L2 and in the unit of the input space, the smoothed network says `chosen`.

    Attributes:
        image: its number in the data set.
        label: the class that it has.
        chosen: the class that was chosen on samples of its own, before the others were drawn.
        hits: samples of the estimate that were of this class.
        samples: of the estimate; 0 where the chosen class was wrong and no more was asked.
        chance: lower bound on the chance of the class, right but for a chance of alpha.
        radius: in which the class stays; 0 where the network abstains.
        passes: inputs that went through the network in all.
    """

    image: int
    label: int
    chosen: int
    hits: int
    samples: int
    chance: float
    radius: float
    passes: int

    @property
    def abstains(self) -> bool:
        """Whether no class was certain enough; nothing is guaranteed."""
        return self.radius == 0

    @property
    def right(self) -> bool:
        """Whether the class is the label, and certain."""
        return not self.abstains and self.chosen == self.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """Certificates of one network on many images.

    Attributes:
        sigma: standard deviation of the noise.
        alpha: chance that one certificate is wrong.
        certificates: one an image.

    >>> counts, right = (1000, 990, 950, 600, 540), (1, 0, 1, 1, 1)
    >>> from mixbit.certification.bounds import radius_of
    >>> made = []
    >>> for at, (hits, label) in enumerate(zip(counts, right)):
    ...     chance = float(lower_bound(hits, 1000, 0.001))
    ...     known = {"hits": hits, "samples": 1000, "chance": chance, "radius": float(radius_of(chance, 0.5))}
    ...     made.append(Certificate(image=at, label=label, chosen=1, passes=1100, **known))
    >>> found = Certified(sigma=0.5, alpha=0.001, certificates=tuple(made))
    >>> round(found.average_radius.value, 6), [found.accuracy(r).value for r in (0, 0.5, 1)], found.abstention.value
    (0.40315, [0.6, 0.4, 0.2], 0.2)
    """

    sigma: float
    alpha: float
    certificates: tuple[Certificate, ...]

    def __post_init__(self) -> None:
        if not self.certificates:
            raise MixbitError("certificates of no image. Legal: one image or more.")

    @property
    def radii(self) -> NDArray[np.float64]:
        """Radius of each image, 0 where the class is not its label `(N,)`."""
        return np.array([one.radius if one.right else 0.0 for one in self.certificates])

    @property
    def average_radius(self) -> Interval:
        """Average certified radius (ACR), wrong and abstained images counted as 0, with its interval by bootstrap.

        Easy images weigh most in it, and a network that is sure of a few and wrong on the others may have a large one:
        look at `accuracy` beside it ("Average Certified Radius is a Poor Metric for Randomized Smoothing", ICML 2025).
        """
        return interval_of_mean(self.radii)

    def accuracy(self, radius: float) -> Interval:
        """Certified accuracy: share of images that are right, and stay so within the radius; of 0, smoothed accuracy.

        The interval is Clopper and Pearson's of 95 % over images.
        """
        if radius < 0:
            raise MixbitError(f"radius={radius} is illegal. Legal: 0 or more.")
        return _share(self.radii >= radius if radius else self.radii > 0)

    def conservative(self, radius: float, rho: float = 0.001) -> float:
        """Lower bound on the certified accuracy of the smoothed network itself, whose certificates are not estimated.

        `m - alpha - sqrt(alpha (1 - alpha) ln(1 / rho) / N) - ln(1 / rho) / 3N` of a share of `m` of `N` images; it is
        wrong with a chance of rho (Cohen et al., appendix).

        Args:
            radius: in which an image stays right.
            rho: chance of an error.
        """
        count, log = len(self.certificates), float(np.log(1 / rho))
        wrong = self.alpha + (self.alpha * (1 - self.alpha) * log / count) ** 0.5 + log / (3 * count)
        return float(max(self.accuracy(radius).value - wrong, 0.0))

    @property
    def abstention(self) -> Interval:
        """Share of images for which no class was certain enough."""
        return _share(np.array([one.abstains for one in self.certificates]))

    def chances(self, quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95)) -> dict[float, float]:
        """How the share of samples that were of the chosen class is spread over images: hits over samples."""
        shares = [one.hits / one.samples for one in self.certificates if one.samples]
        return {q: float(np.quantile(shares, q)) for q in quantiles} if shares else {}

    @property
    def passes(self) -> int:
        """Inputs that went through the network in all."""
        return sum(one.passes for one in self.certificates)

    def notes(self, classes: int) -> list[str]:
        """What there is to know of the numbers: a network that does not stand noise, few images.

        Args:
            classes: of the network.
        """
        found, smooth = [], self.accuracy(0)
        if smooth.low <= 1 / classes:
            found.append(
                f"smoothed accuracy is {100 * smooth.value:.1f} %, which {classes} classes have by chance: the network "
                f"was not trained for noise of sigma {self.sigma:g}. Train it on noisy inputs, or take a smaller sigma."
            )
        return found


def _share(of: NDArray[np.bool_]) -> Interval:
    """A share of images with Clopper and Pearson's interval of 95 %."""
    hits, count = int(of.sum()), len(of)
    low, high = float(lower_bound(hits, count, 0.025)), float(upper_bound(hits, count, 0.025))
    return Interval(value=hits / count, low=low, high=high)
