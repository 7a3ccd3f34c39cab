"""Corruptions: the published numbers, exact distributions, and bytes that never change."""

from __future__ import annotations

import colorsys
import hashlib
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage, stats

from mixbit.data._blur import disk, gaussian_kernel, zoom_factors
from mixbit.data._noise import random_words, transitions
from mixbit.data.corruption import GROUPS, KINDS, SEVERITIES, STANDARD_KINDS, corrupt, default_scale, level_of
from mixbit.errors import DataError, MissingExtra
from tests.needs import need

Pixels = npt.NDArray[np.uint8]


def uniform_images(count: int = 64, channels: int = 3, height: int = 32, width: int = 32) -> Pixels:
    words = random_words(99, range(count), channels * height * width)
    return (words >> 24).astype(np.uint8).reshape(count, channels, height, width)


def smooth_images(count: int = 4, channels: int = 3, height: int = 32, width: int = 32) -> Pixels:
    """Images with flat parts, slopes and edges."""
    image, plane, row, column = np.ogrid[:count, :channels, :height, :width]
    slope = (7 * row + (3 + image) * column + 40 * plane) % 256
    return np.where((row // 8 + column // 8 + image) % 2 == 0, slope, 30 * plane).astype(np.uint8)


def psnr(clean: Pixels, noisy: Pixels) -> float:
    return float(-10 * np.log10(np.mean(((noisy.astype(float) - clean) / 255) ** 2)))


# --------------------------------------------------------------------------------------- constants and signal


@pytest.mark.parametrize(
    ("kind", "cifar", "imagenet"),
    [
        ("gaussian_noise", (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
        ("shot_noise", (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
        ("impulse_noise", (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
        ("speckle_noise", (0.06, 0.1, 0.12, 0.16, 0.2), (0.15, 0.2, 0.35, 0.45, 0.6)),
        ("gaussian_blur", (0.4, 0.6, 0.7, 0.8, 1), (1, 2, 3, 4, 6)),
        (
            "defocus_blur",
            ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
            ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        ),
        ("jpeg", (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
        ("pixelate", (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
        ("contrast", (75, 50, 40, 30, 15), (40, 30, 20, 10, 5)),
        ("brightness", (5, 10, 15, 20, 30), (10, 20, 30, 40, 50)),
        (
            "saturate",
            ((30, 0), (10, 0), (150, 0), (200, 10), (250, 20)),
            ((30, 0), (10, 0), (200, 0), (500, 10), (2000, 20)),
        ),
        ("motion_blur", ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)), ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    ],
)
def test_published_constants(kind: str, cifar: tuple[Any, ...], imagenet: tuple[Any, ...]) -> None:
    assert tuple(level_of(kind, severity, "cifar") for severity in SEVERITIES) == cifar
    assert tuple(level_of(kind, severity, "imagenet") for severity in SEVERITIES) == imagenet


def test_the_zooms_are_those_of_the_published_ranges() -> None:
    ranges = {
        "cifar": [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)],
        "imagenet": [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)],
    }
    for scale, found in ranges.items():
        for severity, (stop, step) in enumerate(found, start=1):
            count, hundredths = level_of("zoom_blur", severity, scale)  # type: ignore[arg-type]
            assert zoom_factors(count, hundredths) == np.arange(1, stop, step).tolist()


@pytest.mark.parametrize(
    ("scale", "decibels"),
    [("cifar", (28.1, 24.7, 22.3, 21.4, 20.5)), ("imagenet", (22.3, 19.0, 15.8, 13.1, 10.6))],
)
def test_psnr_of_clipped_gaussian_noise(scale: Any, decibels: tuple[float, ...]) -> None:
    images = uniform_images()
    for severity, expected in zip(SEVERITIES, decibels, strict=True):
        assert psnr(images, corrupt(images, "gaussian_noise", severity, scale=scale)) == pytest.approx(
            expected, abs=0.2
        )


def test_psnr_of_gaussian_noise_far_from_the_ends_is_that_of_its_deviation() -> None:
    """Without clipping: -20 log10(std)."""
    images = np.full((64, 3, 32, 32), 128, np.uint8)
    for severity, expected in zip(SEVERITIES, (27.96, 24.44, 21.94, 20.92, 20.00), strict=True):
        assert psnr(images, corrupt(images, "gaussian_noise", severity)) == pytest.approx(expected, abs=0.2)


# Saturate takes colour away first and adds it then; motion blur draws an angle.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("saturate", "motion_blur")])
@pytest.mark.parametrize("scale", ["cifar", "imagenet"])
def test_a_higher_severity_does_more_harm(kind: str, scale: Any) -> None:
    images = uniform_images(16)
    found = [psnr(images, corrupt(images, kind, severity, scale=scale)) for severity in SEVERITIES]
    assert found[0] > found[-1] + 0.1
    assert all(earlier > later - 0.1 for earlier, later in pairwise(found))


# ------------------------------------------------------------------------------------------ distributions


def distribution(kind: str, level: float) -> npt.NDArray[np.float64]:
    """What an alias table means: P(result | value), (256, 256)."""
    table = transitions(kind, level).reshape(256, 256)
    kept = (table >> 8).astype(float) / 2**32
    found = kept.copy()
    for value in range(256):
        np.add.at(found[value], table[value] & 0xFF, 2.0**-8 - kept[value])
    return found


def from_cdf(cdf: Any) -> npt.NDArray[np.float64]:
    """P(result | value) from P(result < k | value), by the definition: clipped, truncated."""
    value, k = np.arange(256)[:, None], np.arange(1, 256)[None]
    edges = np.concatenate([np.zeros((256, 1)), cdf(value, k), np.ones((256, 1))], axis=1)
    return np.diff(edges, axis=1)


def all_levels(kind: str) -> list[float]:
    return sorted({level_of(kind, s, scale) for s in SEVERITIES for scale in ("cifar", "imagenet")})  # type: ignore[arg-type]


@pytest.mark.parametrize("photons", all_levels("shot_noise"))
def test_shot_noise_is_exactly_poisson(photons: int) -> None:
    counts = [-(-k * photons // 255) - 1 for k in range(1, 256)]  # the largest count whose result is below k
    wanted = from_cdf(lambda value, k: stats.poisson.cdf(np.array(counts)[None], value * photons / 255))
    assert np.abs(distribution("shot_noise", photons) - wanted).max() < 2.0**-31


@pytest.mark.parametrize("std", all_levels("gaussian_noise"))
def test_gaussian_noise_is_exactly_normal(std: float) -> None:
    wanted = from_cdf(lambda value, k: stats.norm.cdf((k - value) / (255 * std)))
    assert np.abs(distribution("gaussian_noise", std) - wanted).max() < 2.0**-31


@pytest.mark.parametrize("std", all_levels("speckle_noise"))
def test_speckle_noise_is_exactly_normal_in_parts_of_the_pixel(std: float) -> None:
    wanted = from_cdf(lambda value, k: stats.norm.cdf((k - value) / (np.maximum(value, 1e-9) * std)))
    assert np.abs(distribution("speckle_noise", std) - wanted).max() < 2.0**-31


@pytest.mark.parametrize("share", all_levels("impulse_noise"))
def test_impulse_noise_is_black_and_white_in_equal_parts(share: float) -> None:
    wanted = np.eye(256) * (1 - share)
    wanted[:, 0] += share / 2
    wanted[:, 255] += share / 2
    assert np.abs(distribution("impulse_noise", share) - wanted).max() < 2.0**-31


@pytest.mark.parametrize("kind", GROUPS["noise"])
def test_drawn_pixels_follow_their_distribution(kind: str) -> None:
    value, images = 77, np.full((40, 1, 64, 64), 77, np.uint8)
    drawn = corrupt(images, kind, 3, scale="imagenet", seed=5)
    expected = distribution(kind, level_of(kind, 3, "imagenet"))[value] * drawn.size
    counts = np.bincount(drawn.ravel(), minlength=256)
    rare = expected < 10
    assert counts[rare].sum() <= 3 * expected[rare].sum() + 20
    scale = counts[~rare].sum() / expected[~rare].sum()
    assert stats.chisquare(counts[~rare], expected[~rare] * scale).pvalue > 1e-3


def test_pixels_channels_and_samples_are_independent() -> None:
    noise = corrupt(np.full((64, 3, 32, 32), 128, np.uint8), "gaussian_noise", 5).astype(float) - 127.5
    pairs = [
        (noise[:, 0], noise[:, 1]),
        (noise[:-1], noise[1:]),
        (noise[..., :-1], noise[..., 1:]),
        (noise[..., :-1, :], noise[..., 1:, :]),
    ]
    for first, second in pairs:
        bound = 4 / np.sqrt(first.size)
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < bound


def test_random_words_are_those_of_philox() -> None:
    """Known answer of Philox 4x64-10 with counter and key of zeros but for the block number, as NumPy counts it."""
    own = random_words(7, [3], 8)[0]
    reference = np.random.Philox(key=7, counter=np.array([0, 0, 3, 0], np.uint64)).random_raw(4)
    assert own.tolist() == reference.view("<u4").tolist()
    assert random_words(7, [3], 5)[0].tolist() == own[:5].tolist()


# -------------------------------------------------------------------------------------------------- blurs


@pytest.mark.parametrize(
    ("sigma", "centre", "kept"),
    [
        (0.4, 0.9192, 0.7195),
        (0.6, 0.6638, 0.2455),
        (0.7, 0.5698, 0.1675),
        (0.8, 0.4987, 0.1252),
        (1.0, 0.3989, 0.0796),
        (2.0, None, 0.0199),
        (3.0, None, 0.0088),
        (4.0, None, 0.0050),
        (6.0, None, 0.0022),
    ],
)
def test_gaussian_kernel(sigma: float, centre: float | None, kept: float) -> None:
    """Centre taps, and the part of white noise's variance that two passes keep."""
    kernel = gaussian_kernel(sigma, int(4 * sigma + 0.5)) / 2**20
    assert kernel.sum() == 1
    assert centre is None or kernel.max() == pytest.approx(centre, abs=5e-5)
    assert (kernel**2).sum() ** 2 == pytest.approx(kept, abs=6e-5)


@pytest.mark.parametrize(("severity", "scale"), [(1, "cifar"), (3, "cifar"), (5, "cifar"), (3, "imagenet")])
def test_gaussian_blur_keeps_the_variance_that_it_should(severity: int, scale: Any) -> None:
    white = uniform_images(8, 1, 256, 256)
    kernel = gaussian_kernel(
        level_of("gaussian_blur", severity, scale), int(4 * level_of("gaussian_blur", severity, scale) + 0.5)
    )
    inner = corrupt(white, "gaussian_blur", severity, scale=scale)[..., 16:-16, 16:-16].astype(float)
    rounding = 1 / 12
    expected = ((kernel / 2**20) ** 2).sum() ** 2 * white.astype(float).var() + rounding
    assert inner.var() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("scale", ["cifar", "imagenet"])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_blur_is_scipys(severity: int, scale: Any) -> None:
    images = smooth_images()
    sigma = level_of("gaussian_blur", severity, scale)
    exact = ndimage.gaussian_filter(images / 255.0, (0, 0, sigma, sigma), mode="nearest") * 255
    found = corrupt(images, "gaussian_blur", severity, scale=scale)
    assert np.abs(found + 0.5 - exact).max() < 0.51


@pytest.mark.parametrize("kind", ["gaussian_blur", "zoom_blur", "motion_blur", "contrast", "pixelate"])
@pytest.mark.parametrize("value", [0, 1, 100, 254, 255])
def test_a_constant_image_stays_what_it_is(kind: str, value: int) -> None:
    images = np.full((2, 3, 40, 32), value, np.uint8)
    for scale in ("cifar", "imagenet"):
        for severity in SEVERITIES:
            assert np.array_equal(corrupt(images, kind, severity, scale=scale), images)  # type: ignore[arg-type]


def test_defocus_blur_turns_a_point_into_its_kernel() -> None:
    point = np.zeros((1, 1, 41, 41), np.uint8)
    point[0, 0, 20, 20] = 255
    found = corrupt(point, "defocus_blur", 2, scale="imagenet")[0, 0, 15:26, 15:26]
    assert np.array_equal(found, np.floor(disk(4.0, 0.5) * 255 / 2**20))
    row, column = np.nonzero(found)
    assert np.hypot(row - 5, column - 5).max() < 5.5


def test_defocus_kernels_of_small_radii_are_smoothed_points() -> None:
    taps = gaussian_kernel(0.4, 1) / 2**20
    np.testing.assert_allclose(disk(0.3, 0.4) / 2**20, np.outer(taps, taps), atol=4e-6)
    np.testing.assert_allclose(gaussian_kernel(0.4, 1) / 2**20, [0.0404, 0.9192, 0.0404], atol=5e-5)


def test_defocus_kernels_sum_to_one_but_for_the_two_that_the_publication_brightens() -> None:
    sums = {
        (scale, severity): float(disk(*level_of("defocus_blur", severity, scale)).sum() / 2**20)  # type: ignore[arg-type]
        for scale in ("cifar", "imagenet")
        for severity in SEVERITIES
    }
    assert {place: round(value, 3) for place, value in sums.items() if value != 1} == {
        ("imagenet", 4): 1.013,
        ("imagenet", 5): 1.011,
    }


@pytest.mark.parametrize("size", [(32, 32), (47, 31), (224, 160)])
def test_zoom_blur_is_the_mean_of_scipys_zooms(size: tuple[int, int]) -> None:
    image = smooth_images(1, 3, *size)[0]
    count, hundredths = level_of("zoom_blur", 4, "cifar")
    layers = [image / 255.0] + [clipped_zoom(image / 255.0, factor) for factor in zoom_factors(count, hundredths)]
    exact = np.mean(layers, axis=0) * 255
    assert np.abs(corrupt(image, "zoom_blur", 4, scale="cifar") + 0.5 - exact).max() < 0.51


def clipped_zoom(image: npt.NDArray[np.float64], factor: float) -> npt.NDArray[np.float64]:
    cuts = [int(np.ceil(side / factor)) for side in image.shape[1:]]
    first = [(side - cut) // 2 for side, cut in zip(image.shape[1:], cuts, strict=True)]
    inner = image[:, first[0] : first[0] + cuts[0], first[1] : first[1] + cuts[1]]
    wide = ndimage.zoom(inner, (1, factor, factor), order=1)
    trim = [(big - side) // 2 for big, side in zip(wide.shape[1:], image.shape[1:], strict=True)]
    cut: npt.NDArray[np.float64] = wide[:, trim[0] : trim[0] + image.shape[1], trim[1] : trim[1] + image.shape[2]]
    return cut


def test_motion_blur_draws_a_line_from_each_point() -> None:
    points = np.zeros((40, 1, 41, 41), np.uint8)
    points[:, :, 20, 20] = 255
    found = corrupt(points, "motion_blur", 5, scale="cifar")[:, 0].astype(float)
    angles = []
    for image in found:
        row, column = (axis - 20 for axis in np.nonzero(image))
        assert column.max() <= 0  # each pixel looks ahead, so light moves back
        assert np.hypot(row, column).max() < 19
        angles.append(np.degrees(np.arctan2(row @ image[image > 0], column @ image[image > 0] * -1)))
        assert image.sum() == pytest.approx(255, abs=5)
    assert -45.5 < min(angles) < -25
    assert 25 < max(angles) < 45.5


# ------------------------------------------------------------------------------------------------ digital


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_is_the_published_formula(severity: int) -> None:
    images = smooth_images(3, 3, 20, 33)
    x = images / 255
    mean = x.mean(axis=(2, 3), keepdims=True)
    exact = ((x - mean) * level_of("contrast", severity, "cifar") / 100 + mean).clip(0, 1) * 255
    off = corrupt(images, "contrast", severity) - np.floor(exact + 1e-9)
    assert np.abs(off).max() == 0


@pytest.mark.parametrize("kind", ["brightness", "saturate"])
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("scale", ["cifar", "imagenet"])
def test_colour_is_that_of_hsv(kind: str, severity: int, scale: Any) -> None:
    pixels = np.concatenate([uniform_images(1, 3, 8, 8), smooth_images(1, 3, 8, 8)])
    pixels[0, :, 0, :3] = [[0, 90, 255]] * 3  # black, grey and white
    found = corrupt(pixels, kind, severity, scale=scale)
    level = level_of(kind, severity, scale)
    for image, changed in zip(pixels, found, strict=True):
        for row in range(8):
            for column in range(8):
                hue, saturation, value = colorsys.rgb_to_hsv(*(image[:, row, column] / 255))
                if kind == "brightness":
                    value = min(value + level / 100, 1)
                else:
                    saturation = min(saturation * level[0] / 100 + level[1] / 100, 1)
                exact = np.array(colorsys.hsv_to_rgb(hue, saturation, value)) * 255
                assert np.array_equal(changed[:, row, column], np.floor(exact + 1e-6))


def test_pixelate_gives_as_many_values_as_small_pixels() -> None:
    image = smooth_images(1, 1)[0]
    found = corrupt(image, "pixelate", 5, scale="imagenet")[0]
    assert len({tuple(row) for row in found.tolist()}) <= 8
    assert len({tuple(column) for column in found.T.tolist()}) <= 8
    assert np.abs(found.astype(float).mean() - image.mean()) < 1


def test_jpeg_of_a_higher_quality_is_nearer() -> None:
    images = smooth_images()
    assert psnr(images, corrupt(images, "jpeg", 1)) > psnr(images, corrupt(images, "jpeg", 5)) + 1 > 11


# ----------------------------------------------------------------------------- the same bytes, always

HASHES = {
    "gaussian_noise": "b3b0799874282617",
    "shot_noise": "4ae66bc6cd35bb9e",
    "impulse_noise": "e00d891c18d14c7b",
    "speckle_noise": "1f66c2e41be0fade",
    "gaussian_blur": "279dd11e0d6fb81d",
    "defocus_blur": "79b6b75ec2f9dcbb",
    "motion_blur": "da0273c0963e0454",
    "zoom_blur": "67876903a59754eb",
    "jpeg": "5837cd7abb507d10",
    "pixelate": "d477b308905860d5",
    "contrast": "6aeceb17e0129415",
    "brightness": "373097f13ad75d26",
    "saturate": "b130fd7643d849d8",
}


def digest(kind: str) -> str:
    """All severities and both scales, grey and coloured, of images that are not square."""
    found = hashlib.sha256()
    for scale in ("cifar", "imagenet"):
        for severity in SEVERITIES:
            for channels in (1, 3):
                if kind == "saturate" and channels == 1:
                    continue
                images = smooth_images(3, channels, 24, 40)
                how: Any = {"indices": [5, 0, 10**6], "seed": 12, "epoch": severity, "scale": scale}
                found.update(corrupt(images, kind, severity, **how).tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_hashes(kind: str) -> None:
    if kind == "jpeg":
        need("libjpeg-turbo")
    assert digest(kind) == HASHES[kind]


def test_another_process_gives_the_same_bytes() -> None:
    kinds = ["gaussian_noise", "motion_blur"]
    with ProcessPoolExecutor(1) as pool:
        assert list(pool.map(digest, kinds)) == [digest(kind) for kind in kinds]


@pytest.mark.parametrize("kind", KINDS)
def test_neither_batch_nor_order_changes_an_image(kind: str) -> None:
    images = smooth_images(6)
    how: Any = {"seed": 3, "epoch": 2}
    whole = corrupt(images, kind, 4, indices=range(10, 16), **how)
    for i in range(6):
        assert np.array_equal(corrupt(images[i], kind, 4, indices=[10 + i], **how), whole[i])
    turned = corrupt(images[::-1], kind, 4, indices=list(range(15, 9, -1)), **how)
    assert np.array_equal(turned[::-1], whole)


@pytest.mark.parametrize("kind", [*GROUPS["noise"], "motion_blur"])
def test_seed_index_epoch_and_severity_draw_anew(kind: str) -> None:
    image = smooth_images(1, 3, 64, 64)
    drawn = {
        corrupt(image, kind, 4, scale="imagenet", indices=[index], seed=seed, epoch=epoch).tobytes()
        for index in (0, 1)
        for seed in (0, 1)
        for epoch in (None, 0, 1)
    }
    assert len(drawn) == 12


def test_kinds_draw_apart() -> None:
    """The same random words in two kinds would make a mixture's noises alike."""
    image = np.full((1, 1, 64, 64), 128, np.uint8)
    first, second = (corrupt(image, kind, 5, scale="imagenet") for kind in ("gaussian_noise", "speckle_noise"))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1


def test_the_input_stays_and_the_kind_of_array_is_kept() -> None:
    array = smooth_images(2)
    tensor, before = torch.from_numpy(array.copy()), array.copy()
    found = corrupt(tensor, "gaussian_noise", 3)
    assert isinstance(found, torch.Tensor)
    assert np.array_equal(found.numpy(), corrupt(array, "gaussian_noise", 3))
    assert np.array_equal(array, before)
    assert np.array_equal(tensor.numpy(), before)
    clean = corrupt(array, "clean", 0)
    assert np.array_equal(clean, array)
    assert clean is not array


# ------------------------------------------------------------------------------------- shapes and bad input


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 17, 40), (3, 1, 1), (2, 3, 5, 90), (0, 3, 8, 8), (1, 1, 2, 3)])
def test_grey_small_and_oblong_images(kind: str, shape: tuple[int, ...]) -> None:
    images = (np.arange(np.prod(shape)) % 251).astype(np.uint8).reshape(shape)
    if kind == "saturate" and shape[-3] == 1:
        with pytest.raises(DataError, match="saturate needs 3 colour channels, got 1"):
            corrupt(images, kind, 3)
        return
    for scale in ("cifar", "imagenet"):
        found = corrupt(images, kind, 5, scale=scale)  # type: ignore[arg-type]
        assert found.shape == shape
        assert found.dtype == np.uint8


@pytest.mark.parametrize(
    ("images", "kind", "severity", "options", "message"),
    [
        (np.zeros((3, 4, 4)), "jpeg", 1, {}, r"uint8 images \(C, H, W\).*float64 \(3, 4, 4\)"),
        (torch.zeros(3, 4, 4), "jpeg", 1, {}, r"torch.float32 \(3, 4, 4\)"),
        (np.zeros((4, 4), np.uint8), "jpeg", 1, {}, r"\(4, 4\)"),
        (np.zeros((3, 4, 4), np.uint8), "jepg", 1, {}, r"there are: clean, gaussian_noise.*Did you mean 'jpeg'"),
        (np.zeros((3, 4, 4), np.uint8), "jpeg", 0, {}, "severity 0; it must be 1, 2, 3, 4 or 5"),
        (np.zeros((3, 4, 4), np.uint8), "jpeg", 6, {}, "severity 6"),
        (np.zeros((3, 4, 4), np.uint8), "jpeg", 2.0, {}, r"severity 2\.0"),
        (np.zeros((3, 4, 4), np.uint8), "jpeg", True, {}, "severity True"),
        (np.zeros((3, 4, 4), np.uint8), "clean", 1, {}, "clean has severity 1; it must be 0"),
        (np.zeros((3, 4, 4), np.uint8), "jpeg", 1, {"scale": "tiny"}, "'tiny' of corruptions; there are: cifar, imag"),
        (np.zeros((2, 3, 4, 4), np.uint8), "jpeg", 1, {"indices": [1]}, "2 images need as many indices from 0, got 1"),
        (np.zeros((3, 4, 4), np.uint8), "jpeg", 1, {"indices": [-1]}, r"from 0, got 1: \[-1\]"),
        (np.zeros((2, 4, 4), np.uint8), "jpeg", 1, {}, "jpeg needs 1 or 3 channels, got 2"),
    ],
)
def test_what_cannot_be(images: Any, kind: str, severity: Any, options: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        corrupt(images, kind, severity, **options)


@pytest.mark.parametrize("kind", ["jpeg", "pixelate"])
def test_without_pillow(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtra, match=rf"{kind} needs pillow: pip install 'mixbit\[data\]'"):
        corrupt(smooth_images(1), kind, 1)


def test_default_scale_goes_by_the_shorter_side() -> None:
    assert [default_scale(*size) for size in ((8, 8), (64, 500), (65, 65))] == ["cifar", "cifar", "imagenet"]
    image = uniform_images(1, 1, 65, 65)
    assert np.array_equal(corrupt(image, "gaussian_noise", 1), corrupt(image, "gaussian_noise", 1, scale="imagenet"))


def test_the_groups_hold_every_kind_once() -> None:
    assert sorted(kind for group in GROUPS.values() for kind in group) == sorted(KINDS)
    assert set(STANDARD_KINDS) < set(KINDS)
