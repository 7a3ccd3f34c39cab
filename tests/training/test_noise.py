"""Terms of the loss over noisy copies: consistency and MACER, against scipy, PyTorch and autograd."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax
from scipy.stats import entropy, norm
from torch import Tensor, nn

from mixbit import data
from mixbit.certification import Certified, Smoothing, certify
from mixbit.data import NoisySplit, hold_out
from mixbit.errors import MixbitError
from mixbit.inference import TorchPredictor
from mixbit.task import Task
from mixbit.testing.options import OptionCases, OptionRow, fields_of, higher, lower, unlike
from mixbit.testing.steps import StepCases
from mixbit.training import (
    NoiseConfig,
    NoiseStep,
    Step,
    StepContext,
    TrainConfig,
    consistency,
    noise_step,
    soft_radius,
    supervised_step,
    train,
)
from tests.nets import tiny_net, tiny_split
from tests.tasks import tiny_task

SIGMA = 0.5
Y = torch.tensor([0, 1, 2, 0, 1])


def logits(copies: int = 3, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(copies, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def split(copies: int = 2) -> NoisySplit:
    return NoisySplit(tiny_split(), 0.1, (0.25,), copies=copies)


# ------------------------------------------------------------------------------------------------------------ terms


def test_consistency_is_the_mean_divergence_of_the_copies_from_their_mean() -> None:
    found = logits()
    p = softmax(found.numpy(), axis=-1)
    mean = p.mean(0)
    apart, unsure = consistency(found)
    assert float(apart) == pytest.approx(np.mean([entropy(mean[n], one[n]) for one in p for n in range(5)]), rel=1e-7)
    assert float(unsure) == pytest.approx(np.mean([entropy(row) for row in mean]), rel=1e-7)


def test_the_radius_is_the_difference_of_normal_quantiles_where_the_class_is_right() -> None:
    for beta, scale in ((1.0, 1.0), (4.0, 0.3)):
        found = logits(scale=scale)
        q = softmax(beta * found.numpy(), axis=-1).mean(0)
        for row, (value, label) in enumerate(zip(soft_radius(found, Y, beta=beta).tolist(), Y.tolist(), strict=True)):
            other = np.delete(q[row], label).max()
            wanted = norm.ppf(q[row, label]) - norm.ppf(other) if q[row, label] > other else np.inf
            assert value == pytest.approx(wanted, rel=1e-6)


def test_the_radius_has_finite_gradients_everywhere() -> None:
    sure = torch.tensor([[[90.0, 0.0, 0.0], [0.0, 9.0, 9.0], [2.0, 1.0, 0.0]]], requires_grad=True)
    assert soft_radius(sure, torch.tensor([0, 1, 0])).isinf().tolist() == [True, True, False]
    few = soft_radius(sure, torch.tensor([0, 1, 0]), beta=1.0)
    few[few.isfinite()].sum().backward()
    assert sure.grad is not None and bool(sure.grad.isfinite().all()) and float(sure.grad[0, 2, 0]) > 0
    assert not sure.grad[0, :2].any()
    smooth = logits(scale=0.3).requires_grad_()
    right = soft_radius(smooth, Y, beta=2.0).isfinite()
    assert bool(right.any())
    torch.autograd.gradcheck(lambda z: soft_radius(z, Y, beta=2.0)[right], (smooth,))


# ------------------------------------------------------------------------------------------------------------ steps


def gradient(step: Step, smoothing: float = 0.0) -> tuple[float, Tensor]:
    """Of a linear network on two copies of four images: what is reported, and the gradient of its weights."""
    torch.manual_seed(0)
    model, x = nn.Linear(6, 3), torch.randn(8, 6)
    context = StepContext(
        model=model, forward=model, loss=lambda _x, out, y: F.cross_entropy(out, y, label_smoothing=smoothing)
    )
    loss = step(context, x, torch.tensor([0, 1, 2, 0]).repeat(2))
    assert model.weight.grad is not None and not loss.requires_grad
    return float(loss), model.weight.grad


def by_hand(
    kind: str, *, weight: float, eta: float = 0.5, gamma: float = 8.0, beta: float = 16.0
) -> tuple[float, Tensor]:
    """The same from the formulas, each copy by itself."""
    torch.manual_seed(0)
    model, x = nn.Linear(6, 3), torch.randn(8, 6)
    y = torch.tensor([0, 1, 2, 0])
    one, two = model(x[:4]), model(x[4:])
    p = [F.softmax(out, 1) for out in (one, two)]
    mean = (p[0] + p[1]) / 2
    if kind == "consistency":
        loss = (F.cross_entropy(one, y) + F.cross_entropy(two, y)) / 2
        loss = loss + weight * sum(F.kl_div(q.log(), mean, reduction="batchmean") for q in p) / 2
        loss = loss - eta * (mean * mean.log()).sum(1).mean()
    else:
        loss = F.nll_loss(mean.log(), y)
        q = (F.softmax(beta * one, 1) + F.softmax(beta * two, 1)) / 2
        for row, label in zip(q, y.tolist(), strict=True):
            others = torch.cat([row[:label], row[label + 1 :]]).max()
            if row[label] > others:
                quantiles = torch.special.ndtri(row[label]) - torch.special.ndtri(others)
                loss = loss + weight * SIGMA / 2 * torch.relu(gamma - quantiles) / 4
    loss.backward()
    assert model.weight.grad is not None
    return float(loss.detach()), model.weight.grad


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("consistency", {"weight": 5.0, "entropy": 0.5}),
        ("consistency", {"weight": 0.0, "entropy": 2.0}),
        ("macer", {"weight": 12.0, "beta": 2.0}),
        ("macer", {"weight": 3.0, "beta": 1.0, "gamma": 0.5}),
    ],
)
def test_a_step_has_the_gradient_of_its_formula(kind: Any, settings: dict[str, float]) -> None:
    config = NoiseConfig(loss=kind, **settings)
    found = gradient(NoiseStep(config, sigma=SIGMA, copies=2))
    eta = settings.pop("entropy", 0.5)
    wanted = by_hand(kind, eta=eta, **settings)  # type: ignore[arg-type]
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-6)


def test_without_its_terms_consistency_is_the_usual_step_on_all_copies() -> None:
    step = NoiseStep(NoiseConfig(weight=0.0, entropy=0.0), sigma=SIGMA, copies=2)
    for smoothing in (0.0, 0.3):
        (loss, slope), (usual, same) = gradient(step, smoothing), gradient(supervised_step, smoothing)
        assert loss == pytest.approx(usual, rel=1e-6)
        torch.testing.assert_close(slope, same)


def test_macer_shows_the_first_copy_to_a_teacher() -> None:
    asked = list[Any]()
    model, x, y = nn.Linear(6, 3), torch.randn(8, 6), torch.tensor([0, 1, 2, 0]).repeat(2)

    def loss(given: Tensor, outputs: Tensor, labels: Tensor) -> Tensor:
        asked.append((given, labels))
        torch.testing.assert_close(outputs.exp().sum(1), torch.ones(4))  # the mean of probabilities, as logits
        return F.cross_entropy(outputs, labels)

    step = NoiseStep(NoiseConfig(loss="macer"), sigma=SIGMA, copies=2)
    step(StepContext(model=model, forward=model, loss=loss), x, y)
    assert torch.equal(asked[0][0], x[:4]) and asked[0][1].tolist() == [0, 1, 2, 0]


class ContractOfNoise(StepCases):
    config = TrainConfig(epochs=2, batch_size=24, lr=0.05, bn_samples=0)
    kind: Any = "consistency"

    def model(self) -> nn.Module:
        return tiny_net()

    def step(self, model: nn.Module) -> Step:
        return NoiseStep(NoiseConfig(loss=self.kind), sigma=0.1, copies=2)

    def data(self) -> object:
        return split()


class TestConsistencyContract(ContractOfNoise):
    pass


class TestMacerContract(ContractOfNoise):
    kind = "macer"


del ContractOfNoise  # not a case of its own


# ---------------------------------------------------------------------------------------------------------- options


def trained(**settings: Any) -> Tensor:
    """Logits of three copies of all images after a short training `(3, N, 3)`."""
    model, noisy = tiny_net(), NoisySplit(tiny_split(), 0.4, (0.25,), copies=2)
    step = NoiseStep(NoiseConfig(**settings), sigma=0.4, copies=2)
    train(model, noisy, None, TrainConfig(epochs=3, batch_size=24, lr=0.05, bn_samples=0), step=step, quiet=True)
    x, _ = next(NoisySplit(tiny_split(), 0.4, (0.25,), copies=3, seed=9).batches(96, augment=True))
    with torch.no_grad():
        return model.eval()(x).view(3, 96, 3)  # type: ignore[no-any-return]


def labels() -> Tensor:
    return torch.arange(96) % 3


def radius(**settings: Any) -> float:
    found = soft_radius(trained(loss="macer", **settings), labels(), beta=1.0)
    return float(found[found.isfinite()].mean())


class TestNoiseConfig(OptionCases):
    owner = NoiseConfig
    options = fields_of(NoiseConfig)
    rows = (
        OptionRow("loss", ("consistency", "macer"), seen=lambda it: trained(loss=it).tolist(), holds=unlike),
        OptionRow("weight", (0.0, 20.0), seen=lambda it: float(consistency(trained(weight=it, entropy=0.0))[0]),
                  holds=lower, says="copies agree more"),
        OptionRow("weight", (0.0, 12.0), seen=lambda it: radius(weight=it), holds=higher, says="MACER's radius grows"),
        OptionRow("entropy", (0.0, 4.0), seen=lambda it: float(consistency(trained(weight=0.0, entropy=it))[1]),
                  holds=lower),
        OptionRow("gamma", (0.05, 8.0), seen=lambda it: radius(gamma=it), holds=higher),
        OptionRow("beta", (1.0, 16.0), seen=lambda it: trained(loss="macer", beta=it).tolist(), holds=unlike),
    )  # fmt: skip


def test_the_usual_weight_hangs_on_the_sigma() -> None:
    config = NoiseConfig()
    assert [config.strength(sigma) for sigma in (0.12, 0.25, 0.5, 1.0)] == [10, 10, 5, 5]
    assert NoiseConfig(loss="macer").strength(0.25) == 12 and NoiseConfig(weight=0.0).strength(0.25) == 0


def test_settings() -> None:
    assert NoiseConfig.from_setting(None) is None and NoiseConfig.from_setting(False) is None
    assert NoiseConfig.from_setting("macer") == NoiseConfig(loss="macer")
    assert NoiseConfig.from_setting({"loss": "macer", "gamma": 3.0}) == NoiseConfig(loss="macer", gamma=3.0)
    for wrong, says in (
        (1, "noise=1 is no setting"),
        ("mace", "macer"),
        ({"lambda": 1}, "lambda"),
        ({"weight": -1}, "weight"),
    ):
        with pytest.raises(MixbitError, match=says):
            NoiseConfig.from_setting(wrong)


# ------------------------------------------------------------------------------------------------------ what is gained


@cache
def begun() -> nn.Module:
    """A small network that has seen noisy digits for a while."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return trained_on_digits(model, 1, supervised_step, TrainConfig(epochs=8, lr=0.1, bn_samples=0, seed=2))


