"""Digital corruptions on bytes: contrast and colour in whole numbers, JPEG and pixelation by pillow."""

from __future__ import annotations

from io import BytesIO

import numpy as np

from mixbit.data._noise import Pixels
from mixbit.data.images import need_pillow
from mixbit.errors import DataError


def contrast(pixels: Pixels, percent: int) -> Pixels:
    """(x - mean) * c + mean, with the mean of each channel of each image."""
    count = pixels.shape[2] * pixels.shape[3]
    total = pixels.sum(axis=(2, 3), dtype=np.int64)[..., None]
    # By value instead of by pixel: 256 divisions a channel.
    values = (percent * np.arange(256) * count + (100 - percent) * total) // (100 * count)
    flat = pixels.reshape(*pixels.shape[:2], -1)
    found: Pixels = np.take_along_axis(values.astype(np.uint8), flat, axis=2).reshape(pixels.shape)
    return found


def brightness(pixels: Pixels, percent: int) -> Pixels:
    """HSV's value V plus c, at most 1. Hue and saturation stay, so all channels are scaled by the same factor."""
    x = pixels.astype(np.int32)
    value = x.max(axis=1, keepdims=True)
    brighter = np.minimum(100 * value + 255 * percent, 25500)
    # Black has no hue: it becomes grey.
    found: Pixels = np.where(value > 0, x * brighter // np.maximum(100 * value, 1), brighter // 100).astype(np.uint8)
    return found


def saturate(pixels: Pixels, percent: int, added: int) -> Pixels:
    """HSV's saturation S times a plus b, at most 1; grey has hue 0, red, as in scikit-image.

    With V the largest channel and d its distance to the smallest, S = d / V, and a channel x becomes
    V - (V - x) * S' / S.
    """
    if pixels.shape[1] != 3:
        raise DataError(f"saturate needs 3 colour channels, got {pixels.shape[1]}; leave it out for grey images.")
    x = pixels.astype(np.int64)
    value = x.max(axis=1, keepdims=True)
    spread = value - x.min(axis=1, keepdims=True)
    ratio = np.minimum(percent * spread + added * value, 100 * value)  # 100 * S' / S * d
    coloured = (100 * value * spread - (value - x) * ratio) // np.maximum(100 * spread, 1)
    red = np.array([0, added, added]).reshape(1, 3, 1, 1)
    found: Pixels = np.where(spread > 0, coloured, value * (100 - red) // 100).astype(np.uint8)
    return found


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    """Written as a JPEG file and read again."""
    need_pillow("jpeg")
    from PIL import Image

    if pixels.shape[1] not in (1, 3):
        raise DataError(f"jpeg needs 1 or 3 channels, got {pixels.shape[1]}; leave it out for such images.")
    out = np.empty_like(pixels)
    for planes, found in zip(pixels, out, strict=True):
        file = BytesIO()
        Image.fromarray(planes[0] if len(planes) == 1 else np.ascontiguousarray(planes.transpose(1, 2, 0))).save(
            file, "JPEG", quality=quality
        )
        read = np.asarray(Image.open(file))
        found[:] = read if read.ndim == 2 else read.transpose(2, 0, 1)
    return out


def pixelate(pixels: Pixels, factor: float) -> Pixels:
    """Made smaller and large again, each time by the mean of a box."""
    need_pillow("pixelate")
    from PIL import Image

    height, width = pixels.shape[2:]
    small = max(1, int(width * factor)), max(1, int(height * factor))
    out = np.empty_like(pixels)
    for plane, found in zip(pixels.reshape(-1, height, width), out.reshape(-1, height, width), strict=True):
        shrunk = Image.fromarray(plane).resize(small, Image.Resampling.BOX)
        found[:] = np.asarray(shrunk.resize((width, height), Image.Resampling.BOX))
    return out
