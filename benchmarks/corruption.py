"""Corruptions: CPU time by kind, signal-to-noise ratios against the expected ones, and hashes of the images.

    python benchmarks/corruption.py [--fresh] [--smoke]

Writes benchmarks/results/corruption.json, a part a kind. Times are CPU times of one thread, so other work on the
machine changes them little; the best of several rounds counts. Images are uniform noise made from Philox's bits, the
same everywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy loads its BLAS

import numpy as np
import torch

import records
from mixbit.data import MixedQuality, TensorSplit, corrupt
from mixbit.data.corruption import GROUPS, KINDS, SEVERITIES, Scale, level_of

ROUNDS, EPOCHS, TRAINING_IMAGES = 7, 3, 4096
SCALES: tuple[Scale, ...] = ("cifar", "imagenet")
SHAPES: dict[str, tuple[Scale, tuple[int, ...]]] = {
    "32x32": ("cifar", (512, 3, 32, 32)),
    "224x224": ("imagenet", (4, 3, 224, 224)),
}
# Clipped Gaussian noise on uniform images, and far from the ends: to be met within 0.2 dB.
CLIPPED = {"cifar": (28.1, 24.7, 22.3, 21.4, 20.5), "imagenet": (22.3, 19.0, 15.8, 13.1, 10.6)}
LEAST_PER_SECOND = 10_000


def images_of(shape: tuple[int, ...]) -> Any:
    """Uniform bytes."""
    words = np.random.Philox(key=99).random_raw(math.prod(shape) // 8)
    return words.view(np.uint8)[: math.prod(shape)].reshape(shape)


def psnr(clean: Any, noisy: Any) -> float:
    """Peak signal-to-noise ratio in dB."""
    return round(float(-10 * np.log10(np.mean(((noisy.astype(float) - clean) / 255) ** 2))), 2)


def speed(kind: str, scale: Scale, shape: tuple[int, ...], rounds: int) -> float:
    """Images a second of CPU time at severity 3, the best round."""
    images, best = images_of(shape), math.inf
    for _ in range(rounds):
        start = time.process_time()
        corrupt(images, kind, 3, scale=scale)
        best = min(best, time.process_time() - start)
    return round(len(images) / best, -1 if best < len(images) / 100 else 1)


def mixture_speed(count: int) -> dict[str, float]:
    """Images a second of CPU time out of a training pass on CIFAR-sized images: clean, and of mixed quality."""
    images = torch.from_numpy(images_of((count, 3, 32, 32)))
    clean = TensorSplit(images, torch.zeros(count), 1, [0.5] * 3, [0.25] * 3, pad=4, flip=True)
    found = {}
    for name, split in (("clean", clean), ("mixed", MixedQuality(clean))):
        best = math.inf
        for epoch in range(EPOCHS):
            start = time.process_time()
            for _ in split.batches(128, epoch=epoch, shuffle=True, augment=True):
                pass
            best = min(best, time.process_time() - start)
        found[name] = round(count / best, -1)
    return found


def signal(kind: str) -> dict[str, Any]:
    """PSNR on 64 uniform images of 32 x 32 x 3 and a hash of those images, for both scales and all severities."""
    images = images_of((64, 3, 32, 32))
    found: dict[str, Any] = {}
    for scale in SCALES:
        corrupted = [corrupt(images, kind, severity, scale=scale) for severity in SEVERITIES]
        found[scale] = {
            "level": [level_of(kind, severity, scale) for severity in SEVERITIES],
            "psnr_db": [psnr(images, one) for one in corrupted],
            "sha256": [hashlib.sha256(one.tobytes()).hexdigest()[:16] for one in corrupted],
        }
    return found


def table_seconds() -> float:
    """CPU time to make the table of one noise and severity, which happens once a process."""
    start = time.process_time()
    for severity in SEVERITIES:
        corrupt(np.zeros((1, 1, 1, 1), np.uint8), "gaussian_noise", severity, scale="cifar")
    return round((time.process_time() - start) / len(SEVERITIES), 3)


def one_kind(kind: str, shapes: dict[str, tuple[Scale, tuple[int, ...]]], rounds: int) -> dict[str, Any]:
    """The part of one corruption."""
    found = {
        "group": next(group for group, members in GROUPS.items() if kind in members),
        "images_per_cpu_second": {name: speed(kind, *how, rounds) for name, how in shapes.items()},
        **signal(kind),
    }
    print(kind, found["images_per_cpu_second"])
    return found


def main() -> None:
    """Measure what is missing, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rounds, images = (1, 256) if given.smoke else (ROUNDS, TRAINING_IMAGES)
    shapes = {name: (scale, (4, *shape[1:]) if given.smoke else shape) for name, (scale, shape) in SHAPES.items()}
    settings = {"rounds": rounds, "shapes": shapes, "training_images": images, "threads": 1}
    libraries = ("numpy", "pillow", "torch")
    results = records.Results(
        "corruption", settings=settings, libraries=libraries, fresh=given.fresh, smoke=given.smoke
    )
    chosen = KINDS[:2] if given.smoke else KINDS
    parts: dict[str, Callable[[], Any]] = {"table_cpu_s": table_seconds}
    parts |= {f"kinds.{kind}": lambda kind=kind: one_kind(kind, shapes, rounds) for kind in chosen}  # type: ignore[misc]
    parts["training_pass_images_per_cpu_second"] = lambda: mixture_speed(images)
    results.plan(parts)
    found = {name: results.part(name, make) for name, make in parts.items()}
    kinds = {kind: found[f"kinds.{kind}"] for kind in chosen}
    worst = max(
        abs(psnr_db - wanted)
        for scale in SCALES
        for psnr_db, wanted in zip(kinds["gaussian_noise"][scale]["psnr_db"], CLIPPED[scale], strict=True)
    )
    slowest = min(kinds[kind]["images_per_cpu_second"]["32x32"] for kind in GROUPS["noise"] if kind in kinds)
    results.facts(
        severity_of_the_times=3,
        gaussian_noise_psnr={"expected_db": CLIPPED, "worst_difference_db": round(worst, 3), "limit_db": 0.2},
        slowest_noise={"images_per_cpu_second": slowest, "limit": LEAST_PER_SECOND},
    )
    if not given.smoke and (worst > 0.2 or slowest < LEAST_PER_SECOND):
        raise SystemExit(f"limits missed: {worst:.2f} dB, {slowest:.0f} images a second")


if __name__ == "__main__":
    main()
