"""The numbers in prose on ResNet-20's policies: fine-tuned for epochs, calibrated, and after half an epoch."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from common import result, row
from intervals import of_difference, standard_error

BYTES, BITOPS = "weight-bytes=10x", "bitops=3x3"
TEST_IMAGES = 10_000


def accuracies(name: str, budget: str, method: str, key: str) -> list[float]:
    """Of the seeds of a method, in the order of the seeds."""
    rows = [one for one in result(name)["rows"] if (one["budget"], one["name"]) == (budget, method)]
    found = [one[key] for one in sorted(rows, key=lambda one: one["seed"]) if one[key] is not None]
    if not found:
        raise LookupError(f"{name}.json has no {key} of {method} at {budget}.")
    return found


def calibrated(method: str, budget: str) -> float:
    """Accuracy before fine-tuning, between 0 and 1."""
    return statistics.fmean(accuracies("arena", budget, method, "calibrated"))


def tuned(method: str, budget: str) -> float:
    """Mean accuracy after fine-tuning, between 0 and 1."""
    return statistics.fmean(accuracies("arena_tuned", budget, method, "tuned"))


def gain(of: Callable[[str, str], float], method: str, over: str, budget: str) -> float:
    """In points."""
    return 100 * (of(method, budget) - of(over, budget))


def error(of: Callable[[str, str], float], method: str, over: str, budget: str) -> float:
    """Standard error of that gain by the draw of the test images."""
    return of_difference(of(method, budget), of(over, budget), TEST_IMAGES)


def over_seeds(method: str, over: str, budget: str) -> float:
    """Standard error of a gain after fine-tuning by the draw of the seeds, in points."""
    runs = [accuracies("arena_tuned", budget, one, "tuned") for one in (method, over)]
    return 100 * sum(statistics.variance(values) / len(values) for values in runs) ** 0.5


def effort(method: str, what: str = "cpu_seconds") -> float:
    """What a search took."""
    return float(result("arena")["efforts"][method][what])


def percent(*values: float, digits: int = 2) -> str:
    """Accuracies between 0 and 1.

    >>> percent(0.9063, 0.9059), percent(0.9)
    ('90.63 and 90.59', '90.00')
    """
    return joined(*(f"{100 * value:.{digits}f}" for value in values))


def joined(*texts: str) -> str:
    """Numbers in a row.

    >>> joined("1", "2", "3")
    '1, 2 and 3'
    """
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))


def behind(policy: str, budget: str) -> list[float]:
    """Points of a fine-tuned policy behind the uniform one, seed by seed."""
    found = result("cifar10_resnet20")["rows"]
    seeds = sorted({one["seed"] for one in found})
    runs = {
        one: [row(found, policy=one, budget=budget, seed=seed)["accuracy"] for seed in seeds]
        for one in ("uniform", policy)
    }
    return [100 * (best - own) for best, own in zip(runs["uniform"], runs[policy], strict=True)]


def mean_of(policy: str, budget: str) -> float:
    """Mean accuracy over seeds (and draws of random policies)."""
    found: list[dict[str, Any]] = result("cifar10_resnet20")["rows"]
    return statistics.fmean(
        one["accuracy"]
        for one in found
        if one["budget"] == budget
        and one["policy"].startswith(policy)
        and (policy == "random" or one["policy"] == policy)
    )


def gap(budget: str) -> float:
    """Points between LIMPQ's means with and without training, either way."""
    return 100 * abs(mean_of("limpq", budget) - mean_of("limpq-init", budget))


