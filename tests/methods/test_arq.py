"""ARQ: rewards by certificates that are counted by hand, anchors that are kept, noise that must be seen."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit.certification import Smoothing
from mixbit.certification._noise import copies
from mixbit.cost import Budget, LayerBits
from mixbit.data import InputSpace, NoisySplit, Part, TensorSplit
from mixbit.errors import MixbitError, StaleRun
from mixbit.methods import Arq, PolicyMethod, _tuning, arq, read_episodes
from mixbit.methods.arq import balanced
from mixbit.policy import Policy, Terms
from mixbit.quantization import calibrate, quantize
from mixbit.sensitivity.judging import bits_of
from mixbit.task import Task
from mixbit.testing.methods import PolicyMethodCases
from mixbit.testing.options import OptionCases, OptionRow, fields_of, unlike
from tests.methods import episodic, seen
from tests.methods.episodic import BUDGET, WIDE, records

SIGMA, MEAN, STD = 0.2, (0.5,), (0.25,)
SPACE = InputSpace.of_images(mean=MEAN, std=STD)


@cache
def clean() -> TensorSplit:
    """Sixty images of three brightnesses, with a pattern of their own."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    pixels = 50 + 75 * labels[:, None, None, None] + torch.randint(-40, 41, (60, 1, 6, 6), generator=random)
    return TensorSplit(pixels.to(torch.uint8), labels, num_classes=3, mean=MEAN, std=STD)


@cache
def model() -> nn.Module:
    """The small network, trained on them under noise: it tells two classes apart well, the middle one hardly."""
    torch.manual_seed(3)
    found = seen.Small()
    optimizer = torch.optim.Adam(found.parameters(), lr=0.02)
    split = NoisySplit(clean(), SIGMA, STD, seed=5)
    for epoch in range(25):
        for x, y in split.batches(30, seed=epoch, epoch=epoch, shuffle=True, augment=True):
            optimizer.zero_grad()
            F.cross_entropy(found(x), y).backward()
            optimizer.step()
    return found.eval()


@cache
def task(sigma: float | None = SIGMA) -> Task:
    train = clean() if sigma is None else NoisySplit(clean(), sigma, STD)
    return Task(model=model(), train=train, test=clean(), space=SPACE)


def small(**more: Any) -> Arq:
    given = {
        "episodes": 5, "warmup": 3, "images": 9, "n0": 20, "n": 100, "samples": 50, "calibration_images": 16,
        "batch_size": 64, **more,
    }  # fmt: skip
    return Arq(**given)


class TestContract(PolicyMethodCases):
    def method(self, seed: int) -> PolicyMethod:
        return small(images=6, n=40, samples=20, seed=seed)

    def task(self) -> Task:
        return task()


# ------------------------------------------------------------------------------------------------- rewards by hand


def lower(hits: int, count: int, alpha: float) -> float:
    return float(beta.ppf(alpha, hits, count - hits + 1)) if hits else 0.0


def upper(hits: int, count: int, alpha: float) -> float:
    return float(beta.ppf(1 - alpha, hits + 1, count - hits)) if hits < count else 1.0


def radius(chance: float) -> float:
    return SIGMA * float(norm.ppf(chance)) if chance > 0.5 else 0.0


