"""What is rounded where, what the float network puts in, and how good the whole is."""

from __future__ import annotations

import copy
import math
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit.data import TensorSplit
from mixbit.errors import MixbitError
from mixbit.network import Network, capture
from mixbit.policy import LayerBits, Policy
from mixbit.ptq._sites import Judge, Site, draw, find_sites, observe, scaled
from mixbit.quantization import QuantizeConfig, quantize, quantized_layers
from mixbit.quantizers import Quantizer
from mixbit.task import Task, objective_of

X = torch.randn(12, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3
IMAGES = [(X[:8], Y[:8]), (X[8:], Y[8:])]


def float_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 2, bias=False), nn.Flatten(), nn.Linear(45, 3)
    ).eval()  # fmt: skip


@cache
def network() -> Network:
    return capture(float_model(), X)


def quantized(**config: object) -> nn.Sequential:
    model = float_model()
    pins = {"4": LayerBits(8, None)}
    quantize(model, Policy.uniform(network(), 3, 4, pins), network(), QuantizeConfig(**config))  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize(("config", "rows"), [({"per_channel": False}, 1), ({"per_channel": True}, 4)])
def test_sites_are_the_quantizers_with_their_levels_and_values(config: dict[str, bool], rows: int) -> None:
    model = quantized(**config)
    sites = find_sites(model)
    assert [(site.name, site.levels, site.bank.bits) for site in sites] == [
        ("0 (weight)", "signed", (3,)), ("0 (input)", "signed", (4,)),
        ("2 (weight)", "signed", (3,)), ("2 (input)", "unsigned", (4,)), ("4 (weight)", "signed", (8,)),
    ]  # fmt: skip
    assert sites[0].rows is not None and torch.equal(sites[0].rows, model[0].weight.detach().view(rows, -1))  # type: ignore[operator]
    assert [site.rows is None for site in sites] == [False, True, False, True, False]
    assert find_sites(quantized(weights="midrise"))[2].levels == "midrise"


def best_step(values: Tensor, low: int, high: int, p: float) -> float:
    """Among a thousand steps, in NumPy, over all values."""
    x = values.double().numpy().ravel()
    widest = max(x.max() / high, x.min() / low if low else 0.0)
    tried = widest * np.geomspace(0.1, 1.2, 1000)
    errors = [(np.abs(np.clip(np.round(x / s), low, high) * s - x) ** p).mean() for s in tried]
    return float(tried[int(np.argmin(errors))])


@pytest.mark.parametrize("p", [2.0, 4.0])
def test_steps_are_found_on_what_the_float_network_puts_in(p: float) -> None:
    """All batches of it, none of it quantized."""
    model = quantized(per_channel=False)
    sites = {site.name: site for site in find_sites(model)}
    observe(model, list(sites.values()), IMAGES)
    inner = F.relu(float_model()[0](X)).detach()
    assert sites["2 (input)"].step(p).item() == pytest.approx(best_step(inner, 0, 15, p), rel=0.02)
    assert sites["0 (input)"].step(p).item() == pytest.approx(best_step(X, -8, 7, p), rel=0.02)
    assert sites["2 (weight)"].step(p).item() == pytest.approx(best_step(model[2].weight.detach(), -4, 3, p), rel=0.02)  # type: ignore[operator]
    assert sites["2 (input)"].step(None).item() == pytest.approx(float(inner.max()) / 15, rel=1e-3)
    assert not any(site.bank.bypass for site in sites.values())
    assert not any(bank._forward_pre_hooks for bank in (site.bank for site in sites.values()))


def test_quantizers_are_used_again_after_an_error() -> None:
    model = quantized()
    sites = find_sites(model)
    with pytest.raises(MixbitError, match=r"^0 \(input\): a tensor to be quantized holds NaN"):
        observe(model, sites, [(X * math.nan, Y)])
    assert not any(site.bank.bypass for site in sites)


def judge(correct: bool = False, **config: object) -> tuple[Judge, list[Tensor]]:
    model = quantized(per_channel=False, **config)
    sites = find_sites(model)
    steps = [torch.tensor([0.1 * (at + 1)]) for at in range(len(sites))]
    return Judge(model, sites, objective_of(), correct=correct), steps


