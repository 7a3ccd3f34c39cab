"""The numbers in prose on KURE, on shifted quantizers, and on the transfer of scores."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from common import result, row
from intervals import of_difference, standard_error
from kure_rows import profiles, searches
from numbers_arena import TEST_IMAGES, joined, percent


def sweep(network: str, run: str, what: str) -> dict[str, dict[str, Any]]:
    """Points of a sweep by their labels, the run as it is among them."""
    found = profiles(network)[run][what]
    return {one["label"]: one for one in (*found["points"], found["reference"])}


def at(network: str, run: str, what: str, label: str) -> float:
    """Accuracy of one point, between 0 and 1."""
    return float(sweep(network, run, what)[label]["accuracy"])


def images() -> int:
    """Test images of all sweeps."""
    return int(sweep("resnet20", "plain", "bits")["float"]["samples"])


def gained(network: str, label: str, what: str = "bits", run: str = "") -> float:
    """Points of the weights with the term over those without."""
    return 100 * (at(network, f"kure{run}", what, label) - at(network, f"plain{run}", what, label))


def gained_error(network: str, label: str, what: str = "bits", run: str = "") -> float:
    """Standard error of that."""
    return of_difference(at(network, f"kure{run}", what, label), at(network, f"plain{run}", what, label), images())


def both(network: str, label: str, what: str, run: str = "") -> str:
    """With the term, and without."""
    return percent(*(at(network, f"{one}{run}", what, label) for one in ("kure", "plain")), digits=1)


def power_of_two(run: str) -> float:
    """Points that steps of powers of two cost ResNet-20."""
    found = profiles("resnet20")[run]["summary"]
    return 100 * float(found["as_trained"] - found["power_of_two"])


def searched() -> list[tuple[float, float]]:
    """Accuracy of every policy on the regularised weights, and on the others."""
    policies = ("plain", "kure")
    return [
        (one[f"{policy} policy on kure weights"], one[f"{policy} policy on plain weights"])
        for one in searches()
        for policy in policies
    ]


def own(method: str, budget: str) -> float:
    """Points of the policy from the regularised weights over the older one, on the regularised weights."""
    one = row(searches(), method=method, budget=budget)
    return 100 * float(one["kure policy on kure weights"] - one["plain policy on kure weights"])


def search_images() -> int:
    """Test images of the comparison of searches."""
    return int(searches()[0]["images"])


def clear() -> int:
    """Policies that are more accurate on the regularised weights by two standard errors."""
    count = search_images()
    return sum(100 * (kure - plain) > 2 * of_difference(kure, plain, count) for kure, plain in searched())


def density(name: str, ratio: float) -> float:
    """Squared error of a density at 4 bits, at a multiple of its best step."""
    found = result("quantizer_shift_theory")
    return float(row(found["curves"], density=name, bits=4)["mse"][found["ratios"].index(ratio)])


def moved(source: str, method: str) -> list[dict[str, Any]]:
    """Rows of one method from one data set to the other, at both budgets."""
    return [one for one in result("transfer")["cifar"] if (one["source"], one["method"]) == (source, method)]


def accuracy(found: dict[str, Any], policy: str) -> float:
    """Of the transferred or the target's own policy."""
    return float(row(found["rows"], policy=policy)["calibrated_accuracy"])


def own_ahead(method: str) -> list[float]:
    """Points of the target's own policy over the transferred one, both ways and at both budgets."""
    both_ways = [one for source in ("cifar10", "fashion-mnist") for one in moved(source, method)]
    return [100 * (accuracy(one, "own") - accuracy(one, "transferred")) for one in both_ways]


def order(method: str) -> float:
    """Rank correlation of the scores of both data sets, mean over sides and bits."""
    found = moved("cifar10", method)[0]["agreement"]["spearman"]
    return statistics.fmean(x for side in found.values() for x in side.values() if x is not None)


def photographs(method: str, budget: str) -> list[float]:
    """Accuracies of a method's policies on the photographs: by scores of CIFAR-10, and of photographs."""
    found = [one for one in result("transfer")["mobilenet_rows"] if (one["method"], one["budget"]) == (method, budget)]
    return [float(one["accuracy"]) for one in found]


def fit_errors() -> list[float]:
    """Standard errors of the differences that `own_ahead` gives of FIT; both test sets have 10,000 images."""
    both_ways = [one for source in ("cifar10", "fashion-mnist") for one in moved(source, "fit")]
    return [of_difference(accuracy(one, "own"), accuracy(one, "transferred"), TEST_IMAGES) for one in both_ways]


def agreement(method: str) -> dict[str, Any]:
    """Of MobileNetV2's scores from CIFAR-10 and from photographs."""
    return dict(result("transfer")["mobilenet_agreement"][method])


def photograph_order(method: str) -> float:
    """Rank correlation of those scores, mean over sides and bits."""
    found = agreement(method)
    return statistics.fmean(x for side in ("weight", "activation") for x in found[side].values() if x is not None)


def photograph_error(budget: str) -> float:
    """Standard error of the points of topological entropy over the uniform network."""
    one, other = photographs("topological-entropy", budget)[0], photographs("uniform", budget)[0]
    return of_difference(one, other, result("transfer")["mobilenet"]["images"])


W6, W7 = "bitops=6x6", "bitops=7x7"