def trained_on_digits(model: nn.Module, copies: int, step: Step, config: TrainConfig) -> nn.Module:
    train(model, data.load(f"digits?noise=0.25&copies={copies}").train, None, config, step=step, quiet=True)
    return model


def certified_radius(copies: int, **settings: Any) -> float:
    """Average certified radius at a sigma of 0.25, after six more epochs."""
    step = NoiseStep(NoiseConfig(**settings), sigma=0.25, copies=copies)
    config = TrainConfig(epochs=6, batch_size=64, lr=0.05, bn_samples=0, seed=12)
    model = trained_on_digits(copy.deepcopy(begun()), copies, step, config)
    digits, smoothing = data.load("digits"), Smoothing(sigma=0.25, n0=50, n=200)
    z, y = next(digits.test.batches(60))
    found = certify(TorchPredictor(model, digits.space), digits.space.leave(z), y, smoothing)
    return Certified(sigma=0.25, alpha=smoothing.alpha, certificates=found).average_radius.value


@pytest.mark.parametrize(
    ("copies", "settings", "gain"),
    [(2, {"weight": 5.0}, 0.02), (4, {"loss": "macer", "weight": 1.0, "beta": 4.0}, 0.01)],
    ids=["consistency", "macer"],
)
def test_certified_radii_grow(copies: int, settings: dict[str, Any], gain: float) -> None:
    """By the terms, not by the copies: those are the same without them."""
    without = certified_radius(copies, **settings | {"weight": 0.0, "entropy": 0.0})
    assert certified_radius(copies, **settings) > without + gain