NUMBERS: dict[str, Callable[[], str]] = {
    "cifar.behind_w3": lambda: joined(*(f"{points:.2f}" for points in behind("limpq", "3x3"))),
    "cifar.behind_w4": lambda: joined(*(f"{points:.2f}" for points in behind("limpq", "4x4"))),
    "cifar.error_w3": lambda: f"{of_difference(mean_of('uniform', '3x3'), mean_of('limpq', '3x3'), TEST_IMAGES):.2f}",
    "cifar.error_w4": lambda: f"{of_difference(mean_of('uniform', '4x4'), mean_of('limpq', '4x4'), TEST_IMAGES):.2f}",
    "cifar.random_w3": lambda: percent(mean_of("limpq", "3x3"), mean_of("random", "3x3")),
    "cifar.random_w4": lambda: percent(mean_of("limpq", "4x4"), mean_of("random", "4x4")),
    "cifar.init": lambda: joined(*(f"{gap(budget):.2f}" for budget in ("3x3", "4x4"))),
    "arena.fit_cpu": lambda: f"{effort('fit'):.0f}",
    "arena.hawq_cpu": lambda: f"{effort('hawq-v2'):.0f}",
    "arena.fit_of_hawq": lambda: f"{effort('fit') / effort('hawq-v2'):.2f}",
    "arena.fit_bytes": lambda: f"{gain(calibrated, 'fit', 'uniform', BYTES):.1f}",
    "arena.fit_bytes_error": lambda: f"{error(calibrated, 'fit', 'uniform', BYTES):.2f}",
    "arena.fit_bitops": lambda: f"{gain(calibrated, 'fit', 'uniform', BITOPS):.1f}",
    "arena.fit_bitops_error": lambda: f"{error(calibrated, 'fit', 'uniform', BITOPS):.2f}",
    "arena.hawq_bitops": lambda: f"{gain(calibrated, 'hawq-v2', 'uniform', BITOPS):.1f}",
    "arena.entropy_bitops": lambda: f"{gain(calibrated, 'weight-entropy', 'uniform', BITOPS):.1f}",
    "arena.entropy_error": lambda: f"{error(calibrated, 'weight-entropy', 'uniform', BITOPS):.2f}",
    "arena.one_bytes": lambda: f"{gain(calibrated, 'one-at-a-time', 'uniform', BYTES):.1f}",
    "arena.coupled_bytes": lambda: percent(
        *(calibrated(one, BYTES) for one in ("topological-entropy", "map-size", "weight-entropy"))
    ),
    "arena.clado_cpu": lambda: f"{effort('clado'):.0f}",
    "arena.clado_images": lambda: f"{effort('clado', 'forward_images'):,.0f}",
    "arena.toolkits": lambda: percent(calibrated("mct", BYTES), calibrated("modelopt", BYTES)),
    "arena.toolkits_behind": lambda: joined(
        *(f"{gain(calibrated, 'uniform', one, BYTES):.1f}" for one in ("mct", "modelopt"))
    ),
    "arena.toolkits_error": lambda: f"{error(calibrated, 'uniform', 'modelopt', BYTES):.1f}",
    "arena.limpq_minutes": lambda: f"{effort('limpq') / 60:.0f}",
    "arena.limpq_images": lambda: f"{effort('limpq', 'images'):,.0f}",
    "arena.init_cpu": lambda: f"{effort('limpq-init'):.1f}",
    "arena.limpq_bitops": lambda: percent(calibrated("limpq", BITOPS), calibrated("limpq-init", BITOPS)),
    "arena.limpq_bitops_error": lambda: f"{error(calibrated, 'limpq', 'limpq-init', BITOPS):.2f}",
    "arena.limpq_bytes": lambda: percent(calibrated("limpq", BYTES), calibrated("limpq-init", BYTES)),
    "arena.limpq": lambda: f"{effort('limpq'):,.0f}",
    "tuned.one_seed": lambda: percent(accuracies("arena_tuned", BYTES, "mct", "tuned")[0]),
    "tuned.level": lambda: percent(tuned("uniform", BYTES), tuned("fit", BYTES)),
    "tuned.mct": lambda: percent(tuned("mct", BYTES)),
    "tuned.over_mct": lambda: f"{gain(tuned, 'uniform', 'mct', BYTES):.2f}",
    "tuned.over_mct_seeds": lambda: f"{over_seeds('uniform', 'mct', BYTES):.2f}",
    "tuned.over_mct_images": lambda: f"{error(tuned, 'uniform', 'mct', BYTES):.2f}",
    "tuned.map_size": lambda: f"{gain(tuned, 'uniform', 'map-size', BYTES):.1f}",
    "tuned.map_size_error": lambda: f"{error(tuned, 'uniform', 'map-size', BYTES):.1f}",
    "tuned.bitops": lambda: percent(tuned("uniform", BITOPS), tuned("fit", BITOPS), tuned("hawq-v2", BITOPS)),
    "tuned.bitops_error": lambda: f"{error(tuned, 'uniform', 'hawq-v2', BITOPS):.1f}",
    "tuned.limpq_bitops": lambda: f"{gain(tuned, 'uniform', 'limpq', BITOPS):.1f}",
    "tuned.random_bitops": lambda: f"{gain(tuned, 'uniform', 'random', BITOPS):.1f}",
    "tuned.limpq_bytes": lambda: percent(tuned("limpq", BYTES)),
    "tuned.error": lambda: f"{standard_error(tuned('uniform', BYTES), TEST_IMAGES):.2f}",
}
