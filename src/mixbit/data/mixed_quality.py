"""Data sets whose images are not all of one quality: by sample, by batch, or drifting along the stream."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mixbit.data.base import Batch, IndexedSplit, PixelChange, Split
from mixbit.data.corruption import (
    CLEAN,
    KINDS,
    SEVERITIES,
    Quality,
    Scale,
    check_kind,
    check_severity,
    corrupt,
    level_of,
)
from mixbit.data.order import BatchPlan, key, plan_batches
from mixbit.errors import DataError, did_you_mean

__all__ = ["DEFAULT_KINDS", "MixedQuality", "Mode"]

Mode = Literal["sample", "batch", "stream"]
DEFAULT_KINDS: tuple[str, ...] = (CLEAN, "gaussian_noise", "gaussian_blur")

_QUALITY = 7
_MODES: tuple[Mode, ...] = get_args(Mode)
_FIXED = -1  # stands for the epoch in passes without augmentation
_SEGMENTS = 10


class MixedQuality(IndexedSplit):
    """A split whose images are corrupted, each in its own way; all else is the wrapped split's.

    Corruption comes after the geometric augmentation and before normalisation, on bytes. Kind, severity and noise of a
    sample are a function of (`seed`, its index); in passes with augmentation, that is in training, of (`seed`, index,
    epoch). Batches are (images, labels) as ever: what was done to an image is told by `quality_of` and `qualities`
    alone, and cannot reach a model.

    Which qualities, and how they are mixed, is our completion of DQMQ (arXiv:2302.04453), whose text was not at hand.

    Args:
        base: the clean split; one that has its pixels as bytes, so no `LoaderSplit`.
        kinds: corruptions to draw from, "clean" among them if wanted.
        severities: drawn with equal chance.
        weights: chance of each kind, up to a common factor; equal if not given.
        seed: another seed is another draw. The seed of `batches`, which orders the samples, changes nothing here.
        mode: "sample" draws for every sample; "batch" once a batch; "stream" once a segment of the pass, between
            switch points: for evaluation under drift.
        scale: whose constants; by image size if not given, see `corrupt`.
        switch_points: in mode "stream", the places in the pass (counted in samples, from 0) at which the quality is
            drawn anew, ascending; nine that cut the split into ten equal parts if not given.

    Raises:
        DataError: a base without bytes or corrupted before, or kinds, severities, weights, mode or switch points that
            cannot be.

    >>> from mixbit.data import TensorSplit
    >>> images, labels = torch.full((6, 1, 4, 4), 100, dtype=torch.uint8), torch.arange(6)
    >>> split = MixedQuality(TensorSplit(images, labels, 6, [0.5], [0.5]), seed=1)
    >>> [f"{kind} {severity}" for kind, severity in split.quality_of([0, 1, 2, 3])]
    ['clean 0', 'gaussian_blur 4', 'gaussian_noise 2', 'gaussian_blur 5']
    """

    def __init__(
        self,
        base: Split,
        kinds: Sequence[str] = DEFAULT_KINDS,
        severities: Sequence[int] = SEVERITIES,
        weights: Sequence[float] | None = None,
        *,
        seed: int = 0,
        mode: Mode = "sample",
        scale: Scale | None = None,
        switch_points: Sequence[int] | None = None,
    ) -> None:
        super().__init__(_corruptible(base).labels, _corruptible(base).num_classes, "mixed quality")
        _check_choices(kinds, severities, scale)
        if mode not in _MODES:
            raise DataError(f"Unknown mode {mode!r}; there are: {', '.join(_MODES)}.{did_you_mean(mode, _MODES)}")
        self.base, self.kinds, self.severities = _corruptible(base), tuple(kinds), tuple(severities)
        self.seed, self.mode, self.scale = seed, mode, scale
        self.weights = _shares(self.kinds, weights)
        self.switch_points = self._switches(switch_points)
        # Whole numbers, so that no machine rounds a draw to another kind.
        self._edges = [round(edge * 2**32) for edge in accumulate(self.weights)][:-1]

    def quality_of(self, samples: Sequence[int] | Tensor, *, epoch: int | None = None) -> list[Quality]:
        """What is done to samples, in mode "sample".

        Args:
            samples: indices into this split.
            epoch: of a training pass (with augmentation); None for all others.

        Raises:
            DataError: in the other modes quality belongs to the pass, not to the sample: use `qualities`.
        """
        if self.mode != "sample":
            raise DataError(
                f"In mode {self.mode!r} a sample has no quality of its own; use qualities(batch_size, ...)."
            )
        located = self.base._located(torch.as_tensor(samples, dtype=torch.int64))
        return [self._drawn(index, _FIXED if epoch is None else epoch) for index in located.tolist()]

    def qualities(
        self,
        batch_size: int,
        *,
        epoch: int = 0,
        seed: int = 0,
        shuffle: bool = False,
        augment: bool = False,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        fraction: float = 1.0,
    ) -> Iterator[list[Quality]]:
        """What is done to the images of each batch of `batches` with the same arguments, which it makes none of."""
        plans = plan_batches(
            len(self),
            batch_size,
            epoch=epoch,
            seed=seed,
            shuffle=shuffle,
            start=start,
            rank=rank,
            world=world,
            drop_last=drop_last,
            fraction=fraction,
        )
        for plan in plans:
            located = self._located(plan.samples[plan.part])
            yield self._qualities(located.tolist(), plan, plan.part, augment)

    def _produce(
        self, plans: Iterator[BatchPlan], *, augment: bool, change: PixelChange | None = None
    ) -> Iterator[Batch]:
        if change is not None:
            raise DataError("These images are corrupted already; corrupt the clean split in one go.")
        return self.base._produce(plans, augment=augment, change=self._corrupted)

    def _located(self, samples: Tensor) -> Tensor:
        return self.base._located(samples)

    def _corrupted(self, pixels: Tensor, plan: BatchPlan, places: slice, *, augment: bool) -> Tensor:
        samples = plan.samples[places].tolist()
        groups: dict[Quality, list[int]] = {}
        for row, quality in enumerate(self._qualities(samples, plan, places, augment)):
            groups.setdefault(quality, []).append(row)
        clean = pixels.cpu().numpy()
        changed = clean.copy()
        for (kind, severity), rows in groups.items():
            if kind == CLEAN:
                continue
            changed[rows] = corrupt(
                clean[rows],
                kind,
                severity,
                indices=[samples[row] for row in rows],
                seed=self.seed,
                epoch=plan.epoch if augment else None,
                scale=self.scale,
            )
        return torch.from_numpy(changed).to(pixels.device)

    def _qualities(self, samples: list[int], plan: BatchPlan, places: slice, augment: bool) -> list[Quality]:
        epoch = plan.epoch if augment else _FIXED
        if self.mode == "sample":
            return [self._drawn(index, epoch) for index in samples]
        if self.mode == "batch":
            return [self._drawn(plan.index, epoch)] * len(samples)
        place = plan.first + places.indices(len(plan.samples))[0]
        segments = [bisect_right(self.switch_points, place + row) for row in range(len(samples))]
        drawn = {segment: self._drawn(segment, epoch) for segment in set(segments)}
        return [drawn[segment] for segment in segments]

    def _drawn(self, number: int, epoch: int) -> Quality:
        """The quality of a sample, a batch or a segment: 32 random bits for the kind, 31 for the severity."""
        bits = key(_QUALITY, _MODES.index(self.mode), self.seed, number, epoch)
        kind = self.kinds[bisect_right(self._edges, bits >> 31)]
        if kind == CLEAN:
            return Quality(CLEAN)
        return Quality(kind, self.severities[(bits & 0x7FFFFFFF) * len(self.severities) >> 31])

    def _switches(self, given: Sequence[int] | None) -> tuple[int, ...]:
        if given is None:
            return tuple(len(self) * part // _SEGMENTS for part in range(1, _SEGMENTS))
        if self.mode != "stream":
            raise DataError(f"switch_points are of mode 'stream', not of {self.mode!r}; leave them out.")
        points = tuple(given)
        if list(points) != sorted(set(points)) or (points and points[0] < 1):
            raise DataError(f"switch_points are {list(points)}; they must be whole numbers from 1, ascending.")
        return points


def _corruptible(base: Any) -> IndexedSplit:
    if isinstance(base, MixedQuality):
        raise DataError("These images are corrupted already; corrupt the clean split in one go.")
    if not isinstance(base, IndexedSplit):
        raise DataError(
            f"A {type(base).__name__} gives images that are normalised already; corruption needs bytes. "
            "Give a split of mixbit.data that has them: a TensorSplit, or one of mixbit.data.load."
        )
    return base


def _check_choices(kinds: Sequence[str], severities: Sequence[int], scale: Scale | None) -> None:
    if isinstance(kinds, str) or not kinds or len(set(kinds)) != len(kinds):
        raise DataError(f"kinds are {kinds!r}; name at least one of {', '.join((CLEAN, *KINDS))}, and none twice.")
    if not severities or len(set(severities)) != len(severities):
        raise DataError(f"severities are {list(severities)}; name at least one of 1, 2, 3, 4, 5, and none twice.")
    for kind in kinds:
        check_kind(kind)
    for severity in severities:
        check_severity(KINDS[0], severity)
    if scale is not None:
        level_of(KINDS[0], SEVERITIES[0], scale)


def _shares(kinds: Sequence[str], weights: Sequence[float] | None) -> tuple[float, ...]:
    """Chances that sum to 1."""
    given = [1.0] * len(kinds) if weights is None else [float(weight) for weight in weights]
    total = sum(given)
    if len(given) != len(kinds) or not all(0 <= weight < float("inf") for weight in given) or not total > 0:
        raise DataError(f"weights are {given}; {len(kinds)} kinds need as many numbers from 0, one above 0.")
    return tuple(weight / total for weight in given)
