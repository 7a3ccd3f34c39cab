"""Certificates of a changed network from those of the network that it was made from (IRS).

Ugare, Suresh, Banerjee, Singh and Misailovic, "Incremental Randomized Smoothing Certification" (arXiv:2305.19521). The
network `f`, the anchor, was certified with many samples. Its quantized version `f'` is shown a part of the same ones.
If `f` gives the class `c` with a chance of `p` or more, and both differ with a chance of `z` at most, `f'` gives `c`
with a chance of `p - z` or more.
"""

from __future__ import annotations

import base64
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mixbit._settings import Count, Share, check
from mixbit.certification.bounds import Chance, lower_bound, radius_of, upper_bound
from mixbit.certification.certificate import Certificate
from mixbit.certification.smoothing import Smoothing, checked_images, predictions, votes
from mixbit.errors import MixbitError
from mixbit.inference import Predictor

__all__ = ["Anchor", "Incremental", "anchor", "certify_incrementally", "need_certified", "need_samples"]


_NOTHING = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """What is kept of an image that the anchor was certified on: counts, and what it said of each sample.

    Counts are kept and not bounds, so that they can be looked at with any alpha.

    Attributes:
        image: its number in the data set.
        label: its class.
        chosen: the class that was chosen on samples of its own.
        hits: samples of the estimate that were of this class.
        said: the class of each sample of the estimate `(n,)`; `(0,)` where the chosen class was wrong and no more was
            asked.
    """

    image: int
    label: int
    chosen: int
    hits: int
    said: NDArray[np.uint16]

    def certificate(self, smoothing: Smoothing) -> Certificate:
        """That of the anchor itself, as `certify` gives it with the same smoothing."""
        samples = len(self.said)
        chance = float(lower_bound(self.hits, samples, smoothing.alpha)) if samples else 0.0
        radius, passes = float(radius_of(chance, smoothing.sigma)), smoothing.n0 + samples
        return Certificate(
            image=self.image, label=self.label, chosen=self.chosen, hits=self.hits, samples=samples, chance=chance,
            radius=radius, passes=passes,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Plain values for a ledger; what was said as compressed text, a byte or less a sample."""
        packed = base64.b64encode(zlib.compress(np.ascontiguousarray(self.said, dtype="<u2").tobytes(), 9)).decode()
        return {"image": self.image, "label": self.label, "chosen": self.chosen, "hits": self.hits, "said": packed}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Anchor:
        """Read what `to_json` gave.

        Raises:
            MixbitError: something else.
        """
        try:
            said = np.frombuffer(zlib.decompress(base64.b64decode(found["said"])), dtype="<u2").astype(np.uint16)
            made = cls(**{name: int(found[name]) for name in ("image", "label", "chosen", "hits")}, said=said)
        except (KeyError, TypeError, ValueError, zlib.error) as cause:
            raise MixbitError(f"no anchor of an image: {cause}. Remove it, and it is made again.") from None
        if int((said == made.chosen).sum()) != made.hits:
            raise MixbitError(
                f"image {made.image} of an anchor: {made.hits} hits, and its samples have other ones. Remove it."
            )
        return made


def anchor(
    predictor: Predictor,
    x: Tensor,
    y: Tensor,
    smoothing: Smoothing,
    *,
    images: Sequence[int] | None = None,
    known: Mapping[int, Anchor] | None = None,
    done: Callable[[Anchor], None] | None = None,
) -> tuple[Anchor, ...]:
    """Ask the anchor for every sample of every image, and keep what it says.

    Args:
        predictor: the network that others are made from.
        x: images `(N, ...)` in the unit of its input space.
        y: labels `(N,)`.
        smoothing: how; all `n` samples of each image are asked, those of `skip_wrong` excepted.
        images: number of each image in its data set; None for 0 to N - 1.
        known: what is there already, by the number of the image.
        done: is given what is new, as soon as it is known.
    """
    found = []
    for row, image, label in zip(x, checked_images(predictor, x, y, images), y.tolist(), strict=True):
        one = (known or {}).get(image)
        if one is None:
            chosen = int(votes(predictor, row, smoothing, image, "select", smoothing.n0).argmax())
            asked = 0 if smoothing.skip_wrong and chosen != int(label) else smoothing.n
            said = np.concatenate([_NOTHING, *predictions(predictor, row, smoothing, image, "estimate", asked)])
            hits = int((said == chosen).sum())
            one = Anchor(image=image, label=int(label), chosen=chosen, hits=hits, said=said.astype(np.uint16))
            if done is not None:
                done(one)
        found.append(one)
    return tuple(found)


def need_certified(anchors: Sequence[Anchor], smoothing: Smoothing) -> None:
    """Raise unless there is something to pass on: an average certified radius of the anchor above 0.

    Args:
        anchors: of all images.
        smoothing: what they were made with.

    Raises:
        MixbitError: no image is right with a radius above 0.
    """
    if not any(one.certificate(smoothing).right for one in anchors):
        raise MixbitError(
            f"the average certified radius of the anchor is 0 on {len(anchors)} images: no certificate can be passed "
            f"on. Legal: an anchor that stands noise of sigma {smoothing.sigma:g}. Train it on noisy inputs "
            f"(?noise={smoothing.sigma:g}), or give a smaller sigma, more samples or more images."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Incremental:
    """How a changed network is certified.

    Attributes:
        samples: that the changed network is shown, `n_p` in the paper: a hundredth to a half of the anchor's.
        mode: "irs" is the paper's: the anchor's samples again, or, where it was sure by `gamma` or more, new ones as
            for any network. "both" (ours) takes the better of two bounds from the anchor's samples alone, each with
            half of the chance of an error: that of the paper, and that of the class in the changed network by itself.
        disparity: samples that count against the class: "all" on which both networks differ, the paper's; or "harmful"
            (ours), those on which the anchor gives the class and the changed network does not, which is what can lower
            its chance.
        gamma: chance of the anchor's class from which mode "irs" takes new samples: 0.99 in the paper for CIFAR-10.
        alpha: chance that the bound of the anchor is wrong.
        alpha_z: chance that the bound of the difference is wrong; a certificate is wrong with their sum.
    """

    samples: Count = 1000
    mode: Literal["both", "irs"] = "both"
    disparity: Literal["harmful", "all"] = "harmful"
    gamma: Share = 0.99
    alpha: Chance = 0.001
    alpha_z: Chance = 0.001

    def __post_init__(self) -> None:
        check(self)
        if not 0 < self.alpha + self.alpha_z < 1:
            raise MixbitError(f"alpha + alpha_z = {self.alpha + self.alpha_z} is illegal. Legal: below 1.")


def need_samples(n: int, how: Incremental) -> None:
    """Raise where a changed network is shown so few samples that nothing of it can be certified.

    The best that can be is counted: an anchor all of whose samples are of one class, and no difference from it.

    Args:
        n: samples of the anchor.
        how: the changed network's.

    Raises:
        MixbitError: there is no radius above 0; with the least number of samples.

    >>> need_samples(1000, Incremental(samples=10, alpha=0.0005, alpha_z=0.0005))
    Traceback (most recent call last):
        ...
    mixbit.errors.MixbitError: 10 samples of a changed network certify nothing beside the 1000 of the anchor. ...
    """
    if _most_chance(n, how.samples, how) > 0.5:
        return
    counts = range(1, n + 1)
    least = bisect_left(counts, True, key=lambda samples: _most_chance(n, samples, how) > 0.5)
    legal = f"{counts[least]} to {n}" if least < n else "more samples of the anchor, n, and then at most as many here"
    raise MixbitError(
        f"{how.samples} samples of a changed network certify nothing beside the {n} of the anchor. Legal at "
        f"alpha={how.alpha:g}, alpha_z={how.alpha_z:g}: {legal}."
    )


def _most_chance(n: int, samples: int, how: Incremental) -> float:
    """The largest chance that can be certified."""
    share = 1.0 if how.mode == "irs" else 0.5
    anchored = float(lower_bound(n, n, share * how.alpha))
    apart = float(upper_bound(0, samples, share * how.alpha_z))
    if how.mode == "both":
        alone = float(lower_bound(samples, samples, (how.alpha + how.alpha_z) / 2))
        return max(anchored - apart, alone)
    new = float(lower_bound(samples, samples, how.alpha + how.alpha_z)) if anchored >= how.gamma else 0.0
    return max(anchored - apart, new)  # where the first is out of reach, the second is larger


def certify_incrementally(
    predictor: Predictor,
    anchors: Sequence[Anchor],
    x: Tensor,
    smoothing: Smoothing,
    incremental: Incremental,
    *,
    done: Callable[[Certificate], None] | None = None,
) -> tuple[Certificate, ...]:
    """Certify a network that was made from the anchor.

    Args:
        predictor: the changed network.
        anchors: one an image, of the same images, noise and seed.
        x: images `(N, ...)`.
        smoothing: what the anchors were made with. An image that the anchor was not asked more about, because its class
            was wrong, has a radius of 0 here too.
        incremental: how.
        done: is given each certificate as soon as it is made.

    Raises:
        MixbitError: as many anchors as images, or the samples that are asked for, are not there.
    """
    if len(anchors) != len(x):
        raise MixbitError(f"{len(anchors)} anchors and {len(x)} images. Legal: one for each.")
    have = min((len(one.said) for one in anchors if len(one.said)), default=incremental.samples)
    if incremental.samples > have:
        raise MixbitError(
            f"samples={incremental.samples}, and the anchor has {have}. Legal: at most as many. Give fewer, or certify "
            "the anchor with a larger n."
        )
    found = []
    for row, one in zip(x, anchors, strict=True):
        certificate = _Image(predictor, row, one, smoothing, incremental).certificate()
        found.append(certificate)
        if done is not None:
            done(certificate)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Image:
    """One image of a changed network."""

    predictor: Predictor
    x: Tensor
    anchor: Anchor
    smoothing: Smoothing
    how: Incremental

    def certificate(self) -> Certificate:
        if not len(self.anchor.said):  # its class was wrong, and is that of the changed network
            return self._made(self.anchor.chosen, 0, 0, 0.0, passes=0)
        anchored = float(lower_bound(self.anchor.hits, len(self.anchor.said), self.how.alpha))
        if self.how.mode == "irs" and anchored >= self.how.gamma:
            return self._fresh()
        return self._replayed()

    def _replayed(self) -> Certificate:
        """From the anchor's first samples."""
        said = np.concatenate([*self._said("estimate", self.how.samples)])
        before, chosen = self.anchor.said[: len(said)], self.anchor.chosen
        differ = (before == chosen) & (said != chosen) if self.how.disparity == "harmful" else before != said
        share = 1.0 if self.how.mode == "irs" else 0.5  # of the chance of an error, for each of two bounds
        anchored = float(lower_bound(self.anchor.hits, len(self.anchor.said), share * self.how.alpha))
        chance = anchored - float(upper_bound(int(differ.sum()), len(said), share * self.how.alpha_z))
        hits = int((said == chosen).sum())
        if self.how.mode == "both":
            alone = float(lower_bound(hits, len(said), (self.how.alpha + self.how.alpha_z) / 2))
            chance = max(chance, alone)
        return self._made(chosen, hits, len(said), max(chance, 0.0), passes=len(said))

    def _fresh(self) -> Certificate:
        """As any network, on samples that nobody has seen: a tenth of them more chooses the class."""
        chooses = max(self.how.samples // 10, 1)
        counts = votes(self.predictor, self.x, self.smoothing, self.anchor.image, "select", chooses)
        chosen = int(counts.argmax())
        hits = sum(int((said == chosen).sum()) for said in self._said("fresh", self.how.samples))
        chance = float(lower_bound(hits, self.how.samples, self.how.alpha + self.how.alpha_z))
        return self._made(chosen, hits, self.how.samples, chance, passes=self.how.samples + chooses)

    def _said(self, purpose: Literal["estimate", "fresh"], count: int) -> Iterator[NDArray[np.int64]]:
        return predictions(self.predictor, self.x, self.smoothing, self.anchor.image, purpose, count)

    def _made(self, chosen: int, hits: int, samples: int, chance: float, passes: int) -> Certificate:
        return Certificate(
            image=self.anchor.image,
            label=self.anchor.label,
            chosen=chosen,
            hits=hits,
            samples=samples,
            chance=chance,
            radius=float(radius_of(chance, self.smoothing.sigma)),
            passes=passes,
        )


def facts(smoothing: Smoothing) -> dict[str, Any]:
    """What anchors depend on, for the settings of a ledger: neither the batch nor when to stop."""
    given = asdict(smoothing)
    return {name: given[name] for name in ("sigma", "n0", "n", "seed", "skip_wrong")}
