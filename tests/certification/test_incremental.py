import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from mixbit.certification import (
    Anchor,
    Certificate,
    Incremental,
    Smoothing,
    anchor,
    certify,
    certify_incrementally,
    lower_bound,
    need_certified,
    need_samples,
    upper_bound,
)
from mixbit.certification._noise import copies
from mixbit.data import InputSpace
from mixbit.errors import MixbitError
from mixbit.testing.attacks import LinearPredictor
from mixbit.testing.options import OptionCases, OptionRow, fields_of, higher

SMALL = Smoothing(sigma=0.02, n0=40, n=600)


class Said:
    """Says what is on a list: sample by sample, whatever it is asked of."""

    name, differentiable, space = "a list", False, InputSpace()

    def __init__(self, classes: Sequence[int]) -> None:
        self.classes, self.at = torch.tensor(classes), 0

    def logits(self, x: Tensor) -> Tensor:
        found = self.classes[self.at : self.at + len(x)]
        self.at += len(x)
        return torch.nn.functional.one_hot(found, 3).float()


def anchored(hits: int, samples: int, *, chosen: int = 1) -> Anchor:
    said = np.full(samples, chosen, dtype=np.uint16)
    said[hits:] = 0
    return Anchor(image=0, label=1, chosen=chosen, hits=hits, said=said)


def changed(before: Anchor, now: Sequence[int], **how: Any) -> Certificate:
    smoothing = Smoothing(sigma=1.0, n=len(before.said))
    incremental = Incremental(samples=len(now), **how)
    return certify_incrementally(Said([*now, *[1] * 200]), [before], torch.zeros(1, 3), smoothing, incremental)[0]


def shown(**how: Any) -> int:
    before = anchored(9500, 10000)
    found = certify_incrementally(
        Said([1] * 2000), [before], torch.zeros(1, 3), Smoothing(sigma=1.0), Incremental(**how)
    )
    return found[0].passes


class TestIncrementalOptions(OptionCases):
    owner = Incremental
    options = fields_of(Incremental)
    rows = (
        OptionRow("samples", (100, 500), seen=lambda it: shown(samples=it), holds=lambda a, b: (a, b) == (100, 500)),
        OptionRow("mode", ("irs", "both"), seen=lambda it: _chance([1] * 950 + [0] * 50, mode=it), holds=higher),
        OptionRow(
            "disparity", ("all", "harmful"), seen=lambda it: _chance([0] * 20 + [1] * 980, disparity=it, mode="irs"),
            holds=lambda a, b: a == b,
        ),
        OptionRow(
            "disparity", ("all", "harmful"), holds=higher,
            seen=lambda it: changed(anchored(500, 1000), [1] * 1000, disparity=it, mode="irs").chance,
        ),
        # Where new samples are asked for, a tenth more choose the class.
        OptionRow(
            "gamma", (0.9, 0.99), seen=lambda it: shown(gamma=it, mode="irs"),
            holds=lambda a, b: (a, b) == (1100, 1000),
        ),
        OptionRow("alpha", (0.001, 0.1), seen=lambda it: _chance([1] * 1000, alpha=it, mode="irs"), holds=higher),
        OptionRow("alpha_z", (0.001, 0.1), seen=lambda it: _chance([1] * 1000, alpha_z=it, mode="irs"), holds=higher),
    )  # fmt: skip


def _chance(now: Sequence[int], **how: Any) -> float:
    return changed(anchored(9500, 10000), now, **how).chance


def test_the_papers_bound_end_to_end() -> None:
    now = [1] * 994 + [0] * 6
    found = changed(anchored(9500, 10000), now, mode="irs", disparity="all")
    assert found.radius == pytest.approx(1.439218, abs=1e-6) and found.hits == 994 and found.passes == 1000
    assert found.chance == pytest.approx(0.92495562, abs=1e-8)


