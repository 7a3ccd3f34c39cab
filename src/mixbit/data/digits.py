"""The handwritten digits that come with scikit-learn: real images without a download."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mixbit._settings import Seed
from mixbit.data.base import DataSet
from mixbit.data.memory import TensorSplit
from mixbit.data.order import key
from mixbit.errors import MissingExtra

__all__ = ["digits"]

TEST_SAMPLES = 360


def digits(*, mean: Sequence[float] = (0.305,), std: Sequence[float] = (0.376,), seed: Seed = 0) -> DataSet:
    """1797 digits (1, 8, 8) of 10 classes (Alpaydin and Kaynak 1998, UCI), 1437 to train on and 360 to test.

    Augmentation is a shift by up to one pixel. Grey values 0 .. 16 are stretched to bytes 0 .. 255.

    Args:
        mean: one number, on the scale of pixel / 255.
        std: the same.
        seed: draws the split, with equal shares of the classes in both parts. A model trained on the split of one seed
            has seen test images of every other seed.

    Raises:
        MissingExtra: scikit-learn is not installed.

    >>> found = digits()
    >>> len(found.train), len(found.test), found.input_shape
    (1437, 360, (1, 8, 8))
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as cause:
        raise MissingExtra("The digits need scikit-learn: pip install 'mixbit[data]'.") from cause
    grey, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(grey).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
    parts = train_test_split(
        range(len(labels)), test_size=TEST_SAMPLES, stratify=labels, random_state=key(seed) % 2**32
    )
    train, test = (
        TensorSplit(images[part], torch.from_numpy(labels)[part], 10, mean, std, pad=1, source="digits")
        for part in parts
    )
    return DataSet(
        name="digits",
        train=train,
        test=test,
        num_classes=10,
        input_shape=(1, 8, 8),
        mean=tuple(mean),
        std=tuple(std),
        classes=tuple("0123456789"),
    )
