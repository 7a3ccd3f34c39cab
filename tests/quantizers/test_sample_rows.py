"""A batch is taken apart and put back without a sample or a gradient in the wrong place, in the layout that it had."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mixbit.errors import MixbitError
from mixbit.quantizers import SampleRows

ROWS = {"in turns": [1, 0, 2, 1, 0], "beside each other": [0, 0, 1, 2, 2], "one alone": [3] * 5}


def test_rows_that_occur_and_how_often() -> None:
    found = SampleRows.of(torch.tensor([4, 1, 4, 0]))
    assert (found.found, found.counts) == ((0, 1, 4), (1, 1, 2)) and found.apart is not None
    assert [one.tolist() for one in found.apart] == [[3], [1], [0, 2]]
    assert SampleRows.of(torch.tensor([0, 0, 2])).apart is None, "nothing has to be moved"


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "expanded", "vector"])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_each_sample_gets_what_its_row_does_and_its_own_gradient(rows: list[int], layout: str) -> None:
    torch.manual_seed(0)
    x = {
        "contiguous": lambda: torch.randn(5, 3, 2, 4),
        "channels_last": lambda: torch.randn(5, 3, 2, 4).to(memory_format=torch.channels_last),
        "transposed": lambda: torch.randn(3, 5).t(),
        "expanded": lambda: torch.randn(1, 3).expand(5, 3),
        "vector": lambda: torch.randn(5),
    }[layout]()
    x, factors = x.detach().requires_grad_(), torch.tensor([2.0, 3.0, 5.0, 7.0])
    seen: list[int] = []

    def run(part: Tensor, row: int) -> Tensor:
        seen.append(row)
        return part * factors[row]

    y = SampleRows.of(torch.tensor(rows)).each(x, run)
    scale = factors[torch.tensor(rows)].reshape(5, *[1] * (x.dim() - 1))
    assert torch.equal(y, x * scale) and seen == sorted(set(rows))
    up = torch.randn(y.shape)
    y.backward(up)
    assert torch.equal(x.grad, up * scale)  # type: ignore[arg-type]
    if layout == "channels_last":
        assert y.is_contiguous(memory_format=torch.channels_last)


def test_results_of_another_shape() -> None:
    x = torch.arange(8.0).reshape(4, 2)
    y = SampleRows.of(torch.tensor([1, 0, 1, 0])).each(x, lambda part, row: part.sum(1) + 100 * row)
    assert y.tolist() == [101.0, 5.0, 109.0, 13.0]


@pytest.mark.parametrize(
    "rows", [torch.zeros(2, 2, dtype=torch.long), torch.tensor([0.0]), torch.tensor([-1]), torch.tensor([]).long()]
)
def test_what_are_no_rows(rows: Tensor) -> None:
    with pytest.raises(MixbitError, match=r"Legal: \(N,\) whole numbers from 0, N > 0"):
        SampleRows.of(rows)


def test_another_batch() -> None:
    with pytest.raises(MixbitError, match=r"selected for 2 samples, and a layer's input has shape \(3, 4\)"):
        SampleRows.of(torch.tensor([0, 1])).each(torch.zeros(3, 4), lambda part, _: part)