def test_harmful_disagreements_are_those_that_take_the_class_away() -> None:
    before = anchored(500, 1000)  # the second half is another class
    now = [0] * 10 + [1] * 490 + [1] * 30 + [0] * 470
    bound = float(lower_bound(500, 1000, 0.001))
    every, harmful = (changed(before, now, mode="irs", disparity=which) for which in ("all", "harmful"))
    assert every.chance == pytest.approx(bound - float(upper_bound(40, 1000, 0.001)))
    assert harmful.chance == pytest.approx(bound - float(upper_bound(10, 1000, 0.001)))


def test_of_two_bounds_the_better_counts_each_with_half_of_the_error() -> None:
    alike = [1] * 950 + [0] * 50
    near = changed(anchored(9500, 10000), alike)
    wanted = float(lower_bound(9500, 10000, 0.0005)) - float(upper_bound(50, 1000, 0.0005))
    alone = float(lower_bound(950, 1000, 0.001))
    assert near.chance == pytest.approx(max(wanted, alone)) and alone > wanted
    few = changed(anchored(9500, 10000), [1] * 100)
    replayed = float(lower_bound(9500, 10000, 0.0005)) - float(upper_bound(0, 100, 0.0005))
    assert few.chance == pytest.approx(max(replayed, float(lower_bound(100, 100, 0.001))))
    worse = changed(anchored(9000, 10000), [1] * 90 + [0] * 10, disparity="harmful")
    assert worse.chance == pytest.approx(
        max(
            float(lower_bound(9000, 10000, 0.0005)) - float(upper_bound(10, 100, 0.0005)),
            float(lower_bound(90, 100, 0.001)),
        )
    )


def test_where_the_anchor_is_sure_the_paper_takes_new_samples() -> None:
    sure, unsure = anchored(10000, 10000), anchored(9000, 10000)
    now = [2] * 30 + [1] * 70 + [1] * 970 + [0] * 30  # a hundred choose
    found = certify_incrementally(
        Said(now), [sure], torch.zeros(1, 3), Smoothing(sigma=1.0), Incremental(mode="irs", samples=1000)
    )[0]
    assert (found.chosen, found.hits, found.passes) == (1, 970, 1100)
    assert found.chance == pytest.approx(float(lower_bound(970, 1000, 0.002)))
    again = changed(unsure, [1] * 1000, mode="irs")
    assert again.passes == 1000 and again.chance < 0.9
    assert changed(sure, [1] * 1000, mode="irs", gamma=1.0).passes == 1000


def test_the_changed_network_is_shown_the_anchors_samples() -> None:
    asked: list[Tensor] = []

    class Listening(LinearPredictor):
        def logits(self, x: Tensor) -> Tensor:
            asked.append(x)
            return super().logits(x)

    predictor = Listening()
    x = torch.full((1, 1, 4, 4), 0.52)
    y = predictor.logits(x).argmax(1)
    anchors = anchor(predictor, x, y, SMALL, images=[4])
    asked.clear()
    certify_incrementally(predictor, anchors, x, SMALL, Incremental(samples=128))
    assert torch.equal(torch.cat(asked), copies(x[0], 0.02, 0, 4, "estimate", 0, 128))


def test_the_same_network_keeps_its_certificates_but_for_the_bound_of_no_difference() -> None:
    predictor = LinearPredictor()
    x = 0.5 + 0.03 * torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = predictor.logits(x).argmax(1)
    whole, anchors = certify(predictor, x, y, SMALL), anchor(predictor, x, y, SMALL)
    assert [(one.chosen, one.hits) for one in anchors] == [(one.chosen, one.hits) for one in whole]
    how = Incremental(samples=600, mode="irs", gamma=1.0, disparity="all")
    for one, base in zip(certify_incrementally(predictor, anchors, x, SMALL, how), whole, strict=True):
        assert one.chance == pytest.approx(max(base.chance - float(upper_bound(0, 600, 0.001)), 0.0))
        assert one.label == base.label and one.image == base.image


def _lowest(counts: NDArray[np.int64], n: int, alpha: float) -> NDArray[np.float64]:
    return np.asarray(lower_bound(counts, n, alpha))


