"""CIFAR-10 from its standard binary files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from mixbit._settings import Count, Side, check_value
from mixbit.data.base import DataSet
from mixbit.data.memory import TensorSplit
from mixbit.errors import DataError

__all__ = ["cifar10", "files"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILES = ("test_batch.bin",)
_FOLDER = "cifar-10-batches-bin"
_RECORD_BYTES = 1 + 3 * 32 * 32
_PAD = 4
_AT_ONCE = 2000


def cifar10(
    folder: str,
    *,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
    size: Side = 32,
    records: Count = 10_000,
) -> DataSet:
    """CIFAR-10 (Krizhevsky 2009), 50,000 training and 10,000 test images (3, 32, 32) of 10 classes, in memory.

    Augmentation is a crop out of the image padded by 4 pixels, and a flip. The default mean and std are ImageNet's, as
    the published ResNet-20 weights (akamaster/pytorch_resnet_cifar10) expect.

    Args:
        folder: the folder that holds data_batch_1.bin, or its parent.
        mean: one number a channel, on the scale of pixel / 255.
        std: the same.
        size: height and width of the images; others than 32 are resized once, bilinear, and take `(size / 32)^2` of the
            memory (614 MB for the training images at 64).
        records: images in each of the six files, 10,000 in the public ones.

    Raises:
        DataError: a file is missing or of another size than `records` images, or a label is above 9.
    """
    for name, value, kind in (("size", size, Side), ("records", records, Count)):
        check_value(name, value, kind, room="CIFAR-10", error=DataError)
    place = _find(Path(folder))
    splits = []
    for files in (TRAIN_FILES, TEST_FILES):
        images, labels = _read(place, files, records)
        pad = round(_PAD * size / 32)
        splits.append(
            TensorSplit(_resized(images, size), labels, len(CLASSES), mean, std, pad=pad, flip=True, source=str(place))
        )
    return DataSet(
        name="cifar10",
        train=splits[0],
        test=splits[1],
        num_classes=len(CLASSES),
        input_shape=(3, size, size),
        mean=tuple(mean),
        std=tuple(std),
        classes=CLASSES,
    )


def files(folder: str) -> list[Path]:
    """The files that `cifar10` reads."""
    place = _find(Path(folder))
    return [place / name for name in (*TRAIN_FILES, *TEST_FILES)]


def _find(folder: Path) -> Path:
    for place in (folder, folder / _FOLDER):
        if any((place / name).is_file() for name in (*TRAIN_FILES, *TEST_FILES)):
            return place
    raise DataError(
        f"No CIFAR-10 binary files in {str(folder)!r} or its {_FOLDER}/; expected {TRAIN_FILES[0]} to {TRAIN_FILES[-1]}"
        f" and {TEST_FILES[0]} (the 'binary version' of https://www.cs.toronto.edu/~kriz/cifar.html)."
    )


def _resized(images: torch.Tensor, size: int) -> torch.Tensor:
    """(N, 3, size, size) uint8, rounded to the nearest."""
    if size == images.shape[-1]:
        return images
    parts = (images[first : first + _AT_ONCE] for first in range(0, len(images), _AT_ONCE))
    return torch.cat([F.interpolate(part.float(), size, mode="bilinear").round().to(torch.uint8) for part in parts])


def _read(place: Path, files: Sequence[str], records: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) of some files."""
    rows = np.concatenate([_read_file(place / name, records) for name in files])
    images = torch.from_numpy(np.ascontiguousarray(rows[:, 1:])).view(-1, 3, 32, 32)
    return images, torch.from_numpy(rows[:, 0].astype(np.int64))


def _read_file(file: Path, records: int) -> npt.NDArray[np.uint8]:
    if not file.is_file():
        raise DataError(f"CIFAR-10: {file.name} is missing in {str(file.parent)!r}; unpack the archive again.")
    expected, size = records * _RECORD_BYTES, file.stat().st_size
    if size != expected:
        raise DataError(
            f"CIFAR-10: {str(file)!r} has {size} bytes, expected {expected} ({records} records of {_RECORD_BYTES}); "
            "the file is truncated or of another version: fetch it again."
        )
    rows = np.fromfile(file, dtype=np.uint8).reshape(records, _RECORD_BYTES)
    wrong = np.flatnonzero(rows[:, 0] >= len(CLASSES))
    if len(wrong):
        found = rows[wrong[0], 0]
        raise DataError(f"CIFAR-10: {str(file)!r} record {wrong[0]} has label {found}; labels must be 0 to 9.")
    return rows
