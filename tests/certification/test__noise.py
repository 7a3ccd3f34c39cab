import numpy as np
import pytest
import torch
from scipy.stats import kstest

from mixbit.certification._noise import BLOCK, copies, noise


def test_numbers_are_normal_and_those_of_a_generator_of_their_own() -> None:
    found = noise(3, 11, "estimate", 5, (2, 500))
    assert kstest(found.flatten().numpy(), "norm").pvalue > 0.01
    stream = np.random.SFC64(np.random.SeedSequence([3, 2, 11, 5]))
    wanted = np.random.Generator(stream).standard_normal((BLOCK, 2, 500), dtype=np.float32)
    assert torch.equal(found, torch.from_numpy(wanted))


def test_whatever_differs_gives_other_numbers() -> None:
    base = noise(3, 11, "estimate", 5, (50,))
    others = [
        noise(4, 11, "estimate", 5, (50,)), noise(3, 12, "estimate", 5, (50,)), noise(3, 11, "estimate", 6, (50,)),
        noise(3, 11, "select", 5, (50,)), noise(3, 11, "fresh", 5, (50,)),
    ]  # fmt: skip
    for other in others:
        assert abs(float(np.corrcoef(base.flatten(), other.flatten())[0, 1])) < 0.07
    assert torch.equal(base, noise(3, 11, "estimate", 5, (50,)))


@pytest.mark.parametrize("batch", [1, 7, 64, 100, 500])
def test_copies_do_not_hang_on_the_batch(batch: int) -> None:
    x = torch.linspace(0, 1, 6).view(2, 3)
    whole = copies(x, 0.25, 1, 9, "estimate", 0, 300)
    parts = [copies(x, 0.25, 1, 9, "estimate", first, min(batch, 300 - first)) for first in range(0, 300, batch)]
    assert torch.equal(torch.cat(parts), whole) and whole.shape == (300, 2, 3)
    drawn = (whole - x) / 0.25
    assert abs(float(drawn.mean())) < 0.1 and abs(float(drawn.std()) - 1) < 0.05
