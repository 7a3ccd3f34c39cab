"""What pages conclude from numbers holds of the numbers on file: a sentence that a new run overturns is told.

Each row is a sentence of a page, word by word without its comments, and what it means. "Not distinguishable" is within
two standard errors, "better" beyond them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import numbers_arena as arena
import numbers_certification as certificates
import numbers_devices as devices
import numbers_export as export
import numbers_kure as kure
import tables_certification
import tables_steps
import tables_supernet
from common import result
from intervals import differ, of_median
from numbers_arena import BITOPS, BYTES, TEST_IMAGES, calibrated, tuned
from tables_supernet import kendall

RESULTS, KURE, TRANSFER = "docs/results.md", "docs/kure.md", "docs/transfer.md"
QFA, CERTIFICATES = "docs/methods/qfa.md", "docs/certification.md"


def ahead(of: Callable[[str, str], float], one: str, other: str, budget: str) -> bool:
    return of(one, budget) > of(other, budget) and differ(of(one, budget), of(other, budget), TEST_IMAGES)


def apart(of: Callable[[str, str], float], one: str, other: str, budget: str) -> bool:
    return differ(of(one, budget), of(other, budget), TEST_IMAGES)


def beyond(points: float, error: float) -> bool:
    return points > 2 * error


def step_within(steps: dict[str, dict[str, object]], name: str, goal: float) -> bool:
    return of_median(tables_steps.ratios(steps, name))[1] <= goal  # type: ignore[arg-type]


def joint() -> dict[str, dict[str, object]]:
    return dict(result("limpq_step")["steps"])


def others(budget: str) -> set[str]:
    """Searches of ours that are better than the uniform network before fine-tuning, by two standard errors."""
    names = {
        row["name"] for row in result("arena")["rows"] if row["budget"] == budget and row["calibrated"] is not None
    }
    return {name for name in names - {"uniform"} if ahead(calibrated, name, "uniform", budget)}


def same_counts(one: str, other: str) -> bool:
    """Whether every image has as many hits in both runtimes."""
    found = certificates.integers()
    return bool(found[one]["hits"] == found[other]["hits"])


def uniform(kind: str) -> dict[str, float]:
    """Bits -> test accuracy of a supernet's uniform sub-networks, MobileNetV1, seed 0."""
    (row,) = (
        row
        for row in result("supernet")["supernets"]
        if (row["network"], row["seed"], row["activations"]) == ("mobilenetv1-cifar", 0, kind)
    )
    return {bits: one["test"]["accuracy"] for bits, one in row["uniform"].items()}


def batchquant_is_above() -> bool:
    ours, other = uniform("batchquant"), uniform("lsq")
    gaps = sorted(ours, key=lambda bits: other[bits] - ours[bits])
    return min(ours[bits] - other[bits] for bits in gaps) > 0 and all(
        differ(ours[bits], other[bits], TEST_IMAGES) for bits in gaps[:3]
    )


def beside_alone(bits: int) -> int:
    """Whether BatchQuant's uniform sub-network is above (1), below (-1) or as good as one trained alone (0)."""
    (alone,) = (
        row["test"]["accuracy"]
        for row in result("supernet")["dedicated"]
        if (row["network"], row["seed"], row["bits"]) == ("mobilenetv1-cifar", 0, bits)
    )
    member = uniform("batchquant")[str(bits)]
    return (1 if member > alone else -1) if differ(member, alone, TEST_IMAGES) else 0


def taus() -> dict[str, float]:
    """Judge -> Kendall's tau with the accuracy after training, MobileNetV1, seed 0."""
    rows = [row for row in result("supernet")["ranked"] if (row["network"], row["seed"]) == ("mobilenetv1-cifar", 0)]
    truth = [-row["test"]["accuracy"] for row in rows]
    whole = np.arange(len(rows))[None]
    return {name: float(kendall(values, truth, whole)[0]) for name, values in tables_supernet._judges(rows)}


def judged_well() -> bool:
    """Both losses above 0.6, FIT above or level with all, the other scores not above the better loss."""
    found = taus()
    losses = [found[f"supernet ({kind}), loss"] for kind in ("batchquant", "lsq")]
    supernets = [tau for name, tau in found.items() if name.startswith("supernet")]
    others = max(found[name] for name in ("hawq-v2", "limpq", "limpq-init"))
    return min(losses) > 0.6 and found["fit"] >= max(supernets) - 1e-9 and others <= min(losses)


