"""Transforms of decoded images, and reading ahead in threads."""

from __future__ import annotations

import threading
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from mixbit.data.images import ImageSplit, centre_crop, random_resized_crop, to_pixels
from mixbit.errors import DataError
from tests.data.contract import check_split

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def picture(index: int, width: int = 20, height: int = 16) -> Image.Image:
    pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def split_of(count: int = 11, **options: object) -> ImageSplit:
    labels = torch.arange(count) % 3
    return ImageSplit(picture, lambda i: f"number {i}", labels, 3, MEAN, STD, **({"size": 8} | options))


def test_contract() -> None:
    check_split(split_of())


def test_the_number_of_threads_changes_nothing() -> None:
    one, many = split_of(workers=1), split_of(workers=5)
    pairs = zip(one.batches(4, augment=True), many.batches(4, augment=True), strict=True)
    assert all(torch.equal(x, u) for (x, _), (u, _) in pairs)


def test_pixels_keep_planes_and_places() -> None:
    image = Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3))
    assert to_pixels(image)[1].tolist() == [[1, 4, 7], [10, 13, 16]]
    assert to_pixels(image.convert("L")).shape == (1, 2, 3)


@pytest.mark.parametrize("size", [(50, 33), (33, 50), (8, 8), (5, 100), (300, 299)])
def test_centre_crop_takes_the_middle(size: tuple[int, int]) -> None:
    """A horizontal and a vertical ramp keep their middle in the middle."""
    width, height = size
    ramp = np.zeros((height, width, 3), dtype=np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width).round()
    ramp[..., 1] = np.linspace(0, 255, height).round()[:, None]
    found = to_pixels(centre_crop(Image.fromarray(ramp), 16)).float()
    assert found.shape == (3, 16, 16)
    assert found[0].mean().item() == pytest.approx(127.5, abs=12)
    assert found[1].mean().item() == pytest.approx(127.5, abs=12)


def test_crop_of_one_keeps_the_whole_of_a_square_image() -> None:
    image = picture(0, 12, 12)
    assert torch.equal(to_pixels(centre_crop(image, 12, 1.0)), to_pixels(image))


def test_random_crops_stay_inside_and_vary_in_area() -> None:
    """Each pixel of a ramp tells its own column, so the spread of a crop tells its width."""
    ramp = np.tile(np.linspace(0, 255, 256).astype(np.uint8)[None, :, None], (64, 1, 3))
    spreads = []
    for seed in range(200):
        row = to_pixels(random_resized_crop(Image.fromarray(ramp), 32, Random(seed)))[0, 0].int()
        spreads.append(int((row[-1] - row[0]).abs()))
        assert bool((row.diff() >= 0).all()) or bool((row.diff() <= 0).all())
    assert min(spreads) < 60
    assert max(spreads) <= 255


def test_half_of_the_random_crops_are_mirrored() -> None:
    ramp = np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (64, 1, 3))
    rows = [to_pixels(random_resized_crop(Image.fromarray(ramp), 16, Random(s)))[0, 0].int() for s in range(400)]
    assert 160 < sum(int(row[-1] < row[0]) for row in rows) < 240


def test_an_unreadable_image_is_named_and_threads_end() -> None:
    def read(index: int) -> Image.Image:
        if index == 5:
            raise OSError("image file is truncated")
        return picture(index)

    split = ImageSplit(read, lambda i: f"'cat/{i}.png'", torch.zeros(9, dtype=torch.int64), 1, MEAN, STD, size=8)
    with pytest.raises(DataError, match=r"Cannot read image 'cat/5.png': image file is truncated"):
        list(split.batches(2))
    assert not [t for t in threading.enumerate() if t.name.startswith("mixbit-images")]


def test_deep_pixels_are_refused_rather_than_cut_off() -> None:
    deep = Image.fromarray(np.full((9, 9), 40_000, dtype=np.uint16))
    split = ImageSplit(lambda i: deep, str, torch.zeros(1, dtype=torch.int64), 1, MEAN, STD, size=8)
    with pytest.raises(DataError, match="deeper than 8 bits"):
        next(split.batches(1))


def test_leaving_a_pass_early_ends_its_threads() -> None:
    batches = split_of(count=40).batches(2)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("mixbit-images")]


@pytest.mark.parametrize("options", [{"size": 0}, {"crop": 0.0}, {"crop": 1.1}, {"workers": -1}])
def test_options_that_cannot_be(options: dict[str, float]) -> None:
    with pytest.raises(DataError, match=r"(size|crop|workers)=-?[\d.]+ is illegal\. Legal: a (whole )?number from"):
        split_of(**options)


def test_channels_are_three() -> None:
    with pytest.raises(DataError, match="3 channels need as many numbers"):
        ImageSplit(picture, str, torch.zeros(1), 1, (0.5,), (0.5,))


@pytest.mark.parametrize("shape", [(60_000, 1), (1, 60_000)])
def test_an_image_too_narrow_to_be_resized_is_named(shape: tuple[int, int]) -> None:
    """It would become millions of pixels wide."""
    with pytest.raises(ValueError, match="60000.* pixels would be resized to .*cut it, or leave it out"):
        centre_crop(Image.new("RGB", shape), 32)