class Hand:
    """What a search measures, by loops: anchors, then one policy."""

    def __init__(self, method: Arq) -> None:
        self.method = method
        chosen, rest = balanced(clean().labels, method.images, method.seed)
        z, self.y = next(Part(clean(), chosen).batches(100))
        self.x, self.numbers, self.seed = SPACE.leave(z), chosen.tolist(), method.smoothing(SIGMA).seed
        noisy = Part(task().train, rest)  # type: ignore[arg-type]
        count = method.calibration_images
        self.steps = next(noisy.batches(count, seed=method.seed, shuffle=True))[0]
        self.anchor = [self.said(model(), at, method.n) for at in range(len(self.y))]
        self.choice = [
            int(np.bincount(self.said(model(), at, method.n0, "select")).argmax()) for at in range(len(self.y))
        ]

    def said(self, of: nn.Module, at: int, count: int, purpose: Any = "estimate") -> np.ndarray:
        points = copies(self.x[at], SIGMA, self.seed, self.numbers[at], purpose, 0, count)
        with torch.no_grad():
            return of(SPACE.enter(points)).argmax(1).numpy()

    def quantized(self, bits: str) -> nn.Module:
        found, network = copy.deepcopy(model()), task().network
        quantize(found, Policy(fingerprint=network.fingerprint, layers=bits_of(bits, network)), network)
        calibrate(found, [self.steps], seed=self.method.seed)
        return found.eval()

    def base(self) -> list[float]:
        """Radius of each image on the anchor, by all of its samples."""
        return [
            radius(lower(int((said == choice).sum()), len(said), 0.001)) * (choice == int(y))
            for said, choice, y in zip(self.anchor, self.choice, self.y, strict=True)
        ]

    def radii(self, bits: str, *, irs: bool = False) -> list[float]:
        """The same of a policy."""
        found, count = self.quantized(bits), self.method.samples
        return [self._radius(found, at, count, irs=irs) for at in range(len(self.y))]

    def _radius(self, of: nn.Module, at: int, count: int, *, irs: bool) -> float:
        choice, whole = self.choice[at], self.anchor[at]
        if choice != int(self.y[at]):
            return 0.0
        said, before = self.said(of, at, count), whole[:count]
        hits = int((whole == choice).sum())
        if irs:
            bound = lower(hits, len(whole), 0.001)
            if bound < 0.99:
                return radius(bound - upper(int((said != before).sum()), count, 0.001))
            raise AssertionError("100 samples are never that sure")
        harmed = int(((before == choice) & (said != choice)).sum())
        one = lower(hits, len(whole), 0.0005) - upper(harmed, count, 0.0005)
        return radius(max(one, lower(int((said == choice).sum()), count, 0.001)))


@pytest.mark.parametrize("mode", ["both", "irs"])
def test_the_reward_is_the_gain_in_certified_radius(mode: Any, tmp_path: Path) -> None:
    """Counted by loops and with scipy's own bounds."""
    method = small(mode=mode, kappa=2.0, radius=0.1)
    policy = method.search(task(), BUDGET, run=tmp_path, quiet=True)
    hand, rows = Hand(method), read_episodes(tmp_path / "arq-episodes.jsonl")
    base = float(np.mean(hand.base()))
    assert base > 0.02 and len({row.bits for row in rows}) > 2
    for row in rows:
        radii = hand.radii(row.bits, irs=mode == "irs")
        assert row.quality["average_radius"] == pytest.approx(np.mean(radii), abs=1e-9)
        assert row.quality["accuracy"] == pytest.approx(np.mean([one > 0 for one in radii]))
        assert row.quality["certified_accuracy"] == pytest.approx(np.mean([one >= 0.1 for one in radii]))
        assert row.reward == pytest.approx(2.0 * (np.mean(radii) - base) / base)
    assert len({row.reward for row in rows}) > 1, "the rows tell nothing"
    assert policy.allocation["objective"] == max(row.reward for row in rows)
    text = " ".join(policy.notes)
    assert f"{base:.4g} in float, on 9 training images, 50 noisy copies of each, after calibration on 16 noisy" in text
    assert "make those with mixbit certify, on test images" in policy.notes[-1]


def test_the_reward_can_be_certified_accuracy_at_a_radius() -> None:
    method = small(reward="certified", radius=0.08)
    hand, rows = Hand(method), records(method, task(), "arq", BUDGET)
    base = float(np.mean([one >= 0.08 for one in hand.base()]))
    for row in rows:
        mine = float(np.mean([one >= 0.08 for one in hand.radii(row.bits)]))
        assert row.reward == pytest.approx((mine - base) / base)


def test_the_reward_can_be_haqs_under_noise() -> None:
    """A tenth for each point of accuracy on the same noisy copies, of all images, those that are wrong as well."""
    method = small(reward="noisy")
    hand, rows = Hand(method), records(method, task(), "arq", BUDGET)

    def accuracy(said: list[np.ndarray]) -> float:
        return float(np.mean([(one == int(y)).mean() for one, y in zip(said, hand.y, strict=True)]))

    base = accuracy([said[:50] for said in hand.anchor])
    for row in rows:
        found = hand.quantized(row.bits)
        mine = accuracy([hand.said(found, at, 50) for at in range(9)])
        assert row.quality == {"noisy_accuracy": pytest.approx(mine)}
        assert row.reward == pytest.approx(0.1 * 100 * (mine - base))


