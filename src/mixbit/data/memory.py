"""Images held as bytes in memory, cropped, flipped and normalised a whole batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mixbit._settings import Positive, check_value
from mixbit.data.base import Batch, IndexedSplit, PixelChange
from mixbit.data.order import BatchPlan, generator
from mixbit.errors import DataError

__all__ = ["TensorSplit", "crop_and_flip", "normalisation", "normalise"]

_AUGMENT = 3


class TensorSplit(IndexedSplit):
    """A split of images in memory.

    Args:
        images: (N, C, H, W), uint8.
        labels: (N,), any integer type.
        num_classes: labels must be below it.
        mean: one number a channel, on the scale of pixel / 255.
        std: the same.
        pad: augmentation shifts an image by up to this many pixels each way; zeros come in.
        flip: augmentation mirrors half of the images left to right.
        source: name of the data in error messages.

    Raises:
        DataError: shapes or types that do not fit, or a label out of range.

    >>> split = TensorSplit(torch.full((3, 1, 2, 2), 255, dtype=torch.uint8), torch.tensor([0, 1, 0]), 2, [0.5], [0.5])
    >>> images, labels = next(split.batches(2))
    >>> images.shape, images[0, 0, 0, 0].item(), labels.tolist()
    (torch.Size([2, 1, 2, 2]), 1.0, [0, 1])
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        pad: int = 0,
        flip: bool = False,
        source: str = "images",
    ) -> None:
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise DataError(f"{source}: images must be uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}.")
        if len(images) != len(labels):
            raise DataError(f"{source}: {len(images)} images but {len(labels)} labels.")
        super().__init__(labels, num_classes, source)
        self.images = images
        self.pad, self.flip = pad, flip
        self.mean, self.std = normalisation(mean, std, images.shape[1], source)

    def to(self, device: str | torch.device) -> TensorSplit:
        """A split with these images on `device`, which then does the pixel work; batches hold the same numbers."""
        moved = TensorSplit.__new__(TensorSplit)
        moved.__dict__.update(self.__dict__)
        for name in ("images", "labels", "mean", "std"):
            setattr(moved, name, getattr(self, name).to(device))
        return moved

    def _produce(
        self, plans: Iterator[BatchPlan], *, augment: bool, change: PixelChange | None = None
    ) -> Iterator[Batch]:
        moves = augment and (self.pad > 0 or self.flip)
        for plan in plans:
            chosen = plan.samples[plan.part].to(self.images.device)
            pixels = self.images[chosen]
            if moves:
                pixels = self._augmented(pixels, plan)
            if change is not None:
                pixels = change(pixels, plan, plan.part, augment=augment)
            yield normalise(pixels, self.mean, self.std), self.labels[chosen]

    def _augmented(self, pixels: Tensor, plan: BatchPlan) -> Tensor:
        # Drawn for the global batch and then cut, so that a sample meets the same crop on any number of processes.
        random = generator(_AUGMENT, plan.seed, plan.epoch, plan.index)
        total = len(plan.samples)
        shifts = torch.randint(0, 2 * self.pad + 1, (2, total), generator=random)[:, plan.part]
        mirrored = (torch.rand(total, generator=random) < 0.5)[plan.part] & self.flip
        return crop_and_flip(pixels, self.pad, shifts[0], shifts[1], mirrored)


def crop_and_flip(pixels: Tensor, pad: int, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
    """Pad images with zeros on all sides, cut the old size out again, and mirror some.

    Args:
        pixels: (N, C, H, W), any type.
        pad: width of the border in pixels.
        top: (N,) int64 on any device, first row of the cut, 0 .. 2 * pad; `pad` leaves the image where it was.
        left: (N,) the same for columns.
        mirrored: (N,) bool, which results to flip left to right.

    Returns:
        (N, C, H, W), the same type.

    >>> image = torch.tensor([[[[1, 2], [3, 4]]]])
    >>> crop_and_flip(image, 1, torch.tensor([1]), torch.tensor([2]), torch.tensor([False])).tolist()
    [[[[2, 0], [4, 0]]]]
    """
    count, channels, height, width = pixels.shape
    columns = left[:, None] + torch.arange(width)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    rows = top[:, None] + torch.arange(height)
    # One gather over flat pixel numbers does crop and flip together, and needs no index for channels and samples.
    flat = (rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]).flatten(1).to(pixels.device)
    padded = F.pad(pixels, (pad, pad, pad, pad)).flatten(2)
    return padded.gather(2, flat[:, None, :].expand(-1, channels, -1)).view(count, channels, height, width)


def normalisation(mean: Sequence[float], std: Sequence[float], channels: int, source: str) -> tuple[Tensor, Tensor]:
    """What `normalise` takes, (C, 1, 1) each, from numbers on the scale of pixel / 255.

    Raises:
        DataError: not one number a channel, or one that is not finite, or a `std` that is not above 0.

    >>> [float(value) for value in normalisation((0.5,), (0.2,), 1, "images")]
    [127.5, 51.0]
    """
    if not len(mean) == len(std) == channels:
        raise DataError(f"{source}: {channels} channels need as many numbers in mean {mean} and std {std}.")
    for name, values, kind in (("mean", mean, float), ("std", std, Positive)):
        for value in values:
            check_value(name, value, kind, room=source, error=DataError)
    found = (torch.tensor([float(value) for value in values]) for values in (mean, std))
    scaled_mean, scaled_std = (values.mul(255).view(-1, 1, 1) for values in found)
    return scaled_mean, scaled_std


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(pixels - mean) / std in float32; `mean` and `std` (C, 1, 1) are on the scale of the pixels."""
    return pixels.to(torch.float32).sub_(mean).div_(std)
