"""Images decoded when they are needed: the usual ImageNet transforms, and a split that reads ahead in threads."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from random import Random
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from torch import Tensor

from mixbit._settings import Range, Side, check_value
from mixbit.data.base import Batch, IndexedSplit, PixelChange
from mixbit.data.memory import normalisation, normalise
from mixbit.data.order import BatchPlan, key
from mixbit.errors import DataError, MissingExtra

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageSplit", "centre_crop", "need_pillow", "random_resized_crop", "to_mode", "to_pixels"]

_AUGMENT = 4
_AHEAD = 2
_LARGEST_RESIZED = 2**26

Crop = Annotated[float, Range(least=0.01, most=1)]
"""Share of the shorter side that a centre crop keeps."""
Workers = Annotated[int, Range(least=0, most=1024)]
"""Decoding threads; 0 takes the cores of the machine."""


class ImageSplit(IndexedSplit):
    """A split whose images are decoded for every batch, in threads, two batches ahead.

    Evaluation and training without augmentation use `centre_crop`, augmentation `random_resized_crop` and a flip.

    Args:
        read: index -> PIL image; called from several threads.
        describe: index -> what to call that image in an error message.
        labels: (N,), any integer type.
        num_classes: labels must be below it.
        mean: three numbers, on the scale of pixel / 255.
        std: the same.
        size: height and width of what the model gets, in pixels.
        crop: share of the shorter side that evaluation keeps.
        workers: threads; 0 takes the cores of the machine, at most 8.
        source: name of the data in error messages.

    Raises:
        DataError: labels out of range or a size that cannot be; and, by `batches`, an image that cannot be read.
    """

    def __init__(
        self,
        read: Callable[[int], Image],
        describe: Callable[[int], str],
        labels: Tensor,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        size: int = 224,
        crop: float = 0.875,
        workers: int = 0,
        source: str = "images",
    ) -> None:
        super().__init__(labels, num_classes, source)
        settings: tuple[tuple[str, float, Any], ...] = (
            ("size", size, Side),
            ("crop", crop, Crop),
            ("workers", workers, Workers),
        )
        for name, value, kind in settings:
            check_value(name, value, kind, room=source, error=DataError)
        self.mean, self.std = normalisation(mean, std, 3, f"{source}, read as RGB")
        self.read, self.describe = read, describe
        self.size, self.crop = size, crop
        self.workers = workers or min(8, os.cpu_count() or 1)

    def _produce(
        self, plans: Iterator[BatchPlan], *, augment: bool, change: PixelChange | None = None
    ) -> Iterator[Batch]:
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="mixbit-images")
        waiting: deque[tuple[Tensor, list[Future[Tensor]]]] = deque()
        try:
            for plan in plans:
                waiting.append(self._submit(pool, plan, augment, change))
                if len(waiting) > _AHEAD:
                    yield self._collect(*waiting.popleft())
            while waiting:
                yield self._collect(*waiting.popleft())
        finally:
            # Also reached when the caller leaves the loop early or an image is unreadable.
            pool.shutdown(wait=True, cancel_futures=True)

    def _submit(
        self, pool: ThreadPoolExecutor, plan: BatchPlan, augment: bool, change: PixelChange | None
    ) -> tuple[Tensor, list[Future[Tensor]]]:
        places = range(len(plan.samples))[plan.part]
        return plan.samples[plan.part], [pool.submit(self._made, plan, place, augment, change) for place in places]

    def _made(self, plan: BatchPlan, place: int, augment: bool, change: PixelChange | None) -> Tensor:
        """(3, size, size) uint8 of the sample at a place of the global batch."""
        # Each sample has its own generator, seeded by its place in the global batch: threads and ranks change nothing.
        seed = key(_AUGMENT, plan.seed, plan.epoch, plan.index, place) if augment else None
        pixels = self._pixels(int(plan.samples[place]), seed)
        if change is None:
            return pixels
        return change(pixels[None], plan, slice(place, place + 1), augment=augment)[0]

    def _collect(self, chosen: Tensor, futures: list[Future[Tensor]]) -> Batch:
        pixels = [future.result() for future in futures]
        empty = torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)
        return normalise(torch.stack(pixels) if pixels else empty, self.mean, self.std), self.labels[chosen]

    def _pixels(self, index: int, seed: int | None) -> Tensor:
        """(3, size, size) uint8 of one sample."""
        try:
            image = to_mode(self.read(index), "RGB")
            if seed is None:
                return to_pixels(centre_crop(image, self.size, self.crop))
            return to_pixels(random_resized_crop(image, self.size, Random(seed)))
        except Exception as cause:  # On damaged files the decoders raise OSError, SyntaxError, struct.error and more.
            raise DataError(f"Cannot read image {self.describe(index)}: {cause}.") from cause


def centre_crop(image: Image, size: int, crop: float = 0.875) -> Image:
    """Resize so that `crop` of the shorter side is `size` pixels, then cut the middle (size, size) out.

    With 224 and 0.875 this is "resize to 256, centre crop 224", bilinear with antialiasing.

    Raises:
        ValueError: the image is so narrow that it would have more than 2^26 pixels when resized.

    >>> from PIL import Image
    >>> centre_crop(Image.new("RGB", (600, 300)), 224).size
    (224, 224)
    """
    short = round(size / crop)
    scale = short / min(image.size)
    width, height = (max(short, int(side * scale)) for side in image.size)
    if width * height > _LARGEST_RESIZED:
        raise ValueError(
            f"its {image.size[0]} x {image.size[1]} pixels would be resized to {width} x {height}; legal are up to "
            f"{_LARGEST_RESIZED} pixels: cut it, or leave it out"
        )
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.resize((width, height), _bilinear()).crop((left, top, left + size, top + size))


def random_resized_crop(image: Image, size: int, random: Random) -> Image:
    """Cut a random 8 to 100 % of the area with a side ratio of 3/4 to 4/3 out, resize it to (size, size), mirror half.

    Szegedy et al. 2015 (arXiv:1409.4842), section 6; ten tries as in torchvision, then the whole image.
    """
    from PIL.Image import Transpose

    left, top, width, height = _random_box(*image.size, random)
    cut = image.crop((left, top, left + width, top + height)).resize((size, size), _bilinear())
    return cut.transpose(Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else cut


def to_mode(image: Image, mode: str) -> Image:
    """Convert to "RGB" or "L".

    Raises:
        ValueError: the pixels are deeper than 8 bits, which pillow would cut off at 255 without a word.
    """
    if image.mode[0] in "IF":
        raise ValueError(f"its pixels (mode {image.mode}) are deeper than 8 bits; save it with 8 bits a channel")
    return image.convert(mode)


def to_pixels(image: Image) -> Tensor:
    """A PIL image as bytes, (C, H, W)."""
    pixels = np.array(image, dtype=np.uint8)
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes))


def need_pillow(what: str) -> None:
    """Raise `MissingExtra` if pillow, which `what` needs, is not installed."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as cause:
        raise MissingExtra(f"{what} needs pillow: pip install 'mixbit[data]'.") from cause


def _random_box(width: int, height: int, random: Random) -> tuple[int, int, int, int]:
    """left, top, width, height of a crop inside the image."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    return 0, 0, width, height


def _bilinear() -> int:
    from PIL.Image import Resampling

    return Resampling.BILINEAR