# -------------------------------------------------------------------------------------------------- which images


def test_images_that_judge_are_of_all_classes_and_calibrate_nothing() -> None:
    chosen, rest = balanced(torch.tensor([0] * 50 + [1] * 7 + [2] * 3), 12, 0)
    assert np.bincount(torch.tensor([0] * 50 + [1] * 7 + [2] * 3)[chosen]).tolist() in ([5, 4, 3], [4, 5, 3])
    assert sorted([*chosen.tolist(), *rest.tolist()]) == [*range(60)]
    assert not torch.equal(chosen, balanced(torch.tensor([0] * 50 + [1] * 7 + [2] * 3), 12, 1)[0])
    with pytest.raises(MixbitError, match="images=60 of 60 training images leave none to calibrate on"):
        balanced(torch.zeros(60), 60, 0)


def test_calibration_sees_noise_and_no_image_that_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    seen_steps, inner = list[Tensor](), arq.calibrate

    def note(of: Any, batches: Any, *given: Any, **named: Any) -> None:
        seen_steps.extend(batches)
        inner(of, batches, *given, **named)

    monkeypatch.setattr(arq, "calibrate", note)
    small(episodes=4).search(task(), WIDE, quiet=True)
    noisy, chosen = NoisySplit(clean(), SIGMA, STD), balanced(clean().labels, 9, 0)[0]
    rows = {one.numpy().tobytes(): at for at, one in enumerate(next(noisy.batches(60))[0])}
    used = {rows[one.numpy().tobytes()] for batch in seen_steps for one in batch}
    assert len(used) == 16 and not used & set(chosen.tolist())


def test_noise_of_a_search_is_no_noise_of_a_certificate() -> None:
    assert small(seed=3).smoothing(0.5).seed not in (3, Smoothing(sigma=0.5).seed)
    assert small(seed=3).smoothing(0.5).seed != small(seed=4).smoothing(0.5).seed


def test_policies_are_trained_on_noisy_images_that_judge_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    trained, train = list[Any](), _tuning.train

    def noting(of: Any, rest: Any, *given: Any, **how: Any) -> Any:
        trained.append(rest)
        return train(of, rest, *given, **how)

    monkeypatch.setattr(_tuning, "train", noting)
    found = small(epochs=1, lr=0.05, batch_size=16).search(task(), WIDE, quiet=True)
    (z, y), numbers = next(trained[0].batches(100)), trained[0].samples
    assert not set(numbers.tolist()) & set(balanced(clean().labels, 9, 0)[0].tolist()) and len(y) == 51
    assert (z - next(Part(clean(), numbers).batches(100))[0]).std() == pytest.approx(SIGMA / STD[0], rel=0.1)
    assert "and 1 epochs of training" in found.notes[1]


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("noise", "sigma", "words"),
    [
        (None, 0.2, "sigma=0.2, and the training images that calibrate have no noise. Name the data with .noise=0.2"),
        (None, None, "arq: the training images that calibrate have no noise. Name the data with .noise=SIGMA"),
        (0.2, 0.25, "sigma=0.25, and the training images that calibrate have noise of 0.2"),
    ],
)
def test_training_images_must_have_the_noise(noise: float | None, sigma: float | None, words: str) -> None:
    with pytest.raises(MixbitError, match=words):
        small(sigma=sigma).search(task(noise), WIDE, quiet=True)


def with_model(of: nn.Module) -> Task:
    return Task(model=of, train=task().train, test=clean(), space=SPACE)


def biased(by: float) -> nn.Module:
    """The network, with a leaning to the first class."""
    found = copy.deepcopy(model())
    with torch.no_grad():
        found.get_parameter("head.bias")[0] += by
    return found


def test_images_that_are_wrong_count_for_the_accuracy_under_noise() -> None:
    """And are asked no more where radii count."""
    judging = arq._Judging(with_model(biased(8.0)), small(reward="noisy"))
    judging.certify_anchor(None, quiet=True)
    assert judging.base == pytest.approx(1 / 3, abs=0.05)
    assert all(len(one.said) == 100 for one in judging._anchors)
    radii = arq._Judging(with_model(biased(8.0)), small())
    with pytest.warns(UserWarning, match="by chance"):
        radii.certify_anchor(None, quiet=True)
    assert sorted({len(one.said) for one in radii._anchors}) == [0, 100]


