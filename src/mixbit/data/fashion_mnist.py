"""Fashion-MNIST from its standard idx files, packed or plain."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mixbit.data.base import DataSet
from mixbit.data.memory import TensorSplit
from mixbit.errors import DataError

__all__ = ["fashion_mnist", "files", "read_idx"]

CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
# The third byte of the magic number: 8 is unsigned byte; the fourth is the number of dimensions.
_UNSIGNED_BYTE = 0x0800


def fashion_mnist(folder: str, *, mean: Sequence[float] = (0.286,), std: Sequence[float] = (0.353,)) -> DataSet:
    """Fashion-MNIST (Xiao et al. 2017), 60,000 training and 10,000 test images (1, 28, 28) of 10 classes, in memory.

    Augmentation is a shift by up to two pixels, and a flip. MNIST's own files have the same names and can be read too,
    without `augment`.

    Args:
        folder: the folder with train-images-idx3-ubyte.gz and the three others, packed or not.
        mean: one number, on the scale of pixel / 255.
        std: the same.

    Raises:
        DataError: a file is missing, truncated or no idx file, counts differ, or a label is above 9.
    """
    train, test = (_split(Path(folder), prefix, mean, std) for prefix in ("train", "t10k"))
    return DataSet(
        name="fashion-mnist",
        train=train,
        test=test,
        num_classes=len(CLASSES),
        input_shape=(1, 28, 28),
        mean=tuple(mean),
        std=tuple(std),
        classes=CLASSES,
    )


def files(folder: str) -> list[Path]:
    """The files that `fashion_mnist` reads."""
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return [_find(Path(folder), f"{prefix}-{kind}") for prefix in ("train", "t10k") for kind in kinds]


def read_idx(file: Path) -> npt.NDArray[np.uint8]:
    """Read an idx file of unsigned bytes, packed if its name ends in .gz (format: yann.lecun.com/exdb/mnist).

    Raises:
        DataError: the file is truncated, too long, or of another type.
    """
    content = _content(file)
    magic = struct.unpack(">I", content[:4])[0] if len(content) >= 4 else 0
    dimensions = magic & 0xFF
    if magic & ~0xFF != _UNSIGNED_BYTE or not 1 <= dimensions <= 4:
        raise DataError(f"{str(file)!r} is no idx file of unsigned bytes: it begins with {content[:4].hex()!r}.")
    head = 4 + 4 * dimensions
    shape = struct.unpack(f">{dimensions}I", content[4:head]) if len(content) >= head else (0,)
    expected = head + math.prod(shape)
    if len(content) != expected:
        raise DataError(
            f"{str(file)!r} holds {len(content)} bytes, its head (shape {shape}) promises {expected}; fetch it again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=head).reshape(shape)


def _split(folder: Path, prefix: str, mean: Sequence[float], std: Sequence[float]) -> TensorSplit:
    images = read_idx(_find(folder, f"{prefix}-images-idx3-ubyte"))
    labels = read_idx(_find(folder, f"{prefix}-labels-idx1-ubyte"))
    source = f"{folder}/{prefix}"
    if images.shape[1:] != (28, 28) or labels.ndim != 1:
        raise DataError(f"{source}: images have shape {images.shape} and labels {labels.shape}; expected (N, 28, 28).")
    # frombuffer gives read-only memory, which torch does not take.
    pixels = torch.from_numpy(images.copy()).unsqueeze(1)
    return TensorSplit(
        pixels, torch.from_numpy(labels.copy()), len(CLASSES), mean, std, pad=2, flip=True, source=source
    )


def _find(folder: Path, name: str) -> Path:
    for file in (folder / f"{name}.gz", folder / name):
        if file.is_file():
            return file
    raise DataError(f"Fashion-MNIST: neither {name}.gz nor {name} is in {str(folder)!r}.")


def _content(file: Path) -> bytes:
    if file.suffix != ".gz":
        return file.read_bytes()
    try:
        with gzip.open(file) as packed:
            return packed.read()
    except (OSError, EOFError, zlib.error) as cause:
        size = file.stat().st_size
        raise DataError(
            f"{str(file)!r} ({size} bytes) is truncated or no gzip file: {cause}; fetch it again."
        ) from cause