def test_bounds_hold_as_often_as_they_say() -> None:
    """20 000 pairs of networks: 10 000 samples of the anchor, of which the changed one is shown 1000."""
    random, n, few, alpha = np.random.default_rng(0), 10_000, 1_000, 0.05
    for p, harm, gain in ((0.9, 0.01, 0.005), (0.7, 0.03, 0.02), (0.9, 0.05, 0.04)):
        # Of each sample: both the class, harm, gain, both another one. The first thousand are shown to both.
        parts = [p - harm, harm, gain, 1 - p - gain]
        shown = random.multinomial(few, parts, size=20_000)
        hits = shown[:, 0] + shown[:, 1] + random.binomial(n - few, p, size=20_000)
        now, harmful, differ = shown[:, 0] + shown[:, 2], shown[:, 1], shown[:, 1] + shown[:, 2]
        true = p - harm + gain
        irs = _lowest(hits, n, alpha) - upper_bound(differ, few, alpha)
        tight = _lowest(hits, n, alpha) - upper_bound(harmful, few, alpha)
        ours = np.maximum(_lowest(hits, n, alpha / 2) - upper_bound(harmful, few, alpha / 2), _lowest(now, few, alpha))
        for bound in (irs, tight, ours):
            assert (bound > true).mean() <= 2 * alpha
        radii = [norm.ppf(np.clip(bound, 0.5, 1)).mean() for bound in (irs, tight, ours)]
        assert radii[1] >= radii[0] and radii[2] >= radii[0] - 0.02


def test_anchors_survive_a_file() -> None:
    one = anchored(300, 1000)
    found = Anchor.from_json(json.loads(json.dumps(one.to_json())))
    assert np.array_equal(found.said, one.said) and found.said.dtype == np.uint16
    assert (found.image, found.label, found.chosen, found.hits) == (0, 1, 1, 300)
    assert len(one.to_json()["said"]) < 100
    for broken, said in (({**one.to_json(), "hits": 299}, "299 hits"), ({"image": 1}, "no anchor of an image"),
                         ({**one.to_json(), "said": "!"}, "no anchor of an image")):  # fmt: skip
        with pytest.raises(MixbitError, match=said):
            Anchor.from_json(broken)


def test_an_image_whose_class_is_wrong_is_not_asked_more_about() -> None:
    predictor = LinearPredictor(classes=2)
    x = torch.stack([0.5 + 0.05 * predictor.weight[one] / predictor.weight[one].norm() for one in (0, 1)]).view(
        2, 1, 4, 4
    )
    y, few = torch.tensor([0, 0]), replace(SMALL, skip_wrong=True)
    kept, all_kept = anchor(predictor, x, y, few), anchor(predictor, x, y, SMALL)
    assert [len(one.said) for one in kept] == [600, 0] and [len(one.said) for one in all_kept] == [600, 600]
    assert (kept[1].chosen, kept[1].hits) == (1, 0) and Anchor.from_json(kept[1].to_json()).chosen == 1
    (right, wrong), (same, other) = (
        certify_incrementally(predictor, one, x, few, Incremental(samples=100)) for one in (kept, all_kept)
    )
    assert (wrong.radius, wrong.passes, wrong.samples, wrong.chosen) == (0.0, 0, 0, 1)
    assert right == same and other.radius > 0 and not other.right
    with pytest.raises(MixbitError, match="samples=601, and the anchor has 600"):
        certify_incrementally(predictor, kept, x, few, Incremental(samples=601))


def test_an_anchor_has_its_own_certificates() -> None:
    predictor = LinearPredictor()
    x = 0.5 + 0.03 * torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(3, dtype=torch.int64)
    for smoothing in (SMALL, replace(SMALL, skip_wrong=True, alpha=0.1)):
        wanted = certify(predictor, x, y, smoothing)
        assert tuple(one.certificate(smoothing) for one in anchor(predictor, x, y, smoothing)) == wanted