def test_a_score_is_the_mean_over_all_images_with_the_steps_that_were_set() -> None:
    found, steps = judge()
    found.set(steps)
    assert [float(site.bank.steps.detach()) for site in found.sites] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert all(site.bank.ready.all() for site in found.sites)
    with torch.no_grad():
        outputs = found.model(X)
    score = found.score(IMAGES)  # of 8 and of 4 images
    assert score.loss == pytest.approx(float(F.cross_entropy(outputs, Y)), rel=1e-5)
    assert score.accuracy == pytest.approx(float((outputs.argmax(1) == Y).float().mean()))
    assert found.evaluations == 1


def test_the_loss_along_logarithms_is_that_of_the_multiplied_steps() -> None:
    found, steps = judge()
    logs = [0.5, -0.5, 0.2, 0.0, -0.3]
    loss = found.along(steps, IMAGES)(np.array(logs))
    other, _ = judge()
    other.set([step * math.exp(log) for step, log in zip(steps, logs, strict=True)])
    assert loss == pytest.approx(other.score(IMAGES).loss, rel=1e-6)
    assert scaled([torch.tensor([2.0, 4.0])], [math.log(3.0)])[0].tolist() == pytest.approx([6.0, 12.0])


@pytest.mark.parametrize("correct", [False, True])
def test_means_are_corrected_whenever_steps_are_set_if_that_is_asked_for(correct: bool) -> None:
    found, steps = judge(correct)
    for factor in (1.0, 2.0):
        found.set([factor * step for step in steps])
        for layer in quantized_layers(found.model).values():
            used, own = (w.detach().flatten(1).mean(dim=1) for w in (layer.quantize_weight(layer.weight), layer.weight))  # type: ignore[arg-type,union-attr]
            assert torch.allclose(used, own, atol=1e-5) == correct


def test_one_step_a_channel_is_set_as_it_is() -> None:
    bank = Quantizer([4], signed=True, channels=3)
    Judge(nn.Linear(1, 1), [Site(name="a", bank=bank, levels="signed")], objective_of(), correct=False).set(
        [torch.tensor([1.0, 2.0, 3.0])]
    )
    assert bank.steps.tolist() == [[1.0, 2.0, 3.0]]


def numbered(samples: int) -> Task:
    """Images whose pixels are their number, and a split that would flip and crop them in training."""
    pixels = torch.arange(samples, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone()
    pixels[:, :, 0, 0] = 255
    split = TensorSplit(pixels, torch.arange(samples) % 3, 3, (0.0,), (1 / 255,), pad=2, flip=True)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    return Task(model=model, train=split, test=split)


@cache
def forty() -> Task:
    return numbered(40)


def numbers(images: list[tuple[Tensor, Tensor]]) -> list[int]:
    for x, y in images:
        assert (x[:, 0, 0, 0].round() == 255).all(), "an image was moved or flipped"
        assert torch.equal(x[:, 0, 1, 1].round().long() % 3, y)
    return [int(one) for x, _ in images for one in x[:, 0, 1, 1].round()]


def test_images_are_drawn_once_each_by_the_seed_and_not_augmented() -> None:
    first, second = draw(forty(), 12, 7, batch_size=5, seed=0)
    assert [len(x) for x, _ in first] == [5, 5, 2] and [len(x) for x, _ in second] == [5, 2]
    drawn = numbers(first) + numbers(second)
    assert len(set(drawn)) == 19 and drawn != sorted(drawn)
    assert numbers(draw(forty(), 12, 7, batch_size=5, seed=0)[0]) == numbers(first)
    assert numbers(draw(forty(), 12, 7, batch_size=5, seed=1)[0]) != numbers(first)


@pytest.mark.parametrize(
    ("samples", "others", "found"), [(60, 20, (30, 10)), (512, 512, (20, 20)), (30, 10, (30, 10)), (1, 500, (1, 39))]
)
def test_where_there_are_too_few_each_gets_its_share(samples: int, others: int, found: tuple[int, int]) -> None:
    parts = draw(forty(), samples, others, batch_size=64, seed=0)
    assert tuple(len(numbers(part)) for part in parts) == found


def test_the_model_of_a_judge_is_the_one_that_was_given() -> None:
    found, steps = judge()
    before = copy.deepcopy(found.model[0].weight)
    found.set(steps)
    assert torch.equal(found.model[0].weight, before)
