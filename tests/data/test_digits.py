"""The embedded digits."""

from __future__ import annotations

import sys

import pytest
import torch

from mixbit import data
from mixbit.errors import MissingExtra
from tests.data.contract import check_split


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
