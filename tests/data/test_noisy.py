from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from mixbit import data
from mixbit.data import MixedQuality, NoisySplit, Part, TensorSplit, clean_of, hold_out
from mixbit.data.noisy import OPTIONS
from mixbit.errors import DataError
from mixbit.testing.options import OptionCases, OptionRow
from tests.data.contract import check_split

STD = (0.25, 0.5, 0.1)


def clean(count: int = 30) -> TensorSplit:
    images = torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return TensorSplit(images, torch.arange(count) % 5, 5, (0.4, 0.5, 0.6), STD)


def noise(split: NoisySplit, base: Any = None, **passed: Any) -> Tensor:
    """What was added, in the unit of pixels."""
    pairs = zip(split.batches(8, **passed), (base or split.base).batches(8, **passed), strict=True)
    return torch.cat([x - z for (x, _), (z, _) in pairs]) * torch.tensor(STD).view(1, -1, 1, 1)


def test_contract() -> None:
    check_split(NoisySplit(clean(), 0.1, STD))
    check_split(NoisySplit(hold_out(clean(40), 0.25)[0], 0.1, STD))


def test_noise_is_normal_of_sigma_in_pixels_and_not_cut() -> None:
    found = noise(NoisySplit(clean(), 0.3, STD))
    for channel in found.transpose(0, 1):
        assert kstest((channel / 0.3).flatten().numpy(), "norm").pvalue > 0.01
    pixels = torch.cat([x for x, _ in NoisySplit(clean(), 0.3, STD).batches(8)]) * torch.tensor(STD).view(1, -1, 1, 1)
    assert float(pixels.min()) < -0.8 and float(pixels.max()) > 0.8  # beyond 0 and 1, whose middle is near 0 here


def test_a_sample_has_its_own_noise_in_every_order_and_other_noise_in_every_epoch_of_training() -> None:
    split = NoisySplit(clean(), 0.3, STD)
    first, other = noise(split), NoisySplit(clean(), 0.3, STD, seed=1)
    assert torch.equal(first, noise(split, epoch=4)) and not torch.equal(first, noise(other))
    numbered = TensorSplit(clean().images, torch.arange(30), 30, (0.4, 0.5, 0.6), STD)
    order = torch.cat([y for _, y in numbered.batches(8, shuffle=True, seed=3)])
    torch.testing.assert_close(noise(split, shuffle=True, seed=3), first[order], rtol=0, atol=1e-6)
    one, two = (noise(split, augment=True, epoch=epoch) for epoch in (1, 2))
    assert not torch.allclose(one, two, atol=0.01) and not torch.allclose(one, first, atol=0.01)
    part, rest = hold_out(clean(), 0.3)
    parts = [noise(NoisySplit(one, 0.3, STD), one) for one in (part, rest)]
    rows = {tuple(row.flatten()[:4].mul(1e4).round().int().tolist()) for row in first}
    assert {tuple(row.flatten()[:4].mul(1e4).round().int().tolist()) for row in torch.cat(parts)} == rows


def test_corrupted_images_may_be_noisy_too_and_parts_of_noisy_ones_are() -> None:
    mixed = MixedQuality(clean(), ["contrast"], [5])
    found = NoisySplit(mixed, 0.3, STD)
    torch.testing.assert_close(noise(found), noise(NoisySplit(clean(), 0.3, STD)), rtol=0, atol=1e-6)
    part, _ = hold_out(NoisySplit(clean(), 0.3, STD), 0.3)
    own, _ = hold_out(clean(), 0.3)
    x, z = (torch.cat([x for x, _ in one.batches(8)]) for one in (part, own))
    assert 0.25 < float(((x - z) * torch.tensor(STD).view(1, -1, 1, 1)).std()) < 0.35


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_sigmas_that_cannot_be(sigma: float) -> None:
    with pytest.raises(DataError, match=r"legal are numbers above 0, on the scale of pixels"):
        NoisySplit(clean(), sigma, STD)