def attacked(part: str, network: str) -> Any:
    return result("attack_findings")[part][network]


def errors(network: str, variant: str) -> list[list[float]]:
    """Share and interval at each radius, from the least."""
    return [row["errors"][variant] for row in attacked("threshold", network)["rows"]]


def nearest(network: str, variant: str) -> list[float]:
    """Mean distance of DeepFool's points on the variant, and its interval."""
    (found,) = (row["l2"] for row in attacked("near", network)["rows"] if row["variant"] == variant)
    return list(found)


def twins_apart(network: str, variant: str) -> bool:
    """Whether the interval of the variant's own distance and that of float have nothing in common."""
    return nearest(network, f"{variant}, twin")[1] > nearest(network, "float")[2]


def policies(name: str) -> list[dict[str, Any]]:
    """Rows of one policy of equal flash, by seed."""
    rows = [row for row in result("attack_policies")["rows"] if row["name"] == name]
    return sorted(rows, key=lambda row: int(row["seed"]))


def left(row: dict[str, Any]) -> list[list[float]]:
    """What each attack leaves: shares of images, and DeepFool's distance, with their intervals."""
    return [row[key] for key in row if key.startswith(("pgd", "square"))] + [row["deepfool"]["l2"]]


def policies_apart(one: str, other: str) -> bool:
    """Whether under any attack intervals of the same seed have nothing in common."""
    return any(
        a[1] > b[2] or b[1] > a[2]
        for x, y in zip(policies(one), policies(other), strict=True)
        for a, b in zip(left(x), left(y), strict=True)
    )


def more_robust_somewhere(one: str, other: str) -> bool:
    """Whether one is above the other on the average of the seeds under any attack."""
    sums = [
        [sum(row[0] for row in attack) for attack in zip(*map(left, policies(name)), strict=True)]
        for name in (one, other)
    ]
    return any(a > b for a, b in zip(*sums, strict=True))


def beside(*, attack: str = "", package: str = "") -> list[dict[str, Any]]:
    """Rows of attacks beside a library's, but for JSMA's pairs."""
    return [
        row
        for row in result("attack_oracles")["rows"]
        if row["attack"].startswith(attack) and package in ("", row["package"]) and row["attack"] != "JSMA, pairs"
    ]


def faster(*attacks: str) -> list[float]:
    """By how much ours is faster than ART's."""
    return [row["cpu_theirs"] / row["cpu_ours"] for name in attacks for row in beside(attack=name, package="art")]


ATTACKS = "docs/attacks.md"

