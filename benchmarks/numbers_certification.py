"""The numbers in prose on certificates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from common import result
from numbers_arena import joined
from tables_certification import against_float, mean_speed_up, one, rows

__all__ = ["NUMBERS", "lost", "saved", "sigmas", "speed_ups"]


def sigmas() -> list[float]:
    """Those with certificates from an anchor, from the least."""
    return sorted({row["sigma"] for row in rows("incremental", bits="W8A8")})


def lost(bits: str) -> list[float]:
    """Smoothed accuracy less that of float, in points, by sigma."""
    return [against_float(row)[0] for row in rows("certified", bits=bits)]


def speed_ups(mode: str, bits: str = "W8A8") -> list[float | None]:
    """Passes saved by an anchor at an equal average radius, the mean over numbers of samples, by sigma."""
    return [mean_speed_up(rows("incremental", bits=bits, mode=mode, sigma=sigma)) for sigma in sigmas()]


def folds(mode: str) -> str:
    """The same as text."""
    return joined(*("-" if fold is None else f"{fold:.2f}" for fold in speed_ups(mode)))


def saved(bits: str = "W8A8") -> list[float]:
    """Samples that early stopping takes, as a share of all, of each sigma and radius."""
    return [row["samples"] / row["all_samples"] for row in rows("early", bits=bits)]


def speed(bits: str, what: str) -> float:
    """Median CPU time a pass, microseconds."""
    return float(one("speed", bits=bits)[what][0])


def integers() -> dict[str, dict[str, Any]]:
    """What each runtime counted."""
    return {row["on"]: row for row in result("certification")["integers"]}


def moved(on: str) -> int:
    """Counts in which a runtime is away from C, of all samples of all images."""
    found = integers()
    return int(np.abs(np.subtract(found[on]["hits"], found["C"]["hits"])).sum())


NUMBERS: dict[str, Callable[[], str]] = {
    "certified.lost": lambda: joined(*(f"{points:+.1f}" for points in lost("W8A8"))),
    "certified.lost_few": lambda: joined(*(f"{points:+.1f}" for bits in ("W4A4", "W3A3") for points in lost(bits))),
    "certified.folds": lambda: folds("both"),
    "certified.folds_irs": lambda: folds("irs"),
    "certified.early": lambda: f"{100 * min(saved()):.1f} to {100 * max(saved()):.1f}",
    "certified.faster": lambda: f"{speed('float', 'certificate_us') / speed('W8A8', 'certificate_us'):.2f}",
    "certified.faster_alone": lambda: f"{speed('float', 'forward_us') / speed('W8A8', 'forward_us'):.2f}",
    "certified.throughput": lambda: joined(*(f"{row['throughput'][0]:.2f}" for row in rows("speed"))),
    "certified.fake": lambda: f"{moved('fake-quantized'):,}",
    "certified.rounding": lambda: f"{moved('ONNX Runtime'):,}",
}