# ------------------------------------------------------------------------------------------------------- bad inputs


def test_one_copy_cannot_be_compared() -> None:
    with pytest.raises(MixbitError, match=r"2 or more. Name the data with \?noise=0.5&copies=2"):
        NoiseStep(NoiseConfig(), sigma=0.5, copies=1)


@pytest.mark.parametrize(
    ("outputs", "said"),
    [(torch.zeros(7, 3), r"\(7, 3\)"), (torch.zeros(8, 3, 2), r"\(8, 3, 2\)"), ({"logits": torch.zeros(8, 3)}, "dict")],
)
def test_outputs_that_are_no_class_scores_of_all_copies(outputs: Any, said: str) -> None:
    step = NoiseStep(NoiseConfig(), sigma=0.5, copies=2)
    context = StepContext(model=nn.Identity(), forward=lambda _x: outputs, loss=F.cross_entropy)  # type: ignore[arg-type]
    with pytest.raises(MixbitError, match=rf"got outputs {said}.*multiple of the 2 copies"):
        step(context, torch.zeros(8, 3), torch.zeros(8, dtype=torch.int64))


@pytest.mark.parametrize("kind", ["consistency", "macer"])
def test_images_are_never_taken_for_copies_of_others(kind: Any) -> None:
    """Passes without augmentation have one copy of each image, half as many as the step would compare."""
    step, model = NoiseStep(NoiseConfig(loss=kind), sigma=0.1, copies=2), tiny_net()
    before = {name: one.clone() for name, one in model.named_parameters()}
    config = TrainConfig(epochs=1, batch_size=24, bn_samples=0, augment=False)
    with pytest.raises(MixbitError, match=r"batch of 24 that does not hold 2 copies of each of 12.*augment=True"):
        train(model, split(), None, config, step=step, quiet=True)
    assert all(torch.equal(one, before[name]) for name, one in model.named_parameters())


def test_the_step_of_a_task() -> None:
    task: Task = tiny_task()
    assert noise_step(task, None) is supervised_step
    noisy = replace(task, train=NoisySplit(task.train, 0.2, (0.25,), copies=3))
    step = noise_step(noisy, NoiseConfig())
    assert isinstance(step, NoiseStep) and (step.sigma, step.copies) == (0.2, 3)
    part = noise_step(replace(noisy, train=hold_out(hold_out(noisy.train, 0.2)[0], 0.2)[0]), NoiseConfig())
    assert isinstance(part, NoiseStep) and (part.sigma, part.copies) == (0.2, 3)
    with pytest.raises(MixbitError, match=r"needs noisy training images. Name the data with \?noise=SIGMA&copies=2"):
        noise_step(task, NoiseConfig())
    with pytest.raises(MixbitError, match="this task has output="):
        noise_step(replace(noisy, output=lambda out: out), NoiseConfig())