CLAIMS: dict[tuple[str, str], Callable[[], bool]] = {
    (ATTACKS, "ours is nowhere farther than the library's. PGD and AutoAttack leave no more images right"): lambda: all(
        row["ours"] <= row["theirs"] * (1 + 1e-6)
        for row in beside()
        if row["what"] != "robust" or row["attack"].startswith(("PGD", "AutoAttack"))
    ),
    (ATTACKS, "Square leaves one to two points more than torchattacks' on the average of five seeds"): lambda: all(
        0 < row["ours"] - row["theirs"] < 2.5 and row["seeds"] == 5 for row in beside(package="torchattacks")
    ),
    (
        ATTACKS,
        "DeepFool, Carlini-Wagner's both, and PGD where images fall take less than a tenth of ART's time.",
    ): lambda: min(faster("DeepFool", "C&W", "PGD 0.004", "PGD 0.008")) > 10,
    (ATTACKS, "Where images stand, PGD is as fast as ART's, since both make every pass."): lambda: (
        0.8 < max(faster("PGD 0.001")) < 2
    ),
    (ATTACKS, "GeoDA takes a sixteenth of the queries or less, Boundary a half."): lambda: all(
        row["queries_equal"] * part <= row["queries_theirs"]
        for name, part in (("GeoDA", 16), ("Boundary", 2))
        for row in beside(attack=name)
        if row["network"] == "resnet8"
    ),
    (ATTACKS, "no point of the two least radii is an error there, while float errs."): lambda: (
        [one[0] for one in errors("resnet8", "int8")[:2]] == [0, 0] and errors("resnet8", "float")[0][1] > 0
    ),
    (ATTACKS, "There int8 errs as often as float at every radius."): lambda: all(
        one[1] <= other[0] <= one[2]
        for one, other in zip(errors("resnet20", "int8"), errors("resnet20", "float"), strict=True)
    ),
    (ATTACKS, "It does not make int8 err more often than float at any radius here."): lambda: all(
        one[0] <= other[0]
        for network in ("resnet8", "resnet20")
        for one, other in zip(errors(network, "int8"), errors(network, "float"), strict=True)
    ),
    (ATTACKS, "int16 has its boundary where float has it, and int8 farther on ResNet-8 alone."): lambda: (
        not twins_apart("resnet8", "int16")
        and not twins_apart("resnet20", "int16")
        and not twins_apart("resnet20", "int8")
        and nearest("resnet8", "int8, twin")[0] > nearest("resnet8", "float")[2]
    ),
    (
        ATTACKS,
        "the interval of FIT's policy meets that of the uniform one of the same seed under every attack.",
    ): lambda: len(policies("fit")) == 3 and not policies_apart("fit", "uniform"),
    (
        ATTACKS,
        "W8A8 is more accurate, and under no attack more robust than uniform 3 bits on the average of the seeds.",
    ): lambda: (
        not more_robust_somewhere("W8A8", "uniform")
        and min(row["accuracy"] for row in policies("W8A8")) > max(row["accuracy"] for row in policies("uniform"))
    ),
    (ATTACKS, "The random policy of seed 1 came out as the uniform one."): lambda: (
        policies("random")[1]["bits"] == policies("uniform")[1]["bits"]
    ),
    (CERTIFICATES, "None of it can be told from chance."): lambda: all(
        abs(points) <= 2 * error
        for row in tables_certification.rows("certified", bits="W8A8")
        for points, error in [tables_certification.against_float(row)]
    ),
    (CERTIFICATES, "With ours an anchor saves more:"): lambda: all(
        ours > published for ours, published in zip(*map(certificates.speed_ups, ("both", "irs")), strict=True)
    ),
    (CERTIFICATES, "At a sigma of 1 ours saves less than that."): lambda: certificates.speed_ups("both")[-1] < 2.65,
    (CERTIFICATES, "at certified accuracies that are at most two points lower"): lambda: all(
        0 <= row["all_accuracy"] - row["accuracy"] <= 0.02 for row in tables_certification.rows("early")
    ),
    (CERTIFICATES, "each count what the reference executor counts with their rounding, on every image."): lambda: (
        same_counts("ONNX Runtime", "executor as ONNX Runtime rounds") and same_counts("C", "executor")
    ),
    (CERTIFICATES, "With weights for any processor it is another network, and so is the fake-quantized one"): lambda: (
        not (
            same_counts("ONNX Runtime", "ONNX Runtime, weights for any processor") or same_counts("C", "fake-quantized")
        )
    ),
    (QFA, "the loss of either supernet orders policies of one budget nearly as training each of them"): judged_well,
    (QFA, "But no judgement of a supernet is above FIT's score there"): judged_well,
    (QFA, "HAWQ-V2's and LIMPQ's scores are below both losses or level with one."): judged_well,
    (
        QFA,
        "BatchQuant is above LSQ at every uniform bit-width there, by more than two standard errors where the table's "
        "three widest gaps are.",
    ): batchquant_is_above,
    (
        QFA,
        "At W3A3 and W4A4 its sub-networks are not distinguishable from the networks that were trained alone for as "
        "many epochs.",
    ): lambda: not beside_alone(3) and not beside_alone(4),
    (
        QFA,
        "At W2A2 it is above the one that was trained alone, and at W8A8 below, both by more than two standard errors.",
    ): lambda: (beside_alone(2), beside_alone(8)) == (1, -1),
    (RESULTS, "LIMPQ does not beat the uniform network on this problem."): lambda: all(
        points > 0 for budget in ("3x3", "4x4") for points in arena.behind("limpq", budget)
    ),
    (RESULTS, "points at W4A4 (0.42), where either may be chance"): lambda: (
        not any(beyond(points, 0.425) for points in arena.behind("limpq", "4x4"))
    ),
    (RESULTS, "It is not better than the mean of the random policies either"): lambda: all(
        arena.mean_of("limpq", budget) <= arena.mean_of("random", budget) for budget in ("3x3", "4x4")
    ),
    (RESULTS, "At the BitOps of W3A3 FIT and HAWQ-V2 are better than the uniform network"): lambda: (
        {
            "fit",
            "hawq-v2",
        }
        == others(BITOPS)
    ),
    (RESULTS, "No other search beats the uniform network before fine-tuning."): lambda: others(BYTES) == set(),
    (RESULTS, "is below the uniform network at both budgets."): lambda: min(map(devices.behind, (BITOPS, BYTES))) > 0,
    (RESULTS, "The uniform network and FIT's are not distinguishable at a tenth of the bytes"): lambda: (
        not apart(tuned, "uniform", "fit", BYTES)
    ),
    (RESULTS, "is more than the seeds vary"): lambda: beyond(
        arena.gain(tuned, "uniform", "mct", BYTES), arena.over_seeds("uniform", "mct", BYTES)
    ),
    (RESULTS, "and less than other test images might change"): lambda: not apart(tuned, "uniform", "mct", BYTES),
    (RESULTS, "uniform, FIT and HAWQ-V2 (85.10, 85.44 and 84.97 %) are not distinguishable"): lambda: (
        not any(apart(tuned, "uniform", one, BITOPS) for one in ("fit", "hawq-v2"))
    ),
    (RESULTS, "FIT takes less than MCT's call as well"): lambda: export.search("fit")["ratio"] < 1,
    (RESULTS, "The first two are met, with all of their intervals."): lambda: (
        step_within(result("qat_step")["eager"], "W4A4", 1.3)
        and step_within(result("qat_step")["compiled"]["steps"], "W4A4, compiled", 1.08)
    ),
    (RESULTS, "The joint step's median meets its goal and its interval, of eight pairs, does not."): lambda: (
        float(str(joint()["joint, six passes"]["ratio_in_pairs"])) <= 7.5
        and not step_within(joint(), "joint, six passes", 7.5)
    ),
    (KURE, "The direction of the paper's tables is seen on ResNet-20 at 3 weight bits and fewer."): lambda: all(
        beyond(kure.gained("resnet20", label), kure.gained_error("resnet20", label)) for label in ("W3A32", "W2A32")
    ),
    (KURE, "are within what one seed and these images can show"): lambda: (
        not any(
            beyond(abs(kure.gained("resnet20", label)), kure.gained_error("resnet20", label))
            for label in ("float", "W4A32")
        )
    ),
    (KURE, "Steps that are powers of two are not confirmed."): lambda: (
        kure.power_of_two("kure") > kure.power_of_two("plain")
    ),
    (KURE, "has a higher accuracy on the regularised weights"): lambda: all(
        one > other for one, other in kure.searched()
    ),
    (TRANSFER, "no difference that these images can show"): lambda: (
        not any(
            differ(one, kure.photographs("uniform", kure.W6)[0], 456)
            for one in kure.photographs("topological-entropy", kure.W6)
        )
    ),
    (TRANSFER, "FIT is better at the BitOps of W6A6"): lambda: differ(
        kure.photographs("fit", kure.W6)[1], kure.photographs("topological-entropy", kure.W6)[0], 456
    ),
    (TRANSFER, "not distinguishable from topological entropy at those of W7A7"): lambda: (
        not differ(kure.photographs("fit", kure.W7)[1], kure.photographs("topological-entropy", kure.W7)[0], 456)
    ),
    ("docs/microcontrollers.md", "ResNet-8 at half the flash, fine-tuned, cannot be told from 8 bits"): lambda: (
        not differ(devices.accuracy("resnet8", 1.0, "tuned"), devices.accuracy("resnet8", 0.5, "tuned"), 10_000)
    ),
}


@pytest.mark.parametrize(("page", "sentence"), CLAIMS, ids=lambda text: text[:40])
def test_a_sentence_means_what_the_numbers_say(page: str, sentence: str) -> None:
    text = re.sub(r"<!--.*?-->|\*\*", "", (ROOT / page).read_text())
    assert sentence in " ".join(text.split()), "the page does not say this any more: drop the row or renew it"
    assert CLAIMS[page, sentence](), "the numbers on file say otherwise: mend the sentence"