class Shifted(nn.Module):
    """Says another class than the network."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.inner, self.share = copy.deepcopy(model()), share

    def forward(self, x: Tensor) -> Tensor:
        found = self.inner(x)
        return found.roll(1, dims=1) * self.share + found * (1 - self.share)  # type: ignore[no-any-return]


def test_a_network_of_which_nothing_is_certified_is_refused() -> None:
    with pytest.raises(MixbitError, match=r"radius of the anchor is 0 on 9 images.*\?noise=0.2"):
        small().search(with_model(Shifted(1.0)), WIDE, quiet=True)
    with pytest.raises(MixbitError, match="certified_accuracy on 9 training images is 0"):
        small(reward="certified", radius=5.0).search(task(), WIDE, quiet=True)


def test_a_network_near_chance_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a warning, and in the policy."""
    half = biased(8.0)
    with pytest.warns(UserWarning, match=r"arq: smoothed accuracy is 33\.3 %, which 3 classes have by chance"):
        found = small(episodes=4).search(with_model(half), WIDE, quiet=True)
    assert any("not trained for noise of sigma 0.2" in note for note in found.notes)


def test_an_input_quantizer_that_cuts_the_noise_is_refused() -> None:
    """At two bits a step that suits most pixels leaves the ends out."""
    with pytest.raises(MixbitError, match=r"the input quantizer covers .* noise of sigma 0.2"):
        small(bits=(2,)).search(task(), WIDE, terms=Terms(pins={}), quiet=True)
    pins = {"stem": LayerBits(8, None)}
    assert (
        small(bits=(2,), episodes=4).search(task(), WIDE, terms=Terms(pins=pins), quiet=True).layers["stem"]
        == pins["stem"]
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"reward": "certified"}, "Give radius"),
        ({"samples": 101}, "samples=101 are shown of n=100 copies"),
        ({"n": 5, "samples": 5}, "n=5 certifies nothing"),
        ({"episodes": 3}, "episodes=3 would all be drawn evenly"),
        ({"bits": ()}, "at least one bit-width"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(MixbitError, match=words):
        small(**settings)


# ---------------------------------------------------------------------------------------------------------- kills


@pytest.mark.parametrize("asked", [2, 6, 12, 13, 20])
def test_a_search_killed_at_any_point_goes_on(asked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the anchor is certified, or a policy is: batches of one image each are counted."""
    wanted = small().search(task(), BUDGET, run=tmp_path / "whole", quiet=True)
    logits, calls = arq.TorchPredictor.logits, [0]

    def killed(self: Any, x: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == asked:
            raise KeyboardInterrupt
        return logits(self, x)

    with monkeypatch.context() as patched:
        patched.setattr(arq.TorchPredictor, "logits", killed)
        with pytest.raises(KeyboardInterrupt):
            small().search(task(), BUDGET, run=tmp_path / "cut", quiet=True)
    before = (tmp_path / "cut" / "arq-anchors.jsonl").read_text() if asked > 3 else ""
    assert small().search(task(), BUDGET, run=tmp_path / "cut", quiet=True) == wanted
    assert (tmp_path / "cut" / "arq-anchors.jsonl").read_text().startswith(before)
    one, other = (read_episodes(tmp_path / name / "arq-episodes.jsonl") for name in ("whole", "cut"))
    assert [(row.actions, row.bits, row.reward) for row in one] == [
        (row.actions, row.bits, row.reward) for row in other
    ]


def test_a_finished_search_asks_the_network_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = small().search(task(), BUDGET, run=tmp_path, quiet=True)
    monkeypatch.setattr(arq.TorchPredictor, "logits", lambda self, x: pytest.fail("it is all known"))
    assert small().search(task(), BUDGET, run=tmp_path, quiet=True) == wanted


def test_settings_that_change_are_refused_by_their_name(tmp_path: Path) -> None:
    small().search(task(), BUDGET, run=tmp_path, quiet=True)
    for change, words in (
        ({"n": 90}, "n=100, now n=90"),
        ({"samples": 40}, "samples=50, now samples=40"),
        ({"kappa": 2.0}, "kappa=1.0, now kappa=2.0"),
        ({"mode": "irs"}, "mode='both', now mode='irs'"),
    ):
        with pytest.raises(StaleRun, match=words):
            small(**change).search(task(), BUDGET, run=tmp_path, quiet=True)


# --------------------------------------------------------------------------------------------------------- options


def asked(**settings: Any) -> list[tuple[str, int]]:
    """What the network is asked for: purpose and number of copies of every image of every turn."""
    found = list[tuple[str, int]]()
    inner = copies

    def note(x: Tensor, sigma: float, seed: int, image: int, purpose: Any, first: int, count: int) -> Tensor:
        found.append((purpose, count))
        return inner(x, sigma, seed, image, purpose, first, count)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mixbit.certification.smoothing.copies", note)
        small(**{"episodes": 4, "warmup": 3, "batch_size": 128, **settings}).search(task(), TWO, quiet=True)
    return found


TWO = Budget.parse(["bitops=2x2"])
"""One policy."""


def of(purpose: str, **settings: Any) -> int:
    return max(count for of, count in asked(**settings) if of == purpose)


def calibrated(count: int) -> set[int]:
    """How many images set the steps."""
    found, inner = set[int](), arq.calibrate
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            arq, "calibrate", lambda m, batches, *a, **k: (found.update(map(len, batches)), inner(m, batches, *a, **k))
        )
        small(calibration_images=count, episodes=4).search(task(), TWO, quiet=True)
    return found


def rows_of(**settings: Any) -> list[dict[str, float]]:
    return [row.quality for row in records(small(episodes=4, **settings), task(), "arq", BUDGET)]


def rewards(**settings: Any) -> list[float]:
    return [row.reward for row in records(small(**settings), task(), "arq", BUDGET)]


class TestArqOptions(OptionCases):
    owner = Arq
    options = fields_of(Arq)
    elsewhere = episodic.ELSEWHERE | {
        "sigma": "tests/methods/test_arq.py::test_training_images_must_have_the_noise",
        "reward": "tests/methods/test_arq.py::test_the_reward_can_be_haqs_under_noise",
    }
    rows = (
        *episodic.rows(lambda **given: small(**{"images": 6, "n": 40, "samples": 20, **given}), task, "arq"),
        OptionRow("radius", (None, 0.1), lambda v: {name for one in rows_of(radius=v) for name in one},
                  lambda a, b: b - a == {"certified_accuracy"}),
        OptionRow("kappa", (1.0, 2.0), lambda v: rewards(kappa=v)[:3],
                  lambda a, b: any(a) and b == pytest.approx([2 * one for one in a])),
        OptionRow("images", (6, 9), lambda v: len([1 for of, _ in asked(images=v) if of == "select"]),
                  lambda a, b: (a, b) == (6, 9)),
        OptionRow("n0", (20, 30), lambda v: of("select", n0=v), lambda a, b: (a, b) == (20, 30)),
        OptionRow("n", (100, 80), lambda v: of("estimate", n=v), lambda a, b: (a, b) == (100, 80)),
        OptionRow("samples", (50, 40), lambda v: min(c for of, c in asked(samples=v) if of == "estimate"),
                  lambda a, b: (a, b) == (50, 40)),
        OptionRow("mode", ("both", "irs"), lambda v: rows_of(mode=v), unlike),
        OptionRow("calibration_images", (16, 8), calibrated, lambda a, b: (a, b) == ({16}, {8})),
        OptionRow("batch_size", (128, 16), lambda v: max(c for _, c in asked(batch_size=v)),
                  lambda a, b: (a, b) == (100, 16)),
    )  # fmt: skip


def test_defaults_are_those_that_are_documented() -> None:
    assert Arq() == Arq(
        sigma=None, bits=(8, 7, 6, 5, 4, 3, 2), episodes=120, warmup=20, noise_decay=None, action_map="floor",
        share_bits=False, within="wall", fill=False, reward="radius", radius=None, kappa=1.0, images=100, n0=100,
        n=1000, samples=200, mode="both", calibration_images=512, epochs=0, train_images=20_000, lr=1e-3,
        batch_size=256, seed=0,
    )  # fmt: skip