NUMBERS: dict[str, Callable[[], str]] = {
    "theory.four_bits": lambda: f"{density('normal', 1.0) / density('uniform', 1.0):.2f}",
    "kure.images": lambda: f"{images():,}",
    "kure.error": lambda: (
        f"{standard_error(at('resnet20', 'kure', 'bits', 'float'), images()):.1f} to "
        f"{standard_error(at('resnet20', 'plain', 'bits', 'W3A32'), images()):.1f}"
    ),
    "kure.w3": lambda: f"{gained('resnet20', 'W3A32'):.1f}",
    "kure.w3_error": lambda: f"{gained_error('resnet20', 'W3A32'):.1f}",
    "kure.w2": lambda: f"{gained('resnet20', 'W2A32'):.1f}",
    "kure.float": lambda: f"{-gained('resnet20', 'float'):.2f}",
    "kure.float_error": lambda: f"{gained_error('resnet20', 'float'):.2f}",
    "kure.w4": lambda: f"{gained('resnet20', 'W4A32'):.2f}",
    "kure.w4_error": lambda: f"{gained_error('resnet20', 'W4A32'):.2f}",
    "kure.twice_w4": lambda: both("resnet20", "2", "steps"),
    "kure.twice_w3": lambda: both("resnet20", "2", "steps_w3"),
    "kure.narrow_w4": lambda: both("resnet20", "0.8", "steps"),
    "kure.steps_error": lambda: f"{gained_error('resnet20', '2', 'steps_w3'):.1f}",
    "kure.powers": lambda: joined(*(f"{power_of_two(run):.1f}" for run in ("kure", "plain"))),
    "kure.qat": lambda: f"{-gained('resnet20', 'as trained', run='-W4A4'):.2f}",
    "kure.qat_error": lambda: f"{gained_error('resnet20', 'as trained', run='-W4A4'):.2f}",
    "kure.qat_w3": lambda: both("resnet20", "3", "bits", "-W4A4"),
    "kure.qat_w2": lambda: both("resnet20", "2", "bits", "-W4A4"),
    "kure.qat_narrow": lambda: both("resnet20", "0.65", "steps", "-W4A4"),
    "kure.mobilenet_kurtosis": lambda: f"{profiles('mobilenet')['plain']['weights']['mean']:.0f}",
    "kure.mobilenet_after": lambda: f"{profiles('mobilenet')['kure']['weights']['mean']:.1f}",
    "kure.mobilenet_float": lambda: f"{-gained('mobilenet', 'float'):.2f}",
    "kure.mobilenet_float_error": lambda: f"{gained_error('mobilenet', 'float'):.2f}",
    "kure.mobilenet_w5": lambda: f"{gained('mobilenet', 'W5A32'):.1f}",
    "kure.mobilenet_error": lambda: f"{gained_error('mobilenet', 'W5A32'):.1f}",
    "kure.mobilenet_wider": lambda: percent(at("mobilenet", "kure", "steps", "1.1"), digits=1),
    "kure.mobilenet_plain": lambda: percent(
        max(one["accuracy"] for one in sweep("mobilenet", "plain", "steps").values()), digits=1
    ),
    "kure.mobilenet_qat": lambda: both("mobilenet", "as trained", "bits", "-W4A4"),
    "kure.search_images": lambda: f"{search_images():,}",
    "kure.search_clear": lambda: f"{clear()}",
    "kure.search_policies": lambda: f"{len(searched())}",
    "kure.search_entropy": lambda: joined(*(f"{own('weight-entropy', f'bitops={one}'):.1f}" for one in ("4x4", "3x4"))),
    "kure.search_sqnr": lambda: joined(*(f"{own('sqnr', f'bitops={one}'):.1f}" for one in ("4x4", "3x4"))),
    "kure.search_fit": lambda: joined(*(f"{-own('fit', f'bitops={one}'):.1f}" for one in ("4x4", "3x4"))),
    "kure.search_error": lambda: f"{of_difference(0.9, 0.9, search_images()):.1f}",
    "transfer.te_order": lambda: f"{order('topological-entropy'):.2f}",
    "transfer.fit_order": lambda: f"{order('fit'):.2f}",
    "transfer.init_order": lambda: f"{order('limpq-init'):.2f}",
    "transfer.fit_ahead": lambda: f"{min(own_ahead('fit')):.1f} to {max(own_ahead('fit')):.1f}",
    "transfer.fit_error": lambda: f"{min(fit_errors()):.1f} to {max(fit_errors()):.1f}",
    "transfer.te_w7": lambda: (
        f"{100 * (photographs('topological-entropy', W7)[0] - photographs('uniform', W7)[0]):.1f}"
    ),
    "transfer.te_w7_error": lambda: f"{photograph_error(W7):.1f}",
    "transfer.te_equal": lambda: joined(
        *(f"{100 * agreement('topological-entropy')[one]['equal_share']:.0f}" for one in (W6, W7))
    ),
    "transfer.te_w6": lambda: joined(
        *(f"{100 * (one - photographs('uniform', W6)[0]):.1f}" for one in photographs("topological-entropy", W6))
    ),
    "transfer.te_w6_error": lambda: f"{photograph_error(W6):.1f}",
    "transfer.fit_w6": lambda: percent(*photographs("fit", W6), digits=1),
    "transfer.fit_w7": lambda: percent(*photographs("fit", W7), digits=1),
    "transfer.photo_fit_order": lambda: f"{photograph_order('fit'):.2f}",
    "transfer.images": lambda: f"{result('transfer')['mobilenet']['images']}",
}
