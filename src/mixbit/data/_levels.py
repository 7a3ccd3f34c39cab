"""Severities 1 to 5 of every corruption, as published with CIFAR-10-C and ImageNet-C.

Hendrycks & Dietterich 2019 (arXiv:1903.12261); the numbers are those of the programs that made the two data sets
(make_cifar_c.py and imagenet_c/corruptions.py of github.com/hendrycks/robustness).
"""

from __future__ import annotations

from typing import Any, Literal

__all__ = ["GROUPS", "LEVELS", "NUMBERS", "Scale"]

Scale = Literal["cifar", "imagenet"]

GROUPS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    "blur": ("gaussian_blur", "defocus_blur", "motion_blur", "zoom_blur"),
    "digital": ("jpeg", "pixelate", "contrast", "brightness", "saturate"),
}
"""Group -> kinds. Brightness stands under weather in the paper, saturate among the extras; both only recolour."""

NUMBERS = {kind: number for number, kind in enumerate((kind for group in GROUPS.values() for kind in group), start=1)}
"""Kind -> number in the key of its random stream. New kinds go to the end, or all recorded images change."""

LEVELS: dict[str, dict[Scale, tuple[Any, ...]]] = {
    # Standard deviation, on pixels in [0, 1].
    "gaussian_noise": {"cifar": (0.04, 0.06, 0.08, 0.09, 0.10), "imagenet": (0.08, 0.12, 0.18, 0.26, 0.38)},
    # Photons at a pixel of 1.
    "shot_noise": {"cifar": (500, 250, 100, 75, 50), "imagenet": (60, 25, 12, 5, 3)},
    # Share of pixels that turn black or white.
    "impulse_noise": {"cifar": (0.01, 0.02, 0.03, 0.05, 0.07), "imagenet": (0.03, 0.06, 0.09, 0.17, 0.27)},
    # Standard deviation in parts of the pixel.
    "speckle_noise": {"cifar": (0.06, 0.10, 0.12, 0.16, 0.20), "imagenet": (0.15, 0.20, 0.35, 0.45, 0.60)},
    # Standard deviation in pixels.
    "gaussian_blur": {"cifar": (0.4, 0.6, 0.7, 0.8, 1.0), "imagenet": (1.0, 2.0, 3.0, 4.0, 6.0)},
    # Radius of the disk, and standard deviation of its anti-aliasing, in pixels.
    "defocus_blur": {
        "cifar": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
        "imagenet": ((3.0, 0.1), (4.0, 0.5), (6.0, 0.5), (8.0, 0.5), (10.0, 0.5)),
    },
    # Radius and standard deviation of ImageMagick's motion blur, in pixels.
    "motion_blur": {
        "cifar": ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)),
        "imagenet": ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0)),
    },
    # Number of zooms and their distance in hundredths, from 1.00: (7, 1) is 1.00, 1.01, ..., 1.06.
    "zoom_blur": {
        "cifar": ((7, 1), (12, 1), (16, 1), (21, 1), (26, 1)),
        "imagenet": ((12, 1), (16, 1), (11, 2), (13, 2), (11, 3)),
    },
    # Quality of the JPEG file.
    "jpeg": {"cifar": (80, 65, 58, 50, 40), "imagenet": (25, 18, 15, 10, 7)},
    # Factor on height and width.
    "pixelate": {"cifar": (0.95, 0.9, 0.85, 0.75, 0.65), "imagenet": (0.6, 0.5, 0.4, 0.3, 0.25)},
    # The rest are whole hundredths, so that their results are exact. Factor on the distance from the channel's mean.
    "contrast": {"cifar": (75, 50, 40, 30, 15), "imagenet": (40, 30, 20, 10, 5)},
    # Added to HSV's value.
    "brightness": {"cifar": (5, 10, 15, 20, 30), "imagenet": (10, 20, 30, 40, 50)},
    # Factor on HSV's saturation, and what is added to it.
    "saturate": {
        "cifar": ((30, 0), (10, 0), (150, 0), (200, 10), (250, 20)),
        "imagenet": ((30, 0), (10, 0), (200, 0), (500, 10), (2000, 20)),
    },
}