def test_a_base_without_numbers_of_its_samples() -> None:
    with pytest.raises(DataError, match="A list has no numbers of its samples"):
        NoisySplit([], 0.1, STD)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("digits?noise=x", "noise is a number above 0"),
        ("digits?noise=0", "noise=0, noise_seed=0, copies=1. Legal: noise above 0"),
        ("digits?noise=0.1&noise_seed=-1", "noise_seed=-1, copies=1. Legal"),
        ("digits?noise_seed=1", "noise_seed does not go without noise=SIGMA"),
        ("digits?noise_seed=1&copies=2", "noise_seed and copies do not go without noise=SIGMA"),
        ("digits?noise=0.1&copies=0", "copies=0. Legal: noise above 0.* 1 to 256 copies"),
        ("digits?noise=0.1&copies=257", "copies=257. Legal"),
        ("digits?noise=0.1&copies=x", "noise_seed and copies are whole numbers"),
        ("digits?nois=1", "Did you mean 'noise'"),
    ],
)
def test_specs_that_cannot_be(spec: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        data.load(spec)


def test_copies_are_whole_batches_with_noise_of_their_own() -> None:
    split, one = NoisySplit(clean(), 0.3, STD, copies=3), NoisySplit(clean(), 0.3, STD)
    passed: dict[str, Any] = {"augment": True, "shuffle": True, "seed": 5, "epoch": 2}
    for (x, y), (first, labels), (z, _) in zip(
        *(it.batches(8, **passed) for it in (split, one, split.base)), strict=True
    ):
        assert torch.equal(y, labels.repeat(3)) and torch.equal(x[: len(first)], first)
        noises = [((part - z) * torch.tensor(STD).view(1, -1, 1, 1)).flatten() for part in x.split(len(first))]
        assert abs(float(torch.corrcoef(torch.stack(noises)).fill_diagonal_(0).abs().max())) < 0.1
        assert all(0.27 < float(part.std()) < 0.33 for part in noises)
    assert torch.equal(noise(split), noise(one))  # what calibrates sees each image once
    assert len(next(split.batches(8))[0]) == 8 and len(split) == 30
    with pytest.raises(DataError, match="copies is 0; legal is 1 or more"):
        NoisySplit(clean(), 0.3, STD, copies=0)


def loaded(given: str) -> tuple[float, int]:
    found = data.load(f"digits?{given}&corrupt=contrast")
    assert isinstance(found.train, NoisySplit) and isinstance(found.test, MixedQuality)
    x, z = (next(split.batches(50))[0] for split in (found.train, data.load("digits").train))
    own = NoisySplit(data.load("digits").train, found.train.sigma, found.std, seed=found.train.seed)
    assert torch.equal(x, next(own.batches(50))[0])
    return round(float(((x - z) * torch.tensor(found.std)).std()), 2), found.train.seed


def of(first: object, second: object) -> Callable[[Any, Any], bool]:
    return lambda one, other: (one, other) == (first, second)


class TestNoiseOptions(OptionCases):
    """What `?noise=` does with every kind of data."""

    owner = "noise"
    options = OPTIONS
    rows = (
        OptionRow("noise", ("0.1", "0.5"), seen=lambda it: loaded(f"noise={it}"), holds=of((0.1, 0), (0.5, 0))),
        OptionRow("copies", ("", "&copies=2"), holds=of(50, 100),
                  seen=lambda it: len(next(data.load(f"digits?noise=0.2{it}").train.batches(50, augment=True))[0])),
        OptionRow(
            "noise_seed", ("", "&noise_seed=3"), seen=lambda it: loaded(f"noise=0.2{it}"), holds=of((0.2, 0), (0.2, 3))
        ),
    )  # fmt: skip


def test_noise_can_be_taken_off_a_split() -> None:
    base = TensorSplit(torch.arange(96, dtype=torch.uint8).view(6, 1, 4, 4), torch.arange(6), 6, [0.5], [0.5])
    noisy = NoisySplit(base, 0.25, (0.5,))
    part = Part(noisy, torch.tensor([4, 2]))
    found, sigma = clean_of(Part(part, torch.tensor([1])))
    (x, y), (wanted, _) = next(found.batches(2)), next(base.batches(6))
    assert y.tolist() == [2] and torch.equal(x, wanted[2:3]) and sigma == 0.25
    assert clean_of(noisy) == (base, 0.25) and clean_of(base) == (base, None)
    alone = Part(base, torch.tensor([1]))
    assert clean_of(alone) == (alone, None) and clean_of([1]) == ([1], None)