def test_an_anchor_that_has_nothing_to_pass_on_is_refused() -> None:
    smoothing = Smoothing(sigma=0.5, n=1000)
    wrong, unsure, right = anchored(1000, 1000, chosen=2), anchored(540, 1000), anchored(560, 1000)
    with pytest.raises(MixbitError, match=r"radius of the anchor is 0 on 2 images.*sigma 0\.5.*\?noise=0\.5"):
        need_certified([wrong, unsure], smoothing)
    need_certified([wrong, unsure, right], smoothing)
    need_certified([unsure], replace(smoothing, alpha=0.1))


@pytest.mark.parametrize(("mode", "gamma"), [("both", 0.99), ("irs", 0.99), ("irs", 0.55)])
@pytest.mark.parametrize("n", [12, 40, 1000])
@pytest.mark.parametrize("alpha", [0.01, 0.0005])
def test_the_least_samples_are_those_that_can_certify_anything(mode: Any, gamma: float, n: int, alpha: float) -> None:
    """One fewer certifies nothing of a network that never differs from an anchor that is always right."""
    smoothing, x = Smoothing(sigma=0.1, n0=10, n=n, alpha=0.1), torch.full((1, 1, 4, 4), 0.5)

    class Sure:
        """Says class 1 whatever it is shown."""

        space, name = LinearPredictor().space, "sure"

        def logits(self, given: Tensor) -> Tensor:
            return torch.tensor([[0.0, 1.0]]).expand(len(given), 2)

    kept = anchor(Sure(), x, torch.tensor([1]), smoothing)
    likely = [replace(kept[0], hits=hits) for hits in range(n - 9, n + 1)]  # "irs" looks at the surest in another way

    def settings(samples: int) -> Incremental:
        return Incremental(samples=samples, mode=mode, gamma=gamma, alpha=alpha, alpha_z=alpha)

    def certifies(samples: int) -> bool:
        found = (certify_incrementally(Sure(), [one], x, smoothing, settings(samples))[0] for one in likely)
        return any(one.radius > 0 for one in found)

    counts = range(1, min(n, 20) + 1)
    able = [one for one in counts if certifies(one)]
    legal = f"{able[0]} to {n}" if able else "more samples of the anchor, n, and then at most as many here"
    for samples in counts:
        if samples in able:
            need_samples(n, settings(samples))
            continue
        said = f"{samples} samples of a changed network certify nothing beside the {n} of the anchor.*: {legal}"
        with pytest.raises(MixbitError, match=said):
            need_samples(n, settings(samples))
    assert bool(able) is (n > 12 or mode == "both" or (gamma, alpha) == (0.55, 0.01))


def test_what_is_known_is_not_asked_again() -> None:
    predictor = LinearPredictor()
    x = 0.5 + 0.03 * torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = predictor.logits(x).argmax(1)
    first: list[Anchor] = []
    whole = anchor(predictor, x, y, SMALL, done=first.append)
    predictor.asked, again = 0, list[Anchor]()
    found = anchor(predictor, x, y, SMALL, known={one.image: one for one in whole[:2]}, done=again.append)
    assert predictor.asked == 640 and [one.image for one in again] == [2] and len(first) == 3
    assert all(np.array_equal(a.said, b.said) for a, b in zip(found, whole, strict=True))


def test_what_does_not_fit() -> None:
    predictor, one = LinearPredictor(), anchored(300, 600)
    x = torch.full((1, 1, 4, 4), 0.5)
    with pytest.raises(MixbitError, match="2 anchors and 1 images"):
        certify_incrementally(predictor, [one, one], x, SMALL, Incremental())
    with pytest.raises(MixbitError, match=r"samples=1000, and the anchor has 600. Legal: at most as many"):
        certify_incrementally(predictor, [one], x, SMALL, Incremental())
    for wrong in ({"samples": 0}, {"mode": "fast"}, {"gamma": 1.1}, {"alpha": 0.0}, {"alpha": 0.6, "alpha_z": 0.5}):
        with pytest.raises(MixbitError):
            Incremental(**wrong)  # type: ignore[arg-type]
