"""The embedded digits."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from mixbit import data
from mixbit.data.digits import digits
from mixbit.errors import MissingExtra
from mixbit.testing.options import OptionCases, OptionRow
from tests.data.contract import all_moves, check_split, defaults_of, keywords_of, moves_of, normalises


def pixels_of(split: data.TensorSplit) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


def test_sizes_and_equal_shares_of_the_classes() -> None:
    found = data.load("digits")
    assert (len(found.train), len(found.test), found.num_classes) == (1437, 360, 10)
    assert found.input_shape == (1, 8, 8)
    counts = torch.bincount(found.test.labels)
    assert counts.min() >= 34
    assert counts.max() <= 37


def test_contract() -> None:
    check_split(data.load("digits").test, size=45)


def test_the_split_is_fixed_by_its_seed_and_parts_do_not_overlap() -> None:
    first, again, other = data.load("digits"), data.load("digits", seed=0), data.load("digits", seed=1)
    assert torch.equal(first.test.images, again.test.images)
    assert not torch.equal(first.test.images, other.test.images)
    assert len(pixels_of(first.train) & pixels_of(first.test)) == 0
    assert data.load("digits?seed=1").test.labels.tolist() == other.test.labels.tolist()


def test_all_17_grey_values_stay_apart() -> None:
    assert len(data.load("digits").train.images.unique()) == 17


def test_mean_and_std_are_those_of_the_data() -> None:
    images = torch.cat([x for x, _ in data.load("digits").train.batches(500)])
    assert abs(images.mean().item()) < 0.01
    assert images.std().item() == pytest.approx(1, abs=0.01)


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match=r"mixbit\[data\]"):
        data.load("digits")


def test_augmentation_shifts_by_one_pixel_and_never_mirrors() -> None:
    """A mirrored 2 is no 2."""
    found = digits()
    for split in (found.train, found.test):
        assert isinstance(split, data.TensorSplit) and set(moves_of(split)) == all_moves(1, flip=False)


def test_grey_values_are_stretched_to_the_whole_range_and_stay_with_their_labels() -> None:
    grey, labels = load_digits(return_X_y=True)
    stored = {
        (np.round(row * 255 / 16).astype(np.uint8).tobytes(), int(y)) for row, y in zip(grey, labels, strict=True)
    }
    found = digits(seed=3)
    for split in (found.train, found.test):
        assert isinstance(split, data.TensorSplit)
        assert {(x.numpy().tobytes(), int(y)) for x, y in zip(split.images, split.labels, strict=True)} <= stored
    assert found.classes == tuple("0123456789")


def test_defaults_are_mean_and_deviation_of_the_training_images() -> None:
    """To three digits, of the split of seed 0."""
    images = digits(seed=0).train.images.double() / 255  # type: ignore[attr-defined]
    assert defaults_of(digits) == {"mean": (0.305,), "std": (0.376,), "seed": 0}
    assert float(images.mean()) == pytest.approx(0.305, abs=1e-3) and float(images.std()) == pytest.approx(
        0.376, abs=1e-3
    )


class TestDigitsOptions(OptionCases):
    """What `digits?name=value` does."""

    owner = "digits"
    options = keywords_of(digits)
    rows = (
        normalises("mean", (0.305,), (0.1,), digits),
        normalises("std", (0.376,), (0.9,), digits),
        OptionRow(
            "seed",
            (0, 4),
            seen=lambda value: pixels_of(digits(seed=value).test),  # type: ignore[arg-type]
            holds=lambda one, other: len(one) == len(other) == 360 and len(one & other) < 120,
            says="draws the split",
        ),
    )
