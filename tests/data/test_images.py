"""Transforms of decoded images, and reading ahead in threads."""

from __future__ import annotations

import math
import threading
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch.nn import functional as F

from mixbit.data.images import ImageSplit, _random_box, centre_crop, random_resized_crop, to_mode, to_pixels
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


@pytest.mark.parametrize("size", [(600, 400), (400, 600), (500, 500)])
def test_random_boxes_are_uniform_in_area_side_ratio_and_place(size: tuple[int, int]) -> None:
    """Below a third of the area every draw fits, so that the distributions are those of the paper."""
    (width, height), draws = size, Random(5)
    boxes = [_random_box(width, height, draws) for _ in range(4000)]
    assert all(left >= 0 and top >= 0 and left + w <= width and top + h <= height for left, top, w, h in boxes)
    areas = [w * h / (width * height) for _, _, w, h in boxes]
    assert 0.077 < min(areas) < 0.1 and max(areas) > (0.98 if width == height else 0.85)
    small = [box for box, area in zip(boxes, areas, strict=True) if area < 0.33]
    if width == height:  # hardly a draw is refused
        assert len(small) / 4000 == pytest.approx(0.25 / 0.92, rel=0.25)
    ratios = [math.log(w / h) / math.log(4 / 3) for _, _, w, h in small]
    places = [(left / (width - w), top / (height - h)) for left, top, w, h in small]
    for found, low, high in (
        ([w * h / (width * height) for _, _, w, h in small], 0.08, 0.33),
        (ratios, -1.0, 1.0),
        ([x for x, _ in places], 0.0, 1.0),
        ([y for _, y in places], 0.0, 1.0),
    ):
        assert stats.kstest(found, "uniform", args=(low, high - low)).pvalue > 1e-3
    assert abs(np.corrcoef(np.array(places).T)[0, 1]) < 0.15


def test_where_no_box_fits_the_whole_image_is_taken() -> None:
    assert {_random_box(1000, 3, Random(seed)) for seed in range(20)} == {(0, 0, 1000, 3)}


def test_a_random_crop_is_its_box_resized() -> None:
    """And mirrored or not, by the draw that comes after the box."""
    image, mirrored = picture(3, 60, 40), 0
    for seed in range(12):
        draws = Random(seed)
        left, top, width, height = _random_box(60, 40, draws)
        box = torch.from_numpy(np.array(image)).permute(2, 0, 1)[:, top : top + height, left : left + width]
        wanted = F.interpolate(box[None].float(), (16, 16), mode="bilinear", antialias=True)[0]
        flipped = draws.random() < 0.5
        found = to_pixels(random_resized_crop(image, 16, Random(seed))).float()
        assert float((found - (wanted.flip(2) if flipped else wanted)).abs().max()) <= 2
        mirrored += flipped
    assert 0 < mirrored < 12


@pytest.mark.parametrize(("size", "crop"), [(16, 0.875), (16, 0.5), (11, 1.0), (30, 0.8)])
@pytest.mark.parametrize("shape", [(50, 33), (33, 50)])
def test_a_centre_crop_is_the_image_resized_by_its_shorter_side(shape: tuple[int, int], size: int, crop: float) -> None:
    image = picture(4, *shape)
    short = round(size / crop)
    width, height = (max(short, int(side * short / 33)) for side in shape)
    whole = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    wanted = F.interpolate(whole, (height, width), mode="bilinear", antialias=True)[0]
    top, left = round((height - size) / 2), round((width - size) / 2)
    wanted = wanted[:, top : top + size, left : left + size]
    assert float((to_pixels(centre_crop(image, size, crop)).float() - wanted).abs().max()) <= 2


def test_every_place_of_every_batch_has_its_own_crop() -> None:
    split = ImageSplit(lambda _: picture(1, 40, 30), str, torch.zeros(24), 1, MEAN, STD, size=8, workers=2)
    passes = [
        torch.cat([x for x, _ in split.batches(4, augment=True, **how)]) for how in ({}, {"epoch": 1}, {"seed": 1})
    ]
    assert len(torch.cat(passes).flatten(1).unique(dim=0)) == 72
    plain = torch.cat([x for x, _ in split.batches(4)])
    assert len(plain.flatten(1).unique(dim=0)) == 1


def test_images_are_normalised_by_channel() -> None:
    split = ImageSplit(lambda _: Image.new("RGB", (9, 9), (10, 100, 250)), str, torch.zeros(1), 1, (0.1, 0.2, 0.3),
                       (0.5, 0.25, 0.125), size=8)  # fmt: skip
    found = next(split.batches(1))[0][0].flatten(1).unique(dim=1).flatten().tolist()
    assert found == pytest.approx(
        [(10 / 255 - 0.1) / 0.5, (100 / 255 - 0.2) / 0.25, (250 / 255 - 0.3) / 0.125], abs=1e-5
    )


@pytest.mark.parametrize(("given", "cores", "wanted"), [(3, 16, 3), (0, 2, 2), (0, 16, 8), (0, None, 1)])
def test_threads_are_those_asked_for_or_the_cores(
    given: int, cores: int | None, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many read at once, and no more."""
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    meeting, now, most = threading.Barrier(wanted), threading.Semaphore(wanted), list[bool]()

    def read(index: int) -> Image.Image:
        most.append(now.acquire(blocking=False))
        meeting.wait(timeout=30)
        now.release()
        return picture(index)

    split = ImageSplit(read, str, torch.zeros(4 * wanted), 1, MEAN, STD, size=8, workers=given)
    assert sum(len(x) for x, _ in split.batches(2 * wanted)) == 4 * wanted and all(most)


def test_grey_palette_and_transparent_images_become_rgb() -> None:
    grey = Image.new("L", (2, 2), 77)
    assert to_pixels(to_mode(grey, "RGB")).flatten().unique().tolist() == [77]
    assert to_pixels(to_mode(Image.new("RGBA", (2, 2), (1, 2, 3, 0)), "RGB"))[:, 0, 0].tolist() == [1, 2, 3]
    assert to_pixels(to_mode(picture(0), "L")).shape == (1, 16, 20)


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
